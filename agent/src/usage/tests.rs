//! Readings of a small fake /proc.

use rung_diagnosis::observation::{TaskObservation, TaskState};

use super::*;
use crate::fake_tree::FakeTree;

const LIMITS: &str = "Max open files            1024                 4096                 files     \n";
const MOUNTS: &str = "\
37 31 0:34 / /cg/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /cg/unified rw,relatime - cgroup2 cgroup2 rw
";

fn process(tree: &FakeTree, pid: u32, resident_pages: u64) {
    tree.file(
        &format!("proc/{pid}/statm"),
        format!("5000 {resident_pages} 100 1 0 4000 0\n"),
    );
    tree.file(&format!("proc/{pid}/limits"), LIMITS);
    tree.file(&format!("proc/{pid}/cgroup"), "4:memory:/box/inner\n0::/\n");
    tree.file(&format!("proc/{pid}/fd/0"), "");
}

fn picture(pids: &[u32], run_ns: u64) -> Picture {
    let task = |pid: &u32| TaskObservation {
        tid: *pid,
        tgid: *pid,
        threads: 1,
        start_ns: 5,
        run_ns,
        state: TaskState::Sleeping,
        ..TaskObservation::default()
    };
    Picture {
        tasks: pids.iter().map(task).collect(),
        ..Picture::default()
    }
}

fn usage(tree: &FakeTree) -> Usage {
    tree.file("proc/self/mountinfo", MOUNTS);
    tree.file("proc/self/fd/0", "");
    Usage::new(&tree.path("proc"), tree.root(), &tree.path("kmsg"))
}

/// A reading whenever one is asked for.
fn read(usage: &mut Usage, picture: &Picture) -> UsageObservation {
    usage.read(picture, true).unwrap()
}

#[test]
fn only_who_ran_is_read_again() {
    let tree = FakeTree::new("usage");
    let mut usage = usage(&tree);
    process(&tree, 7, 1100);
    process(&tree, 8, 1100);
    let page = rustix::param::page_size() as u64;
    let first = read(&mut usage, &picture(&[7, 8, 9], 1));
    assert_eq!(first.processes.len(), 2, "9 is gone");
    assert!(
        first
            .processes
            .iter()
            .all(|one| one.anonymous_bytes == 1000 * page)
    );
    process(&tree, 7, 9100);
    process(&tree, 8, 9100);
    let mut second = picture(&[7, 8], 1);
    second.tasks[1].run_ns = 2;
    let mut second = read(&mut usage, &second).processes;
    second.sort_unstable_by_key(|one| one.pid);
    assert_eq!(second[0].anonymous_bytes, 1000 * page, "it did not run");
    assert_eq!(second[1].anonymous_bytes, 9000 * page);
    assert_eq!(second[1].data_bytes, 4000 * page);
}

