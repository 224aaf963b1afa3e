//! Attempts that fail: no answer, a refusal, no port, no name.

use crate::detect::fixture::{ELSEWHERE, HERE, Scene, address};
use crate::finding::{Confidence, Role};
use crate::index::TCP_SYN_SENT;
use crate::mode::Mode;
use crate::observation::{Call, Direction, OwnerlessObservation, Watch};

const FAMILIES: [(&str, &str); 2] = [
    ("10.99.0.1:40000", "10.99.0.2:8080"),
    ("[fd00::1]:40000", "[fd00::2]:8080"),
];

fn connecting(local: &str, remote: &str, retransmits: u8) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    let socket = scene.socket(100, 3, TCP_SYN_SENT, local, remote);
    let mut figures = socket.figures.unwrap();
    figures.retransmits = retransmits;
    figures.unanswered_ms = (retransmits > 0).then_some(3500);
    socket.figures = Some(figures);
    scene.blocks(100, Call::Connect { fd: 3, to: None }, 3.0);
    scene
}

#[test]
fn a_syn_sent_again_twice_is_a_timeout_in_one_picture() {
    for (local, remote) in FAMILIES {
        assert!(
            connecting(local, remote, 1)
                .drafts(Mode::ConnectTimeout)
                .is_empty()
        );
        let mut scene = connecting(local, remote, 2);
        let drafts = scene.drafts(Mode::ConnectTimeout);
        let [draft] = drafts.as_slice() else {
            panic!("{drafts:?}")
        };
        assert_eq!((draft.subject.pid, draft.confidence), (100, Confidence::Proven));
        assert_eq!(draft.flow, Some((Some(address(local)), address(remote))));
        assert_eq!(draft.chain_from, Some(100));
        assert!(draft.summary.contains("look the same"), "{}", draft.summary);
        let chain = &scene.report().findings[0].chain;
        assert_eq!(chain[0].waits, format!("a connection to {remote}"));
        assert_eq!(chain[0].ends, Some(format!("{remote}, beyond this host")));
    }
}

#[test]
fn nobody_has_the_address_until_the_network_has_said_so() {
    let mut early = connecting("10.99.0.1:40000", "10.99.0.9:8080", 2);
    early.at(100, 3).figures.as_mut().unwrap().unanswered_ms = Some(2900);
    assert!(early.drafts(Mode::ConnectTimeout).is_empty());
    // Attempts of three seconds, each ended by an error; the first began unseen.
    for seen in [0, 2] {
        let mut scene = giving_up(3.0, 3, &[100]);
        let flow = scene.flow(100, Direction::Outbound, "10.99.0.2:8080");
        (flow.attempts, flow.unreachable) = (2, seen);
        let found = scene.drafts(Mode::ConnectTimeout).len();
        assert_eq!(found, usize::from(seen == 0), "{seen}");
    }
    let mut scene = giving_up(3.0, 1, &[100]);
    scene.socket(100, 3, TCP_SYN_SENT, "10.99.0.1:40001", "10.99.0.2:8080");
    scene.pass(2.0);
    assert!(scene.drafts(Mode::ConnectTimeout).is_empty(), "one is under way");
    scene.pass(1.3);
    assert_eq!(scene.drafts(Mode::ConnectTimeout).len(), 1, "no error has come");
}

#[test]
fn a_full_accept_queue_on_this_host_is_what_the_attempt_depends_on() {
    for (queue, full) in [(4, false), (5, true)] {
        let mut scene = connecting("127.0.0.1:40000", "127.0.0.1:8080", 2);
        scene.process(200, "server");
        scene.listener(200, 3, "0.0.0.0:8080", 4).receive_queue = queue;
        let drafts = scene.drafts(Mode::ConnectTimeout);
        assert_eq!(drafts[0].others[0].0, Role::Listener);
        assert_eq!(drafts[0].depends_on, if full { vec![200] } else { vec![] });
        assert_eq!(drafts[0].summary.contains("full accept queue"), full);
        assert_eq!(drafts[0].summary.contains("dropped on the way"), !full);
    }
}

