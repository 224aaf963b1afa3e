//! Readings of a small fake tree, and of the live host.

use std::net::SocketAddr;

use rung_diagnosis::observation::TaskObservation;

use super::*;
use crate::fake_tree::FakeTree;
use crate::procfs::ProcfsSource;

const OWN: u32 = 4_026_531_840;
const OTHER: u32 = 4_026_532_200;
const SNMP: &str = "Tcp: ActiveOpens PassiveOpens\nTcp: 5 6\n";
const TCP: &str = "  sl  local_address rem_address\n\
    0: 0100007F:9C40 0500000A:01BB 06 0:0 0:0 0 0 0 0 3\n\
    1: 0100007F:9C41 0500000A:01BB 04 0:0 0:0 0 0 0 0 3\n";

fn process(pid: u32, start_ns: u64) -> TaskObservation {
    TaskObservation {
        tid: pid,
        tgid: pid,
        start_ns,
        ..TaskObservation::default()
    }
}

fn picture(pids: &[u32]) -> Picture {
    Picture {
        began_ns: 3_600_000_000_000,
        tasks: pids.iter().map(|pid| process(*pid, u64::from(*pid))).collect(),
        ..Picture::default()
    }
}

fn resident(tree: &FakeTree, pid: u32, net_ns: u32, netstat: &str) {
    tree.link(&format!("{pid}/ns/net"), &format!("net:[{net_ns}]"));
    tree.file(&format!("{pid}/net/netstat"), netstat);
    tree.file(&format!("{pid}/net/snmp"), SNMP);
    tree.file(
        &format!("{pid}/net/sockstat"),
        "TCP: inuse 1 orphan 9 tw 1 alloc 1 mem 1\n",
    );
    tree.file(&format!("{pid}/net/tcp"), TCP);
}

/// 10 and 11 live where the reader does, 20 and 21 elsewhere.
fn fake() -> FakeTree {
    let tree = FakeTree::new("networks");
    resident(&tree, 10, OWN, "TcpExt: ListenOverflows\nTcpExt: 1\n");
    resident(&tree, 11, OWN, "TcpExt: ListenOverflows\nTcpExt: 1\n");
    resident(&tree, 20, OTHER, "TcpExt: ListenOverflows\nTcpExt: 2\n");
    resident(&tree, 21, OTHER, "TcpExt: ListenOverflows\nTcpExt: 3\n");
    tree.link("self", "10");
    tree.file("sys/net/ipv4/ip_local_port_range", "32768\t60999\n");
    tree
}

fn networks(tree: &FakeTree) -> Networks {
    Networks::new(tree.root().to_owned(), false)
}

#[test]
fn one_process_stands_for_each_namespace() {
    let tree = fake();
    let reading = networks(&tree).read(&picture(&[10, 11, 20, 21]));
    let seen: Vec<_> = reading
        .networks
        .iter()
        .map(|network| {
            (
                network.net_ns,
                network.pid,
                network.listen_overflows,
                network.local_ports,
            )
        })
        .collect();
    assert_eq!(seen, [(OWN, 10, 1, (32768, 60999)), (OTHER, 20, 2, (0, 0))]);
    assert_eq!(
        (reading.networks[1].active_opens, reading.networks[1].time_wait),
        (5, 1)
    );
    assert_eq!(reading.networks[1].orphaned, 1);
    let destination: SocketAddr = "10.0.0.5:443".parse().unwrap();
    let other: Vec<_> = reading
        .ownerless
        .iter()
        .filter(|row| row.net_ns == OTHER && row.remote == destination)
        .map(|row| (row.state, row.count))
        .collect();
    if cfg!(target_endian = "little") {
        assert_eq!(other, [(4, 1), (6, 1)]);
    }
    assert_eq!(
        (&reading.counters_view, &reading.ownerless_view),
        (&View::Full, &View::Full)
    );
}

#[test]
fn a_representative_that_ended_or_moved_is_replaced() {
    let tree = fake();
    let mut networks = networks(&tree);
    networks.read(&picture(&[10, 20, 21]));
    std::fs::remove_dir_all(tree.path("20")).unwrap();
    let pids = |reading: &Reading| {
        reading
            .networks
            .iter()
            .map(|network| network.pid)
            .collect::<Vec<_>>()
    };
    let reading = networks.read(&picture(&[10, 20, 21]));
    assert_eq!(pids(&reading), [10, 21]);
    std::fs::remove_file(tree.path("21/ns/net")).unwrap();
    tree.link("21/ns/net", &format!("net:[{OWN}]"));
    let reading = networks.read(&picture(&[10, 20, 21]));
    assert_eq!(pids(&reading), [10]);
}