#[test]
fn limits_come_with_the_groups_above_that_have_one() {
    let tree = FakeTree::new("usage-groups");
    let mut usage = usage(&tree);
    process(&tree, 7, 1100);
    tree.file("cg/memory/box/memory.limit_in_bytes", "524288000\n");
    tree.file("cg/memory/box/memory.usage_in_bytes", "300000000\n");
    tree.file("cg/memory/box/memory.failcnt", "3\n");
    tree.file(
        "cg/memory/box/memory.stat",
        "inactive_file 1\ntotal_inactive_file 500\ntotal_active_file 70\n",
    );
    tree.file(
        "cg/memory/box/memory.oom_control",
        "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    );
    tree.file(
        "cg/memory/box/inner/memory.limit_in_bytes",
        "9223372036854771712\n",
    );
    tree.file("cg/memory/box/inner/memory.usage_in_bytes", "1\n");
    let picture = picture(&[7], 1);
    let read = read(&mut usage, &picture);
    let [limits] = read.limits.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!((limits.descriptors, limits.virtual_bytes), (Some(1024), None));
    assert_eq!(limits.memory_group, "/box/inner");
    let [group] = read.groups.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!(
        (group.path.as_str(), group.limit_bytes),
        ("/box", Some(524_288_000))
    );
    assert_eq!((group.used_bytes, group.reclaimable_bytes), (300_000_000, 570));
    assert_eq!((group.kills, group.limit_hits), (2, 3));
    // Its only process was killed: that is to be seen all the same.
    tree.file("cg/memory/box/memory.oom_control", "oom_kill 3\n");
    let after = usage.read(&Picture::default(), true).unwrap();
    assert_eq!((after.limits.len(), after.groups[0].kills), (0, 3));
}

#[test]
fn version_2_says_max_for_no_limit() {
    let tree = FakeTree::new("usage-v2");
    let mut usage = Usage::new(&tree.path("proc"), tree.root(), &tree.path("kmsg"));
    tree.file(
        "proc/self/mountinfo",
        "41 31 0:38 / /cg rw,relatime - cgroup2 cgroup2 rw\n",
    );
    tree.file("cg/cgroup.controllers", "cpu memory pids\n");
    process(&tree, 7, 1100);
    tree.file("proc/7/cgroup", "0::/box/inner/../../etc\n");
    process(&tree, 8, 1100);
    tree.file("proc/8/cgroup", "0::/box\n");
    tree.file("cg/box/memory.max", "max\n");
    tree.file("cg/box/memory.high", "1000000\n");
    tree.file("cg/box/memory.current", "900000\n");
    tree.file(
        "cg/box/memory.stat",
        "anon 1\ninactive_file 500\nactive_file 70\n",
    );
    tree.file(
        "cg/box/memory.events",
        "low 0\nhigh 4\nmax 9\noom 1\noom_kill 1\n",
    );
    let read = read(&mut usage, &picture(&[7, 8], 1));
    let [group] = read.groups.as_slice() else {
        panic!("{read:?}")
    };
    assert_eq!((group.limit_bytes, group.high_bytes), (None, Some(1_000_000)));
    assert_eq!(
        (group.reclaimable_bytes, group.kills, group.limit_hits),
        (570, 1, 9)
    );
}

#[test]
fn what_is_missing_is_declared() {
    let mut usage = Usage::new(
        Path::new("/nonexistent"),
        Path::new("/"),
        Path::new("/nonexistent"),
    );
    let mut picture = Picture::default();
    usage.add_to(&mut picture);
    assert!(picture.usage.is_none());
    assert!(!picture.sight.sees(Signal::MemoryUse));
    let tree = FakeTree::new("usage-empty");
    let mut usage = Usage::new(&tree.path("."), tree.root(), &tree.path("kmsg"));
    usage.add_to(&mut picture);
    assert!(picture.sight.sees(Signal::MemoryUse) && !picture.sight.sees(Signal::OomLog));
    assert!(matches!(
        picture.sight.view(Signal::UsageLimits),
        Some(View::Partial { .. })
    ));
}

#[test]
fn the_live_host_tells_of_this_process() {
    let me = std::process::id();
    let mut usage = Usage::new(Path::new("/proc"), Path::new("/"), Path::new("/dev/kmsg"));
    let mut picture = picture(&[me], 1);
    usage.add_to(&mut picture);
    let read = picture.usage.take().unwrap();
    assert!(read.processes[0].anonymous_bytes > 100_000);
    assert!(read.host.memory_bytes >= read.host.available_bytes && read.host.available_bytes > 0);
    usage.add_to(&mut picture);
    assert!(picture.usage.is_none(), "not due yet");
}

#[test]
fn between_pictures_those_are_read_that_ran_before() {
    let tree = FakeTree::new("usage-between");
    let mut usage = usage(&tree);
    let page = rustix::param::page_size() as u64;
    let memory = |reading: &UsageObservation, pid| {
        let one = reading.processes.iter().find(|one| one.pid == pid);
        one.unwrap().anonymous_bytes / page
    };
    process(&tree, 7, 1100);
    process(&tree, 8, 1100);
    let mut first = picture(&[7, 8], 1);
    read(&mut usage, &first);
    first.tasks[0].run_ns = 2;
    read(&mut usage, &first);
    process(&tree, 7, 2100);
    process(&tree, 8, 2100);
    let reading = usage.read(&first, false).unwrap();
    assert_eq!((memory(&reading, 7), memory(&reading, 8)), (2000, 1000));
}

/// Prints what a reading of this host costs (`--release`, `--nocapture`; on 5,000 processes: `tests/programs/many.c`).
#[test]
fn a_reading_of_this_host_ends_soon() {
    let mut source = crate::procfs::ProcfsSource::new("/proc".into());
    let mut usage = Usage::new(Path::new("/proc"), Path::new("/"), Path::new("/dev/kmsg"));
    let picture = source.picture().unwrap();
    for reading in 1..=6 {
        // Pictures in which every tenth process runs, and at last the same one again.
        let mut picture = picture.clone();
        let tenth = |task: &&mut TaskObservation| task.tgid.is_multiple_of(10);
        if reading < 6 {
            picture
                .tasks
                .iter_mut()
                .filter(tenth)
                .for_each(|task| task.run_ns += reading);
        }
        let began = Instant::now();
        let read = usage.read(&picture, true).unwrap();
        let took = began.elapsed();
        assert!(
            !read.processes.is_empty() && took < Duration::from_secs(2),
            "{took:?}"
        );
        println!(
            "reading {reading}: {:.1} ms, {} of {} processes, {} limits, {:?}",
            took.as_secs_f64() * 1e3,
            read.processes.len(),
            usage.processes.there(),
            read.limits.len(),
            usage.views.first(),
        );
    }
}