/// Attempts of a length each, one after the other, seen in pictures.
fn giving_up(seconds: f64, attempts: u16, pids: &[u32]) -> Scene {
    let mut scene = Scene::new();
    for pid in pids {
        scene.process(*pid, "client");
    }
    for attempt in 0..attempts {
        let pid = pids[usize::from(attempt) % pids.len()];
        let local = format!("10.99.0.1:{}", 40000 + attempt);
        scene.socket(pid, 3, TCP_SYN_SENT, &local, "10.99.0.2:8080");
        scene.pass(seconds);
        // Seen once more just before it is given up.
        scene.pass(0.0);
        scene.close(pid, 3);
    }
    scene
}

#[test]
fn attempts_that_the_application_gives_up_are_a_timeout_too() {
    let drafts = giving_up(1.0, 3, &[100]).drafts(Mode::ConnectTimeout);
    assert_eq!(drafts.len(), 1);
    assert_eq!(
        (drafts[0].subject.pid, drafts[0].confidence),
        (100, Confidence::Likely)
    );
    // One attempt is none, and neither are the losers of a race for the first answer.
    assert!(giving_up(1.0, 1, &[100]).drafts(Mode::ConnectTimeout).is_empty());
    assert!(giving_up(0.25, 8, &[100]).drafts(Mode::ConnectTimeout).is_empty());
    // A process for each attempt.
    assert_eq!(
        giving_up(1.0, 3, &[100, 101, 102])
            .drafts(Mode::ConnectTimeout)
            .len(),
        1
    );
}

#[test]
fn one_look_at_an_attempt_tells_its_age_if_its_start_was_seen() {
    let found = |seconds: f64, aborted: u64| {
        let mut scene = Scene::new();
        scene.process(100, "client");
        scene.pass(seconds);
        let start = scene.picture.began_ns - (seconds * 1e9) as u64;
        scene.socket(100, 3, TCP_SYN_SENT, "10.99.0.1:40000", "10.99.0.2:8080");
        let flow = scene.flow(100, Direction::Outbound, "10.99.0.2:8080");
        (flow.attempts, flow.aborted, flow.recent_starts_ns) = (aborted + 1, aborted, vec![start]);
        scene.drafts(Mode::ConnectTimeout).len()
    };
    assert_eq!((found(0.5, 2), found(0.5, 1), found(0.3, 9)), (1, 0, 0));
}

#[test]
fn slow_answers_are_no_timeout() {
    let mut scene = giving_up(1.0, 3, &[100]);
    let flow = scene.flow(100, Direction::Outbound, "10.99.0.2:8080");
    (flow.attempts, flow.aborted, flow.established) = (4, 3, 1);
    assert!(scene.drafts(Mode::ConnectTimeout).is_empty());
    let mut scene = Scene::new();
    scene.process(100, "client");
    for port in 40000..40003 {
        let local = format!("10.99.0.1:{port}");
        scene.socket(100, 3, TCP_SYN_SENT, &local, "10.99.0.2:8080");
        scene.pass(0.8);
        scene.pass(0.1);
        scene.at(100, 3).state = crate::index::TCP_ESTABLISHED;
        scene.pass(0.1);
        scene.close(100, 3);
    }
    assert!(scene.drafts(Mode::ConnectTimeout).is_empty());
}

#[test]
fn what_the_kernel_gave_up_is_proven() {
    let mut scene = Scene::new();
    scene.process(100, "client");
    let flow = scene.flow(100, Direction::Outbound, "[fd00::2]:80");
    (flow.attempts, flow.timed_out) = (1, 1);
    assert_eq!(
        scene.drafts(Mode::ConnectTimeout)[0].confidence,
        Confidence::Proven
    );
}

