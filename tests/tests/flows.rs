//! Every fate of a connection, provoked for real, is counted under its own name and under the process that owns the socket.
//!
//! Each test has a network namespace of its own, which goes with its thread, and looks at flows of that namespace only.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rung_agent::bpf::BpfSource;
use rung_diagnosis::observation::{Direction, FlowKey, FlowObservation, Picture, Signal, View};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// What every wait of these tests ends by.
const PATIENCE: Duration = Duration::from_secs(12);

/// Runs in a network namespace with a loopback device; says why if it cannot.
fn in_namespace(test: impl FnOnce(&mut Watch) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: programs in the kernel need root");
        return;
    }
    let outcome = thread::spawn(move || {
        unshare();
        run("ip", &["link", "set", "lo", "up"]);
        let link = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let net_ns = link.to_str().unwrap().trim_matches(|c: char| !c.is_ascii_digit());
        let mut source = BpfSource::open().unwrap();
        source.watch_events().unwrap();
        let mut watch = Watch {
            source,
            net_ns: net_ns.parse().unwrap(),
            flows: HashMap::new(),
        };
        watch.look();
        test(&mut watch);
    })
    .join();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[expect(unsafe_code, reason = "the safe form of unshare(2) is deprecated")]
fn unshare() {
    // SAFETY: only CLONE_FILES breaks what a thread may rely on; this is CLONE_NEWNET.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {words}");
}

/// Has nftables do something to what arrives in this namespace.
fn filter(rule: &str) {
    run("nft", &["add table inet test"]);
    run(
        "nft",
        &["add chain inet test in { type filter hook input priority 0; }"],
    );
    run("nft", &[&format!("add rule inet test in {rule}")]);
}

struct Watch {
    source: BpfSource,
    net_ns: u32,
    flows: HashMap<FlowKey, FlowObservation>,
}

impl Watch {
    fn look(&mut self) -> Picture {
        let picture = self.source.picture().unwrap();
        let events = self.source.take_events().unwrap();
        assert_eq!(events.flows_lost, 0);
        for flow in events
            .flows
            .into_iter()
            .filter(|flow| flow.key.net_ns == self.net_ns)
        {
            match self.flows.get_mut(&flow.key) {
                Some(known) => known.add(&flow),
                None => {
                    self.flows.insert(flow.key, flow);
                }
            }
        }
        picture
    }

    fn key(&self, direction: Direction, address: SocketAddr) -> FlowKey {
        FlowKey {
            pid: std::process::id(),
            direction,
            net_ns: self.net_ns,
            address,
        }
    }

    /// This process's flow to an address, once it is as wanted.
    fn outbound(&mut self, to: SocketAddr, wanted: impl Fn(&FlowObservation) -> bool) -> FlowObservation {
        let key = self.key(Direction::Outbound, to);
        self.wait(key, wanted)
    }

    /// Its flow of accepted connections on a port.
    fn inbound(&mut self, port: u16, wanted: impl Fn(&FlowObservation) -> bool) -> FlowObservation {
        let key = self.key(Direction::Inbound, ([0, 0, 0, 0], port).into());
        self.wait(key, wanted)
    }

