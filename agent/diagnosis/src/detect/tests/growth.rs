//! What grows: threads, descriptors, memory; and the kill at the end.

use crate::detect::fixture::Scene;
use crate::detect::{Draft, Party};
use crate::finding::{Confidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{
    Comm, MemoryGroupObservation, OomKillObservation, PidsLimitObservation, Signal, View,
};

/// Six readings, one a second, of a process that has these many threads and descriptors.
fn watch(figures: impl Fn(u32) -> (u32, u32), with: impl Fn(&mut Scene)) -> Scene {
    let mut scene = Scene::new();
    scene.process(7, "grower");
    for second in 0..6 {
        let (threads, descriptors) = figures(second);
        scene
            .picture
            .tasks
            .iter_mut()
            .find(|task| task.tid == 7)
            .unwrap()
            .threads = threads;
        scene.uses(7, 0, descriptors);
        with(&mut scene);
        if second < 5 {
            scene.pass(1.0);
        }
    }
    scene
}

fn one(drafts: Vec<Draft>) -> Draft {
    let [draft] = <[Draft; 1]>::try_from(drafts).unwrap();
    draft
}

fn figure(draft: &Draft, signal: &str) -> f64 {
    let fact = draft.evidence.iter().find(|fact| fact.signal == signal).unwrap();
    fact.value.to_string().parse().unwrap()
}

#[test]
fn threads_that_never_end_are_a_leak() {
    let mut scene = watch(|second| (10 + 3 * second, 0), |_| {});
    let draft = one(scene.drafts(Mode::ThreadLeak));
    assert_eq!((draft.subject.pid, draft.severity), (7, Severity::Warning));
    assert_eq!(draft.confidence, Confidence::Likely);
    assert_eq!(figure(&draft, "growth_rate"), 3.0);
    assert!(
        draft.summary.contains("25 now, 3.0 more a second"),
        "{}",
        draft.summary
    );
}

#[test]
fn few_threads_and_pools_that_are_complete_are_none() {
    let mut few = watch(|second| (10 + second, 0), |_| {});
    assert!(few.drafts(Mode::ThreadLeak).is_empty());
    let mut pool = watch(|second| (10 + 20 * second.min(3), 0), |_| {});
    assert!(pool.drafts(Mode::ThreadLeak).is_empty());
    let mut busy = watch(|second| (10 + 30 * (second % 2), 0), |_| {});
    assert!(busy.drafts(Mode::ThreadLeak).is_empty());
}

#[test]
fn a_short_window_shows_no_growth() {
    let mut scene = Scene::new();
    scene.process(7, "grower");
    for second in 0..4 {
        scene.uses(7, 0, 10 + 50 * second);
        if second < 3 {
            scene.pass(1.0);
        }
    }
    assert!(scene.drafts(Mode::FdLeak).is_empty());
}

#[test]
fn a_limit_on_tasks_says_when_no_thread_can_be_made() {
    let limit = |path: &str, max| PidsLimitObservation {
        path: path.into(),
        current: 60,
        max,
        refused: 0,
        members: Vec::new(),
    };
    let mut scene = watch(
        |second| (10 + 10 * second, 0),
        |scene| {
            scene.limits(7, 1024, "/box/inner");
            scene.picture.pids_limits = vec![limit("/bo", 61), limit("/box", 100), limit("/box/inner/x", 61)];
        },
    );
    let draft = one(scene.drafts(Mode::ThreadLeak));
    assert_eq!(figure(&draft, "time_to_exhaustion"), 4.0);
    assert_eq!(draft.severity, Severity::Critical);
    assert!(draft.summary.contains("pids.max of /box is"), "{}", draft.summary);
}

#[test]
fn a_young_process_may_be_warming_up() {
    let young = |scene: &mut Scene| scene.picture.tasks[0].start_ns = 995_000_000_000;
    let mut scene = Scene::new();
    scene.process(7, "grower");
    young(&mut scene);
    for second in 0..6 {
        scene.uses(7, 0, 10 + 20 * second);
        if second < 5 {
            scene.pass(1.0);
        }
    }
    assert_eq!(one(scene.drafts(Mode::FdLeak)).confidence, Confidence::Suspected);
}

#[test]
fn descriptors_that_are_never_closed_are_a_leak_of_their_kind() {
    let mut scene = watch(
        |second| (1, 100 + 20 * second),
        |scene| {
            scene.limits(7, 400, "/");
            for more in 0..15 {
                let fd = scene.picture.descriptors.len() as i32 + more;
                scene.connection(7, fd, "10.0.0.1:40000", "10.0.0.2:80");
            }
        },
    );
    let draft = one(scene.drafts(Mode::FdLeak));
    assert_eq!(figure(&draft, "growth_rate"), 20.0);
    assert_eq!(figure(&draft, "growth_tcp_and_udp_sockets"), 75.0);
    assert_eq!(figure(&draft, "growth_files_and_others"), 25.0);
    assert_eq!(figure(&draft, "time_to_exhaustion"), 10.0);
    assert_eq!(draft.severity, Severity::Critical);
    assert!(
        draft
            .summary
            .contains("most of them TCP and UDP sockets; its limit of 400")
    );
}

#[test]
fn descriptors_that_are_clients_follow_the_load() {
    let mut scene = watch(
        |second| (1, 100 + 20 * second),
        |scene| {
            if scene.picture.inet_sockets.is_empty() {
                scene.listener(7, 3, "10.0.0.1:80", 128);
            }
            for more in 0..20 {
                let fd = scene.picture.descriptors.len() as i32 + 10 + more;
                scene.connection(7, fd, "10.0.0.1:80", "10.0.0.2:40000");
            }
        },
    );
    assert!(scene.drafts(Mode::FdLeak).is_empty());
}

#[test]
fn nearly_all_descriptors_in_use_is_said_at_once() {
    let full = |count: u32, limit: u64| {
        let mut scene = Scene::new();
        scene.process(7, "full");
        scene.uses(7, 0, count);
        scene.limits(7, limit, "/");
        scene.drafts(Mode::FdLeak)
    };
    assert!(full(972, 1024).is_empty());
    let near = one(full(973, 1024));
    assert_eq!(
        (near.severity, near.confidence),
        (Severity::Warning, Confidence::Proven)
    );
    assert_eq!(one(full(1024, 1024)).severity, Severity::Critical);
    // A sandbox lowers its limit so that nothing more can be opened.
    assert!(full(7, 1).is_empty() && full(2000, 1024).is_empty());
}

const MIB: u64 = 1 << 20;

/// Six readings of a process in the control group /box, whose limit is 500 MiB; the group uses what the process uses, and
/// `cached` MiB of page cache.
fn in_box(used: impl Fn(u64) -> u64, cached: u64) -> Scene {
    let mut scene = Scene::new();
    scene.process(7, "grower");
    for second in 0..6 {
        let bytes = used(second) * MIB;
        scene.uses(7, bytes, 5);
        scene.limits(7, 1024, "/box/inner");
        let at_ns = scene.now_ns();
        let reading = scene.reading(at_ns);
        reading.host.memory_bytes = 64 << 30;
        reading.host.available_bytes = 50 << 30;
        reading.groups = vec![MemoryGroupObservation {
            path: "/box".into(),
            used_bytes: bytes + cached * MIB,
            reclaimable_bytes: cached * MIB,
            limit_bytes: Some(500 * MIB),
            ..MemoryGroupObservation::default()
        }];
        if second < 5 {
            scene.pass(1.0);
        }
    }
    scene
}

#[test]
fn memory_that_grows_towards_a_limit_says_when_it_gets_there() {
    let mut scene = in_box(|second| 150 + 20 * second, 200);
    let draft = one(scene.drafts(Mode::MemoryGrowth));
    assert_eq!((draft.subject.pid, draft.severity), (7, Severity::Critical));
    assert_eq!(figure(&draft, "time_to_exhaustion"), 12.5);
    assert_eq!(figure(&draft, "growth_rate"), 20.0 * MIB as f64);
    assert!(
        draft
            .summary
            .contains("grows by 20.0 MiB a second: the limit of control group /box (500.0 MiB)"),
        "{}",
        draft.summary
    );
}

#[test]
fn memory_that_does_not_grow_towards_a_limit_is_silent() {
    // 4 MiB a second are 20 MiB in the window: 4% of the limit.
    assert!(
        in_box(|second| 150 + 4 * second, 0)
            .drafts(Mode::MemoryGrowth)
            .is_empty()
    );
    // A heap at its cap, a step, and one that is full and stays so.
    assert!(
        in_box(|second| 150 + 60 * second.min(3), 0)
            .drafts(Mode::MemoryGrowth)
            .is_empty()
    );
    assert!(
        in_box(|second| 150 + 200 * (second / 3), 0)
            .drafts(Mode::MemoryGrowth)
            .is_empty()
    );
    assert!(in_box(|_| 499, 0).drafts(Mode::MemoryGrowth).is_empty());
}

#[test]
fn an_rlimit_may_be_nearer_than_the_group() {
    let mut scene = in_box(|second| 150 + 20 * second, 0);
    let at_ns = scene.now_ns();
    let reading = scene.reading(at_ns);
    reading.limits[0].virtual_bytes = Some(400 * MIB);
    reading.processes[0].virtual_bytes = 300 * MIB;
    let draft = one(scene.drafts(Mode::MemoryGrowth));
    assert_eq!(figure(&draft, "time_to_exhaustion"), 5.0);
    assert!(draft.summary.contains("RLIMIT_AS"));
}

/// A box in which a fat process is killed after five seconds while another one grew.
fn killed(log: bool) -> Scene {
    let mut scene = Scene::new();
    scene.process(7, "grower");
    scene.process(8, "fat");
    scene.process(9, "elsewhere");
    for second in 0..6 {
        if second == 5 {
            scene.picture.tasks.retain(|task| task.tid != 8);
        } else {
            scene.uses(8, 200 * MIB, 5);
            scene.limits(8, 1024, "/box");
        }
        scene.uses(7, (10 + 50 * second) * MIB, 5);
        scene.limits(7, 1024, "/box/inner");
        scene.uses(9, (10 + 90 * second) * MIB, 5);
        scene.limits(9, 1024, "/other");
        let at_ns = scene.now_ns();
        let reading = scene.reading(at_ns);
        reading.groups = vec![MemoryGroupObservation {
            path: "/box".into(),
            limit_bytes: Some(420 * MIB),
            kills: 3 + second / 5,
            ..MemoryGroupObservation::default()
        }];
        reading.host.kills = Some(10 + second / 5);
        if log && second == 5 {
            reading.kills = vec![OomKillObservation {
                at_ns: at_ns - 500_000_000,
                victim: 8,
                comm: Comm::from_bytes(b"fat"),
                group: Some("/box".into()),
                constraint: "CONSTRAINT_MEMCG".into(),
                invoker: Comm::from_bytes(b"client"),
                anonymous_bytes: 200 * MIB,
            }];
        }
        if second < 5 {
            scene.pass(1.0);
        }
    }
    if !log {
        let view = View::Blind {
            why: "no log".into(),
            remedy: "a log".into(),
        };
        scene.picture.sight.set(Signal::OomLog, view);
    }
    scene
}

#[test]
fn the_culprit_of_a_kill_is_who_grew_in_the_domain_not_the_victim() {
    let draft = one(killed(true).drafts(Mode::OomKill));
    assert_eq!((draft.subject.pid, draft.confidence), (7, Confidence::Likely));
    assert_eq!(draft.others, [(Role::Victim, Party::process(8))]);
    assert_eq!(draft.since_ns, Some(1_004_500_000_000));
    assert_eq!(
        draft.summary,
        "the kernel killed fat (8) for want of memory: control group /box was at its limit of 420.0 MiB; grower (7) grew by \
         250.0 MiB in 5 s"
    );
}

#[test]
fn without_a_log_the_victim_is_inferred_and_that_is_said() {
    let mut scene = killed(false);
    let draft = one(scene.drafts(Mode::OomKill));
    assert_eq!((draft.subject.pid, draft.confidence), (7, Confidence::Suspected));
    assert_eq!(draft.others, [(Role::Victim, Party::process(8))]);
    assert!(
        draft.summary.contains("killed 1, probably fat (8), for want"),
        "{}",
        draft.summary
    );
    let report = scene.report();
    let entry = report.coverage.iter().find(|entry| entry.mode == Mode::OomKill);
    assert!(
        entry
            .unwrap()
            .why
            .as_ref()
            .unwrap()
            .contains("1 process was killed")
    );
    let finding = report
        .findings
        .iter()
        .find(|finding| finding.mode == Mode::OomKill)
        .unwrap();
    assert_eq!(finding.others[0].party.comm, "fat");
}

#[test]
fn old_kills_and_processes_that_just_end_are_silent() {
    let mut old = killed(true);
    let at_ns = old.now_ns();
    old.reading(at_ns).kills[0].at_ns = at_ns - 301_000_000_000;
    assert!(old.drafts(Mode::OomKill).is_empty());
    let mut ended = killed(true);
    let at_ns = ended.now_ns();
    ended.reading(at_ns).kills.clear();
    assert!(ended.drafts(Mode::OomKill).is_empty());
}
