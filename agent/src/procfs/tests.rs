//! Pictures of a small fake tree, and of the live host with the procfs crate as the oracle.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rung_diagnosis::observation::{FdObject, Signal, Source, TaskState, View, WaitFor, Watch};

use super::*;
use crate::fake_tree::FakeTree;
use crate::networks::Networks;

fn live() -> Picture {
    ProcfsSource::new("/proc".into()).picture().unwrap()
}

fn task(picture: &Picture, tid: u32) -> &TaskObservation {
    picture.tasks.iter().find(|task| task.tid == tid).unwrap()
}

/// A child that is killed and reaped when the test ends.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> Reaped {
    Reaped(command.spawn().unwrap())
}

/// Takes pictures until one fulfils the condition.
fn eventually(mut condition: impl FnMut(&Picture) -> bool) -> Picture {
    for _ in 0..100 {
        let picture = live();
        if condition(&picture) {
            return picture;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the host never came to the state that the test waits for");
}

const STATUS: &str = "Name:\tx\nTgid:\t7\nTracerPid:\t0\nNStgid:\t7\t1\nNSpid:\t7\t1\nSigIgn:\t0000000000000001\n\
    SigCgt:\t0000000000000002\n";

fn stat(pid: u32, comm: &str, state: char, threads: u32) -> String {
    format!("{pid} ({comm}) {state} 1 {pid} {pid} 34816 {pid} 0 0 0 0 0 1 2 0 0 20 0 {threads} 0 500 0 0")
}

fn fake() -> FakeTree {
    let tree = FakeTree::new("procfs");
    tree.file("stat", "cpu0 0 0 0 0 0 0 0 0\nprocesses 4711\n");
    tree.file("7/stat", stat(7, "a) R 1 (", 'S', 2));
    tree.file("7/status", STATUS);
    for tid in [7, 8] {
        tree.file(&format!("7/task/{tid}/stat"), stat(tid, "a) R 1 (", 'S', 2));
        tree.file(&format!("7/task/{tid}/status"), STATUS);
        tree.file(&format!("7/task/{tid}/schedstat"), "1000 2000 3");
        let sched = "se.exec_start : 5.000000\nnr_voluntary_switches : 8\nnr_involuntary_switches : 9\n";
        tree.file(&format!("7/task/{tid}/sched"), sched);
    }
    tree.file(
        "7/task/7/syscall",
        "61 0xffffffff 0x0 0x2 0x0 0x0 0x0 0x7ffe00000000 0x7f0000000000\n",
    );
    tree.file("7/task/8/syscall", "running\n");
    tree.link("7/fd/0", "/dev/null");
    tree.link("7/fd/1", "/dev/pts/3");
    tree.link("7/fd/3", "pipe:[77]");
    tree.link("7/fd/4", "anon_inode:[eventpoll]");
    tree.link("7/fd/5", "socket:[99]");
    tree.link("7/fd/6", "anon_inode:[eventfd]");
    tree.link("7/fd/7", "/no/such/file");
    tree.file("7/fdinfo/3", "pos:\t0\nflags:\t02000001\n");
    tree.file("7/fdinfo/4", "pos:\t0\nflags:\t02\ntfd:  3 events: 4 data: 3\n");
    tree
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_fake_tree() {
    let tree = fake();
    let mut source = ProcfsSource::new(tree.root().to_owned());
    let picture = source.picture().unwrap();
    assert_eq!(source.fork_total().unwrap(), 4711);
    assert_eq!(picture.torn_rows, 0);
    let [leader, other] = picture.tasks.as_slice() else {
        panic!("{:?}", picture.tasks)
    };
    assert_eq!(leader.comm.as_bytes(), b"a) R 1 (");
    assert_eq!((leader.tid, leader.tgid, other.tid, other.tgid), (7, 7, 8, 7));
    assert_eq!((leader.parent, leader.has_terminal, leader.threads), (1, true, 2));
    assert_eq!((leader.ns_tid, leader.ns_tgid, leader.pid_ns_level), (1, 1, 1));
    assert_eq!(
        (leader.run_ns, leader.run_delay_ns, leader.voluntary_switches),
        (1000, 2000, 8)
    );
    assert!(leader.signals.unwrap().ignores_hangup());
    assert_eq!(leader.start_ns, 5_000_000_000);
    let call = leader.call.as_ref().unwrap();
    let wanted = Call::WaitChild {
        which: WaitFor::Any,
        or_stopped: true,
    };
    assert_eq!((&call.call, call.timed), (&wanted, false));
    assert!(other.call.is_none() && other.moved && !leader.moved);
    let objects: BTreeMap<i32, _> = picture.descriptors.iter().map(|row| (row.fd, row)).collect();
    assert_eq!(objects.len(), 5);
    assert_eq!(
        (leader.null_streams, &objects[&1].object),
        (1, &FdObject::Terminal)
    );
    assert!(matches!(objects[&3].object, FdObject::Pipe(id) if id.inode == 77));
    assert!(!objects[&3].readable && objects[&3].writable && objects[&3].close_on_exec);
    let watched = vec![Watch {
        fd: 3,
        read: false,
        write: true,
    }];
    let epoll = FdObject::Epoll {
        watched,
        incomplete: false,
    };
    assert_eq!(objects[&4].object, epoll);
    assert_eq!(
        (&objects[&5].object, &objects[&6].object),
        (&FdObject::OtherSocket, &FdObject::Other)
    );
    assert_eq!(picture.pipes.len(), 1);
    // Nothing of a tree that is not the live /proc goes to a system call.
    assert!(matches!(
        picture.sight.view(Signal::FutexWords),
        Some(View::Blind { .. })
    ));
    assert!(!picture.sight.sees(Signal::UnixSockets));
}

#[test]
fn half_rows_are_dropped_and_counted() {
    let tree = fake();
    std::fs::remove_file(tree.path("7/task/8/sched")).unwrap();
    tree.file("9/stat", "9 (whole) S");
    tree.file("10/stat", stat(10, "no status", 'S', 1));
    std::fs::create_dir(tree.path("11")).unwrap();
    let picture = ProcfsSource::new(tree.root().to_owned()).picture().unwrap();
    assert_eq!(picture.tasks.len(), 1);
    assert_eq!(picture.torn_rows, 3);
}

#[test]
fn a_root_that_is_not_there() {
    let mut source = ProcfsSource::new("/nonexistent".into());
    assert!(source.picture().unwrap_err().to_string().contains("/nonexistent"));
    assert!(source.fork_total().is_err());
}

#[test]
fn agrees_with_the_procfs_crate_on_a_child() {
    let child = spawn(Command::new("sleep").arg("300").stdin(Stdio::piped()));
    let pid = child.0.id();
    let picture = eventually(|picture| {
        let child = task(picture, pid);
        child.call.is_some() && child.comm.as_bytes() == b"sleep"
    });
    let seen = task(&picture, pid);
    let oracle = ::procfs::process::Process::new(pid.cast_signed()).unwrap();
    let stat = oracle.stat().unwrap();
    assert_eq!(seen.parent, stat.ppid.cast_unsigned());
    assert_eq!(seen.parent, std::process::id());
    assert_eq!(
        (seen.pgid, seen.sid),
        (stat.pgrp.cast_unsigned(), stat.session.cast_unsigned())
    );
    assert_eq!(seen.start_ns, stat.starttime * 10_000_000);
    assert_eq!(seen.state, TaskState::Sleeping);
    let call = seen.call.as_ref().unwrap();
    assert_eq!((&call.call, call.timed), (&Call::Sleep, true));
    let tids: Vec<u32> = picture
        .tasks
        .iter()
        .filter(|task| task.tgid == std::process::id())
        .map(|task| task.tid)
        .collect();
    assert!(tids.contains(&rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()));
    let stdin = picture
        .descriptors
        .iter()
        .find(|row| row.tid == pid && row.fd == 0)
        .unwrap();
    assert!(matches!(stdin.object, FdObject::Pipe(_)) && stdin.readable && !stdin.writable);
    let writers = picture
        .descriptors
        .iter()
        .filter(|row| row.object == stdin.object && row.writable);
    assert!(
        writers
            .into_iter()
            .any(|row| row.tid == std::process::id() && row.close_on_exec)
    );
}

#[test]
fn every_process_of_the_host_is_there() {
    let before = ::procfs::process::all_processes().unwrap().flatten();
    let before: Vec<_> = before.map(|process| process.pid.cast_unsigned()).collect();
    let picture = live();
    for pid in before {
        let still = ::procfs::process::Process::new(pid.cast_signed()).and_then(|process| process.stat());
        if let Ok(stat) = still
            .map_err(drop)
            .and_then(|stat| if stat.pid > 0 { Ok(stat) } else { Err(()) })
        {
            let seen = task(&picture, pid);
            assert_eq!((seen.tgid, seen.parent), (pid, stat.ppid.cast_unsigned()));
        }
    }
    assert!(picture.tasks.iter().any(|task| task.kernel_thread));
    assert!(picture.sight.sees(Signal::UnixSockets));
}

#[test]
fn a_stopped_child_and_a_zombie_with_their_ages() {
    let stopped = spawn(Command::new("sleep").arg("300"));
    let zombie = spawn(&mut Command::new("true"));
    let pid = rustix::process::Pid::from_raw(stopped.0.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let picture = eventually(|picture| {
        task(picture, zombie.0.id()).state == TaskState::Zombie
            && task(picture, stopped.0.id()).state == TaskState::Stopped
    });
    let dead = task(&picture, zombie.0.id());
    assert_eq!(
        (dead.call.as_ref(), dead.address_space, dead.exit_code),
        (None, 0, 0)
    );
    assert!(!picture.descriptors.iter().any(|row| row.tid == dead.tid));
    std::thread::sleep(Duration::from_millis(1000));
    let picture = live();
    if picture.sight.sees(Signal::OffCpuAge) {
        for pid in [zombie.0.id(), stopped.0.id()] {
            let since = task(&picture, pid).off_cpu_since_ns.unwrap();
            let age_ms = picture.began_ns.saturating_sub(since) / 1_000_000;
            assert!((850..5_000).contains(&age_ms), "{pid} is {age_ms} ms off the CPU");
        }
    }
}

#[test]
fn names_of_any_bytes() {
    let script = "import ctypes,time\nctypes.CDLL(None).prctl(15, NAME, 0, 0, 0)\ntime.sleep(300)";
    for (text, wanted) in [
        ("b'a) R 1 ('", &b"a) R 1 ("[..]),
        ("b'\\xff\\n\\xfe'", b"\xff\n\xfe"),
    ] {
        let child = Command::new("python3")
            .arg("-c")
            .arg(script.replace("NAME", text))
            .spawn();
        let Ok(child) = child.map(Reaped) else {
            println!("skipped: no python3 to rename itself");
            return;
        };
        let picture = eventually(|picture| task(picture, child.0.id()).comm.as_bytes() == wanted);
        assert_eq!(task(&picture, child.0.id()).parent, std::process::id());
    }
}

#[test]
fn a_thread_that_waits_for_a_futex_has_its_words_read() {
    let lock = std::sync::Arc::new(std::sync::Mutex::new(()));
    let held = lock.lock().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn({
        let lock = lock.clone();
        move || {
            send.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned())
                .unwrap();
            drop(lock.lock().unwrap());
        }
    });
    let tid = receive.recv().unwrap();
    let picture = eventually(|picture| task(picture, tid).call.is_some());
    drop(held);
    waiter.join().unwrap();
    let call = task(&picture, tid).call.clone().unwrap();
    let Call::Futex(futex) = call.call else {
        panic!("{call:?}")
    };
    assert!(futex.private && !call.timed);
    // 2: locked, with waiters (std's futex mutex).
    assert_eq!(futex.words.unwrap().0[0], 2);
}

#[test]
fn processes_that_vanish_are_no_error() {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = Command::new("true").status();
                }
            });
        }
        let mut source = ProcfsSource::new("/proc".into());
        for _ in 0..60 {
            let picture = source.picture().unwrap();
            assert!(picture.tasks.iter().any(|task| task.tid == std::process::id()));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// The test binary runs itself as a plain user; needs root to change the user.
#[test]
fn a_plain_user_sees_own_processes_and_says_what_not() {
    const CHILD: &str = "RUNG_TEST_AS_PLAIN_USER";
    if std::env::var_os(CHILD).is_some() {
        let child = spawn(Command::new("sleep").arg("300"));
        let picture = eventually(|picture| task(picture, child.0.id()).call.is_some());
        assert_eq!(picture.sight.source, Source::ProcfsOwn);
        for signal in [Signal::SystemCalls, Signal::Descriptors, Signal::FutexWords] {
            let Some(View::Partial { why, remedy }) = picture.sight.view(signal) else {
                panic!("{signal:?}: {:?}", picture.sight.view(signal))
            };
            assert!(
                why.contains("not readable") && remedy.contains("root"),
                "{why} {remedy}"
            );
        }
        assert!(picture.sight.sees(Signal::UnixSockets) && picture.sight.sees(Signal::OffCpuAge));
        assert!(picture.sight.sees(Signal::TcpFigures));
        let mut with_networks = picture;
        Networks::new("/proc".into(), true)
            .read(&with_networks)
            .add_to(&mut with_networks);
        assert!(!with_networks.networks.is_empty());
        for signal in [Signal::NetworkCounters, Signal::OwnerlessSockets] {
            let view = with_networks.sight.view(signal);
            assert!(
                matches!(view, Some(View::Partial { why, remedy })
                    if why.contains("not readable") && remedy.contains("root")),
                "{view:?}"
            );
        }
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    // Another user may not be let into the target directory: a copy in the temporary one serves.
    let copy = FakeTree::new("plain-user");
    std::fs::copy(std::env::current_exe().unwrap(), copy.path("test")).unwrap();
    let status = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(copy.path("test"))
        .args([
            "--exact",
            "procfs::tests::a_plain_user_sees_own_processes_and_says_what_not",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .status();
    match status {
        Ok(status) => assert!(status.success()),
        Err(error) => println!("skipped: setpriv cannot be run: {error}"),
    }
}