fn refused(refused: u64, established: u64, to: &str) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    let flow = scene.flow(100, Direction::Outbound, to);
    (flow.attempts, flow.refused, flow.established) = (refused + established, refused, established);
    scene
}

#[test]
fn refusals_count_from_three_and_from_half_of_the_attempts() {
    for to in ["10.99.0.2:81", "[fd00::2]:81"] {
        let drafts = refused(3, 3, to).drafts(Mode::ConnectRefused);
        assert_eq!(drafts[0].flow, Some((None, address(to))));
        assert!(refused(2, 0, to).drafts(Mode::ConnectRefused).is_empty());
        assert!(refused(3, 4, to).drafts(Mode::ConnectRefused).is_empty());
        assert!(refused(9, 0, to).drafts(Mode::ConnectTimeout).is_empty());
    }
}

#[test]
fn refusals_of_one_command_after_another_count_together() {
    let mut scene = Scene::new();
    for pid in [100, 101, 102] {
        scene.process(pid, "curl");
        let flow = scene.flow(pid, Direction::Outbound, "10.99.0.2:81");
        (flow.attempts, flow.refused) = (1, 1);
    }
    // All but the last have ended.
    scene.picture.tasks.retain(|task| task.tid == 101);
    let report = scene.report();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(
        (report.findings[0].subject.pid, report.findings[0].mode),
        (101, Mode::ConnectRefused)
    );
    scene.picture.tasks.clear();
    let report = scene.report();
    let subject = &report.findings[0].subject;
    assert_eq!((subject.pid, subject.comm.as_str()), (102, "curl"));
}

#[test]
fn a_name_that_works_at_its_other_address_is_well() {
    let mut scene = refused(50, 0, "[::1]:80");
    let flow = scene.flow(100, Direction::Outbound, "127.0.0.1:80");
    (flow.attempts, flow.established) = (50, 50);
    assert!(scene.drafts(Mode::ConnectRefused).is_empty());
    let mut scene = refused(50, 0, "10.99.0.2:80");
    let flow = scene.flow(100, Direction::Outbound, "10.99.0.3:80");
    (flow.attempts, flow.established) = (50, 50);
    assert_eq!(scene.drafts(Mode::ConnectRefused).len(), 1);
}

/// A range of 50 ports, of which so many are held, and so many left in TIME_WAIT.
fn ports(held: u16, time_wait: u64, to: &str) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.network(HERE).local_ports = (40000, 40049);
    for port in 0..held {
        let local = if to.starts_with("127.") {
            "127.0.0.1"
        } else {
            "10.99.0.1"
        };
        scene.connection(100, i32::from(port), &format!("{local}:{}", 40000 + port), to);
    }
    scene.picture.ownerless.push(OwnerlessObservation {
        net_ns: HERE,
        state: 6,
        remote: address(to),
        count: time_wait,
    });
    scene
}

#[test]
fn ports_run_out_towards_one_destination() {
    let to = "10.99.0.2:80";
    assert!(ports(20, 19, to).drafts(Mode::PortExhaustion).is_empty());
    let drafts = ports(20, 20, to).drafts(Mode::PortExhaustion);
    assert_eq!(
        (drafts[0].subject.pid, drafts[0].flow),
        (100, Some((None, address(to))))
    );
    // On loopback TIME_WAIT does not keep a port.
    assert!(
        ports(20, 30, "127.0.0.1:80")
            .drafts(Mode::PortExhaustion)
            .is_empty()
    );
    assert_eq!(ports(40, 0, "127.0.0.1:80").drafts(Mode::PortExhaustion).len(), 1);
    // Connections that a server accepted use one port of its own.
    let mut scene = ports(45, 0, to);
    for port in 40000..40049 {
        scene.listener(100, 1000 + port, &format!("10.99.0.1:{port}"), 8);
    }
    assert!(scene.drafts(Mode::PortExhaustion).is_empty());
}