    fn wait(&mut self, key: FlowKey, wanted: impl Fn(&FlowObservation) -> bool) -> FlowObservation {
        let began = Instant::now();
        loop {
            self.look();
            if let Some(flow) = self.flows.get(&key).filter(|flow| wanted(flow)) {
                return flow.clone();
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{key:?} does not come to it: {:#?}",
                self.flows
            );
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Fails unless the attempts of a flow came to exactly these failures.
fn assert_failures(flow: &FlowObservation, failures: &[(&str, u64)]) {
    let all = [
        ("refused", flow.refused),
        ("timed out", flow.timed_out),
        ("aborted", flow.aborted),
        ("unreachable", flow.unreachable),
        ("no port", flow.no_port),
        ("otherwise", flow.failed_otherwise),
    ];
    let found: Vec<(&str, u64)> = all.into_iter().filter(|(_, count)| *count != 0).collect();
    assert_eq!(found, failures, "{flow:?}");
}

/// A listener and a connection to it, both ends.
fn pair() -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let server = listener.accept().unwrap().0;
    (listener, client, server)
}

/// A socket that connects without waiting.
fn connecting(to: SocketAddr) -> OwnedFd {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
    assert_eq!(rustix::net::connect(&socket, &to), Err(Errno::INPROGRESS));
    socket
}

fn exchange(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"hello").unwrap();
    to.read_exact(&mut [0; 5]).unwrap();
}

#[test]
fn a_closed_port_refuses_over_both_protocols() {
    in_namespace(|watch| {
        for to in ["127.0.0.1:9", "[::1]:9"] {
            let to: SocketAddr = to.parse().unwrap();
            for _ in 0..3 {
                assert_eq!(
                    TcpStream::connect(to).unwrap_err().kind(),
                    ErrorKind::ConnectionRefused
                );
            }
            let flow = watch.outbound(to, |flow| flow.failed() == 3);
            assert_failures(&flow, &[("refused", 3)]);
            assert_eq!((flow.attempts, flow.established, flow.resets_received), (3, 0, 0));
            assert_eq!(flow.recent_starts_ns.len(), 3);
            assert_eq!(flow.first_start_ns, flow.recent_starts_ns[0]);
        }
    });
}

#[test]
fn a_flow_belongs_to_the_process_that_connected_and_bears_its_name() {
    in_namespace(|watch| {
        let mut child = Command::new("bash")
            .args(["-c", "exec 3<>/dev/tcp/127.0.0.1/9"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        child.wait().unwrap();
        let mut key = watch.key(Direction::Outbound, "127.0.0.1:9".parse().unwrap());
        key.pid = child.id();
        let flow = watch.wait(key, |flow| flow.refused == 1);
        assert_eq!(flow.comm.to_string(), "bash");
    });
}

#[test]
fn addresses_mapped_into_ipv6_are_those_of_ipv4() {
    in_namespace(|watch| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{}", to.port()).parse().unwrap();
        let _connection = TcpStream::connect(mapped).unwrap();
        let flow = watch.outbound(to, |flow| flow.established == 1);
        assert_eq!(flow.connect_latency.iter().sum::<u64>(), 1);
    });
}

#[test]
fn dropped_syns_time_out_and_an_attempt_under_way_is_none_of_the_failures() {
    in_namespace(|watch| {
        filter("tcp dport 9 drop");
        fs::write("/proc/sys/net/ipv4/tcp_syn_retries", "1").unwrap();
        let to: SocketAddr = "127.0.0.1:9".parse().unwrap();
        let attempt = thread::spawn(move || TcpStream::connect(to).unwrap_err().kind());
        let flow = watch.outbound(to, |flow| flow.syn_retransmits == 1);
        assert_eq!((flow.attempts, flow.failed(), flow.retransmits), (1, 0, 1));
        let picture = watch.look();
        let socket = picture
            .inet_sockets
            .iter()
            .find(|socket| socket.remote == to)
            .unwrap();
        let figures = socket.figures.unwrap();
        assert_eq!((socket.state, figures.packets_out), (2, 1));
        // On a busy machine another SYN may have gone out before the picture: one goes out each second.
        let (repeated, since) = (u32::from(figures.retransmits), figures.unanswered_ms.unwrap());
        assert!((1..=3).contains(&repeated), "{repeated} SYNs sent again");
        let expected = 900..repeated * 1000 + 2000;
        assert!(
            expected.contains(&since),
            "{since} ms since the first SYN, {repeated} sent again"
        );
        assert_eq!(attempt.join().unwrap(), ErrorKind::TimedOut);
        let flow = watch.outbound(to, |flow| flow.failed() == 1);
        assert_failures(&flow, &[("timed out", 1)]);
    });
}

#[test]
fn an_attempt_closed_before_its_answer_is_aborted() {
    in_namespace(|watch| {
        filter("tcp dport 9 drop");
        for to in ["127.0.0.1:9", "[::1]:9"] {
            let to: SocketAddr = to.parse().unwrap();
            let socket = connecting(to);
            let flow = watch.outbound(to, |flow| flow.attempts == 1);
            assert_failures(&flow, &[]);
            drop(socket);
            let flow = watch.outbound(to, |flow| flow.failed() == 1);
            assert_failures(&flow, &[("aborted", 1)]);
        }
    });
}

#[test]
fn an_icmp_error_makes_an_attempt_unreachable() {
    in_namespace(|watch| {
        filter("tcp dport 9 reject with icmpx host-unreachable");
        for to in ["127.0.0.1:9", "[::1]:9"] {
            let to: SocketAddr = to.parse().unwrap();
            TcpStream::connect(to).unwrap_err();
            let flow = watch.outbound(to, |flow| flow.failed() == 1);
            assert_failures(&flow, &[("unreachable", 1)]);
        }
    });
}

#[test]
fn the_fifty_first_connection_of_fifty_ports_has_no_port() {
    in_namespace(|watch| {
        fs::write("/proc/sys/net/ipv4/ip_local_port_range", "50000 50049").unwrap();
        let listener = TcpListener::bind("127.0.0.1:8080").unwrap();
        let to = listener.local_addr().unwrap();
        let connections: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(to).unwrap()).collect();
        assert_eq!(
            TcpStream::connect(to).unwrap_err().kind(),
            ErrorKind::AddrNotAvailable
        );
        let flow = watch.outbound(to, |flow| flow.failed() == 1);
        assert_failures(&flow, &[("no port", 1)]);
        assert_eq!((flow.attempts, flow.established, flow.closed), (51, 50, 0));
        drop(connections);
        assert_eq!(watch.outbound(to, |flow| flow.closed == 50).unanswered, 0);
    });
}

#[test]
fn a_reset_is_counted_at_both_ends() {
    in_namespace(|watch| {
        let (listener, mut client, mut server) = pair();
        let to = listener.local_addr().unwrap();
        exchange(&mut client, &mut server);
        sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        drop(server);
        assert_eq!(
            client.read(&mut [0; 5]).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        let flow = watch.outbound(to, |flow| flow.closed == 1);
        assert_failures(&flow, &[]);
        assert_eq!((flow.resets_received, flow.resets_sent), (1, 0));
        assert_eq!((flow.requests, flow.responses, flow.unanswered), (1, 0, 1));
        let flow = watch.inbound(to.port(), |flow| flow.closed == 1);
        assert_eq!(
            (flow.resets_received, flow.resets_sent, flow.established),
            (0, 1, 1)
        );
    });
}

#[test]
fn a_connection_that_nobody_acknowledges_breaks() {
    in_namespace(|watch| {
        let (listener, mut client, _server) = pair();
        let to = listener.local_addr().unwrap();
        sockopt::set_tcp_user_timeout(&client, 1000).unwrap();
        filter("drop");
        client.write_all(b"hello").unwrap();
        let flow = watch.outbound(to, |flow| flow.retransmits > 1);
        assert_eq!((flow.broken, flow.syn_retransmits), (0, 0));
        assert_eq!(client.read(&mut [0; 5]).unwrap_err().kind(), ErrorKind::TimedOut);
        let flow = watch.outbound(to, |flow| flow.closed == 1);
        assert_failures(&flow, &[]);
        assert_eq!((flow.broken, flow.unanswered), (1, 1));
    });
}

#[test]
fn turns_are_counted_once_a_request_at_both_ends() {
    in_namespace(|watch| {
        let (listener, mut client, mut server) = pair();
        let to = listener.local_addr().unwrap();
        for _ in 0..20 {
            // A request in two pieces is one request.
            exchange(&mut client, &mut server);
            exchange(&mut client, &mut server);
            exchange(&mut server, &mut client);
        }
        let turns = |flow: &FlowObservation| (flow.requests, flow.responses);
        let flow = watch.outbound(to, |flow| flow.requests > 0);
        assert_eq!(turns(&flow), (20, 20));
        let flow = watch.inbound(to.port(), |flow| flow.requests > 0);
        assert_eq!(turns(&flow), (20, 20));
        assert_eq!((flow.attempts, flow.established), (1, 1));
    });
}

#[test]
fn giving_up_on_an_answer_is_told_from_saying_goodbye() {
    in_namespace(|watch| {
        let (listener, mut client, mut server) = pair();
        let to = listener.local_addr().unwrap();
        exchange(&mut client, &mut server);
        exchange(&mut server, &mut client);
        client.write_all(b"bye").unwrap();
        drop(client);
        let flow = watch.outbound(to, |flow| flow.closed == 1);
        assert_eq!((flow.requests, flow.responses, flow.unanswered), (2, 1, 0));

        let mut client = TcpStream::connect(to).unwrap();
        client.write_all(b"hello").unwrap();
        thread::sleep(Duration::from_millis(100));
        drop(client);
        let flow = watch.outbound(to, |flow| flow.closed == 2);
        assert_eq!((flow.requests, flow.responses, flow.unanswered), (3, 1, 1));
    });
}

#[test]
fn a_peer_that_closes_instead_of_answering_leaves_a_request_unanswered() {
    in_namespace(|watch| {
        let (listener, mut client, mut server) = pair();
        let to = listener.local_addr().unwrap();
        exchange(&mut client, &mut server);
        drop(server);
        assert_eq!(client.read(&mut [0; 5]).unwrap(), 0);
        drop(client);
        let flow = watch.outbound(to, |flow| flow.closed == 1);
        assert_eq!((flow.unanswered, flow.resets_received, flow.broken), (1, 0, 0));
    });
}

#[test]
fn connections_that_were_there_before_are_followed_from_their_next_turn() {
    in_namespace(|watch| {
        let (listener, mut client, mut server) = pair();
        let to = listener.local_addr().unwrap();
        let mut late = BpfSource::open().unwrap();
        late.watch_events().unwrap();
        let mut late = Watch {
            source: late,
            net_ns: watch.net_ns,
            flows: HashMap::new(),
        };
        late.look();
        exchange(&mut client, &mut server);
        exchange(&mut server, &mut client);
        let flow = late.outbound(to, |flow| flow.responses == 1);
        assert_eq!((flow.attempts, flow.requests), (0, 1));
        let flow = late.inbound(to.port(), |flow| flow.responses == 1);
        assert_eq!((flow.attempts, flow.requests), (0, 1));
        drop((client, server));
        assert_eq!(late.outbound(to, |flow| flow.closed == 1).unanswered, 0);
    });
}

/// Otherwise a picture costs several times as much, and nothing else would tell.
#[test]
fn the_verifier_takes_the_programs_that_load_fields_by_type() {
    assert!(BpfSource::open().unwrap().loads_by_type());
}

#[test]
fn events_are_declared_seen_while_they_are_counted_and_unseen_otherwise() {
    in_namespace(|watch| {
        let counted = watch.look();
        let single = BpfSource::open().unwrap().picture().unwrap();
        for signal in [
            Signal::ConnectEvents,
            Signal::ConnectionFates,
            Signal::RequestTurns,
        ] {
            assert_eq!(counted.sight.view(signal), Some(&View::Full));
            let Some(View::Blind { remedy, .. }) = single.sight.view(signal) else {
                panic!("{signal:?}: {:?}", single.sight.view(signal));
            };
            assert!(remedy.contains("--for"), "{remedy}");
        }
        assert_eq!(single.sight.view(Signal::TcpFigures), Some(&View::Full));
    });
}
