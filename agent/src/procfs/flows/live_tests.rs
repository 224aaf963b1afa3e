//! Connections of a network namespace of the test's own, in which nobody else connects.

use std::process::{Command, Stdio};
use std::time::Duration;

use rung_diagnosis::observation::{FlowObservation, Signal, View};

use crate::fake_tree::FakeTree;
use crate::procfs::ProcfsSource;

/// The test binary runs itself in the namespace; needs root to make it.
#[test]
fn connections_are_told_from_picture_to_picture() {
    const CHILD: &str = "RUNG_TEST_IN_NETWORK";
    if std::env::var_os(CHILD).is_some() {
        follow();
        return;
    }
    let probe = Command::new("unshare")
        .args(["--net", "ip", "link", "set", "lo", "up"])
        .stderr(Stdio::null())
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        println!(
            "skipped: a network namespace cannot be made; it takes root, unshare (util-linux) and ip (iproute2)"
        );
        return;
    }
    let copy = FakeTree::new("in-network");
    std::fs::copy(std::env::current_exe().unwrap(), copy.path("test")).unwrap();
    let status = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"])
        .arg(copy.path("test"))
        .args([
            "--exact",
            "procfs::flows::live_tests::connections_are_told_from_picture_to_picture",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

fn follow() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut source = ProcfsSource::new("/proc".into());
    source.picture().unwrap();
    assert_eq!(source.take_flows(), None);
    source.watch_flows();
    let mut sum: Option<FlowObservation> = None;
    let mut look = |sum: &mut Option<FlowObservation>| {
        let picture = source.picture().unwrap();
        let ours = |flow: &FlowObservation| flow.key.address == address && flow.key.pid == std::process::id();
        for flow in source.take_flows().unwrap().flows.into_iter().filter(ours) {
            match sum {
                Some(sum) => sum.add(&flow),
                None => *sum = Some(flow),
            }
        }
        picture.sight
    };
    look(&mut sum);
    let first = std::net::TcpStream::connect(address).unwrap();
    look(&mut sum);
    // The queue is full: this one is not answered.
    let flags = rustix::net::SocketFlags::NONBLOCK;
    let family = rustix::net::AddressFamily::INET;
    let second = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None).unwrap();
    let outcome = rustix::net::connect(&second, &address);
    assert_eq!(outcome, Err(rustix::io::Errno::INPROGRESS));
    std::thread::sleep(Duration::from_millis(1300));
    look(&mut sum);
    drop(second);
    drop(first);
    let sight = look(&mut sum);
    let flow = sum.unwrap();
    assert_eq!(
        (flow.attempts, flow.established, flow.aborted, flow.closed),
        (2, 1, 1, 1)
    );
    assert_eq!((flow.syn_retransmits, flow.timed_out, flow.refused), (1, 0, 0));
    assert_eq!(flow.recent_starts_ns.len(), 1);
    let view = sight.view(Signal::ConnectEvents);
    assert!(matches!(view, Some(View::Partial { why, .. }) if why.contains("between two")));
    let fates = sight.view(Signal::ConnectionFates);
    assert!(matches!(fates, Some(View::Blind { .. })));
}