#[test]
fn a_young_process_is_looked_at_again_and_an_old_one_is_not() {
    let tree = fake();
    let mut networks = networks(&tree);
    let mut picture = picture(&[10, 20]);
    picture.tasks[1].start_ns = picture.began_ns - 1_000_000_000;
    std::fs::remove_file(tree.path("20/ns/net")).unwrap();
    tree.link("20/ns/net", &format!("net:[{OWN}]"));
    assert_eq!(networks.read(&picture).networks.len(), 1);
    std::fs::remove_file(tree.path("20/ns/net")).unwrap();
    tree.link("20/ns/net", &format!("net:[{OTHER}]"));
    assert_eq!(networks.read(&picture).networks.len(), 2);
    // Once it is old, its link is taken for granted: a namespace that it has left is only noticed when it is to stand
    // for it.
    picture.began_ns += 60_000_000_000;
    assert_eq!(networks.read(&picture).networks.len(), 2);
    std::fs::remove_file(tree.path("20/ns/net")).unwrap();
    assert_eq!(networks.read(&picture).networks.len(), 1);
}

#[test]
fn kernel_threads_and_zombies_live_nowhere() {
    let tree = fake();
    let mut picture = picture(&[10, 20, 21]);
    picture.tasks[1].kernel_thread = true;
    picture.tasks[2].state = rung_diagnosis::observation::TaskState::Zombie;
    assert_eq!(networks(&tree).read(&picture).networks.len(), 1);
}

#[test]
fn too_many_namespaces_are_told() {
    let tree = fake();
    let pids: Vec<u32> = (100..100 + NETWORKS_MAX as u32 + 2).collect();
    for pid in &pids {
        resident(&tree, *pid, OTHER + pid, "TcpExt: ListenOverflows\nTcpExt: 2\n");
    }
    let reading = networks(&tree).read(&picture(&pids));
    assert_eq!(reading.networks.len(), NETWORKS_MAX);
    let View::Partial { why, .. } = &reading.counters_view else {
        panic!("{:?}", reading.counters_view)
    };
    assert!(why.starts_with("3 network namespaces beyond"), "{why}");
}

#[test]
fn a_tree_without_files_is_blind_and_one_without_tables_partial() {
    let tree = FakeTree::new("networks");
    let reading = networks(&tree).read(&picture(&[10]));
    assert!(matches!(&reading.counters_view, View::Blind { .. }));
    tree.link("10/ns/net", &format!("net:[{OWN}]"));
    tree.link("self", "10");
    let reading = networks(&tree).read(&picture(&[10]));
    assert!(matches!(&reading.counters_view, View::Blind { why, .. } if why.contains("snmp")));
    assert!(matches!(&reading.ownerless_view, View::Partial { why, .. } if why.contains("net/tcp")));
    assert_eq!((reading.networks.len(), reading.ownerless.len()), (0, 0));
}

#[test]
fn the_live_host() {
    let picture = ProcfsSource::new("/proc".into()).picture().unwrap();
    let mut networks = Networks::new("/proc".into(), true);
    let reading = networks.read(&picture);
    let own = &reading.networks[0];
    assert_eq!(own.pid, std::process::id());
    assert!(own.at_ns > picture.began_ns && own.segments_out > 0 && own.local_ports.1 > own.local_ports.0);
    // Whoever opens a connection is counted.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let after = networks.read(&picture);
    assert!(after.networks[0].active_opens > own.active_opens);
    assert!(after.networks[0].passive_opens > own.passive_opens);
}

/// A process in a namespace of its own, with `lo` down and no connections.
#[test]
fn another_namespace_is_read_without_entering_it() {
    use std::process::{Command, Stdio};
    let mut command = Command::new("unshare");
    command.args(["--net", "sleep", "60"]).stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: unshare (util-linux) is not to be had");
        return;
    };
    let pid = child.id();
    let mut reading = None;
    let mut refused = false;
    for _ in 0..100 {
        refused = child.try_wait().unwrap().is_some();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let moved = std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|link| link != own);
        if refused || moved {
            let picture = ProcfsSource::new("/proc".into()).picture().unwrap();
            reading = Some(Networks::new("/proc".into(), true).read(&picture));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    if refused {
        eprintln!("skipped: a network namespace cannot be made; run as root");
        return;
    }
    let reading = reading.unwrap();
    let other = reading
        .networks
        .iter()
        .find(|network| network.pid == pid)
        .unwrap();
    assert!(other.net_ns != reading.networks[0].net_ns);
    assert_eq!(
        (other.local_ports, other.active_opens, other.time_wait),
        ((0, 0), 0, 0)
    );
    assert!(reading.ownerless.iter().all(|row| row.net_ns != other.net_ns));
}

/// A connection that its client closed first rests in TIME_WAIT, and is counted by its destination.
#[test]
fn a_connection_in_time_wait() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..3 {
        let client = std::net::TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(client);
        std::thread::sleep(Duration::from_millis(20));
        drop(server);
    }
    let picture = ProcfsSource::new("/proc".into()).picture().unwrap();
    let mut networks = Networks::new("/proc".into(), true);
    for _ in 0..50 {
        let reading = networks.read(&picture);
        let counted = reading
            .ownerless
            .iter()
            .find(|row| row.remote == address && row.state == 6);
        if counted.is_some_and(|row| row.count == 3) {
            assert!(reading.networks[0].time_wait >= 3);
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("three connections in TIME_WAIT were not seen");
}