#[test]
fn a_range_that_is_not_known_is_said() {
    let mut scene = ports(45, 0, "10.99.0.2:80");
    scene.network(HERE).local_ports = (0, 0);
    let report = scene.report();
    let entry = report
        .coverage
        .iter()
        .find(|entry| entry.mode == Mode::PortExhaustion);
    let why = entry.and_then(|entry| entry.why.clone());
    assert!(why.is_some_and(|why| why.contains("1 network namespace")));
}

#[test]
fn an_attempt_without_a_port_is_proof() {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.flow(100, Direction::Outbound, "[fd00::2]:80").no_port = 1;
    let drafts = scene.drafts(Mode::PortExhaustion);
    assert_eq!((drafts.len(), drafts[0].confidence), (1, Confidence::Proven));
}

fn looking_up(local: &str, remote: &str, seconds: f64) -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    let socket = scene.socket(100, 5, 1, local, remote);
    (socket.tcp, socket.figures) = (false, None);
    let watched = vec![Watch {
        fd: 5,
        read: true,
        write: false,
    }];
    let call = Call::Poll {
        watched,
        incomplete: false,
    };
    scene.blocks(100, call, seconds);
    scene
}

#[test]
fn a_question_to_a_name_server_that_gets_no_answer() {
    for (local, remote) in [
        ("10.99.0.1:5000", "10.99.0.2:53"),
        ("[fd00::1]:5000", "[fd00::2]:53"),
    ] {
        assert!(looking_up(local, remote, 0.9).drafts(Mode::DnsStall).is_empty());
        let drafts = looking_up(local, remote, 1.1).drafts(Mode::DnsStall);
        assert_eq!(drafts[0].subject.pid, 100);
        assert_eq!(drafts[0].flow, Some((Some(address(local)), address(remote))));
        let mut answered = looking_up(local, remote, 1.1);
        answered.at(100, 5).receive_queue = 60;
        assert!(answered.drafts(Mode::DnsStall).is_empty());
    }
    assert!(
        looking_up("10.99.0.1:5000", "10.99.0.2:54", 9.0)
            .drafts(Mode::DnsStall)
            .is_empty()
    );
}

#[test]
fn a_name_server_on_this_host_is_to_blame_itself() {
    let mut scene = looking_up("127.0.0.1:5000", "127.0.0.53:53", 2.0);
    scene.process(53, "resolved");
    let socket = scene.socket(53, 5, 7, "127.0.0.53:53", "0.0.0.0:0");
    (socket.tcp, socket.figures) = (false, None);
    let drafts = scene.drafts(Mode::DnsStall);
    assert_eq!((drafts[0].subject.pid, drafts[0].others[0].1.pid), (53, 100));
    // Not the one of another namespace.
    scene.at(53, 5).net_ns = ELSEWHERE;
    assert_eq!(scene.drafts(Mode::DnsStall)[0].subject.pid, 100);
}

#[test]
fn a_forwarder_that_waits_for_anybody_is_idle() {
    let mut scene = looking_up("10.99.0.1:5000", "10.99.0.2:53", 30.0);
    scene.listener(100, 6, "0.0.0.0:53", 8);
    let watched = [5, 6].map(|fd| Watch {
        fd,
        read: true,
        write: false,
    });
    let call = Call::Poll {
        watched: watched.to_vec(),
        incomplete: false,
    };
    scene.blocks(100, call, 30.0);
    assert!(scene.drafts(Mode::DnsStall).is_empty());
    // A connection to a server on which nothing was asked.
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.connection(100, 5, "10.99.0.1:5000", "10.99.0.2:53");
    scene.blocks(100, Call::Read { fd: 5 }, 30.0);
    let figures = scene.at(100, 5).figures.as_mut().unwrap();
    (figures.last_sent_ms, figures.last_received_ms) = (30_000, 29_000);
    assert!(scene.drafts(Mode::DnsStall).is_empty());
    scene.at(100, 5).figures.as_mut().unwrap().last_sent_ms = 28_000;
    assert_eq!(scene.drafts(Mode::DnsStall).len(), 1);
}
