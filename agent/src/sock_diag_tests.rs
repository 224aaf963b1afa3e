//! The own sockets of the test, as the kernel tells of them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use rung_diagnosis::observation::TcpFigures;

use super::*;

fn inode(fd: impl AsFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

fn find(dump: &Dump<UnixObservation>, inode: u64) -> &UnixObservation {
    dump.sockets.iter().find(|socket| socket.inode == inode).unwrap()
}

#[test]
fn a_connected_pair_and_what_was_not_read() {
    let (mut a, b) = UnixStream::pair().unwrap();
    a.write_all(&[0; 1000]).unwrap();
    let dump = unix_sockets(7).unwrap();
    let (sender, receiver) = (find(&dump, inode(&a)), find(&dump, inode(&b)));
    assert_eq!((sender.peer, receiver.peer), (Some(receiver.id), Some(sender.id)));
    assert_eq!(
        (sender.kind, sender.state, sender.net_ns),
        (UnixKind::Stream, UnixState::Connected, 7)
    );
    let (unread, limit) = sender.unread_sent.unwrap();
    assert!(unread >= 1000 && limit > unread);
    assert_eq!(receiver.unread_sent.unwrap().0, 0);
    assert_eq!((sender.queued, receiver.queued), (Some(0), None));
}

#[test]
fn a_connection_that_nobody_accepts() {
    let path = std::env::temp_dir().join(format!("rung-sock-diag-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let dump = unix_sockets(7).unwrap();
    std::fs::remove_file(&path).unwrap();
    let listening = find(&dump, inode(&listener));
    assert_eq!(
        (listening.state, listening.queued),
        (UnixState::Listening, Some(1))
    );
    assert!(listening.queue_limit.unwrap() > 1);
    assert_eq!(listening.name, path.as_os_str().as_encoded_bytes());
    let connected = find(&dump, inode(&client));
    let pending = dump
        .sockets
        .iter()
        .find(|socket| Some(socket.id) == connected.peer)
        .unwrap();
    assert_eq!((pending.inode, pending.peer), (0, Some(connected.id)));
    assert_eq!(pending.name, listening.name);
}

#[test]
fn an_abstract_name_and_a_datagram_socket() {
    use std::os::linux::net::SocketAddrExt;
    let text = format!("rung\0{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&text).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    let dump = unix_sockets(7).unwrap();
    let seen = find(&dump, inode(&socket));
    assert_eq!(
        (seen.kind, seen.state),
        (UnixKind::Datagram, UnixState::Unconnected)
    );
    assert_eq!(seen.name, [b"\0", text.as_bytes()].concat());
}

#[test]
fn tcp_and_udp() {
    let listener = TcpListener::bind("[::]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dump = inet_sockets(7).unwrap();
    let find = |inode: u64| dump.sockets.iter().find(|socket| socket.inode == inode).unwrap();
    let listening = find(inode(&listener));
    assert_eq!(
        (listening.state, listening.receive_queue, listening.tcp),
        (10, 1, true)
    );
    assert!(listening.send_queue > 0);
    let connected = find(inode(&client));
    assert_eq!(
        (connected.state, connected.local),
        (1, client.local_addr().unwrap())
    );
    assert_eq!(connected.remote, client.peer_addr().unwrap());
    let pending = dump
        .sockets
        .iter()
        .find(|socket| (socket.local, socket.remote) == (connected.remote, connected.local))
        .unwrap();
    assert!(pending.inode == 0 && pending.id.0 & WITHOUT_INODE != 0);
    let udp_seen = find(inode(&udp));
    assert!(!udp_seen.tcp);
    assert_eq!(udp_seen.local, udp.local_addr().unwrap());
}

/// A connection that has carried data both ways and rests.
fn rested() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(&[7; 1000]).unwrap();
    server.read_exact(&mut [0; 1000]).unwrap();
    server.write_all(&[7; 3000]).unwrap();
    client.read_exact(&mut [0; 3000]).unwrap();
    // Acknowledgements may be delayed by 200 ms (TCP_DELACK_MAX).
    std::thread::sleep(Duration::from_millis(300));
    (client, server)
}

fn own_figures(socket: impl AsFd) -> TcpFigures {
    let inode = inode(socket);
    let dump = inet_sockets(7).unwrap();
    let seen = dump.sockets.iter().find(|seen| seen.inode == inode).unwrap();
    seen.figures.unwrap()
}

#[test]
fn figures_count_what_was_exchanged() {
    let (client, server) = rested();
    let seen = own_figures(&client);
    // The acknowledged SYN is one byte of it.
    assert_eq!((seen.bytes_acked, seen.bytes_received), (1001, 3000));
    assert_eq!(
        (seen.packets_out, seen.not_sent, seen.retransmitted, seen.backoff),
        (0, 0, 0, 0)
    );
    assert!(seen.segments_out >= 3 && seen.send_window > 0 && seen.send_window != u32::MAX);
    assert!((1..1_000_000).contains(&seen.srtt_us) && (1..1_000_000).contains(&seen.min_rtt_us));
    assert!((290..5000).contains(&seen.last_received_ms) && seen.unanswered_ms.is_none());
    let other = own_figures(&server);
    assert_eq!((other.bytes_acked, other.bytes_received), (3000, 1000));
}

/// The command of iproute2 reads the same structure by a header of its own.
#[test]
fn figures_agree_with_ss() {
    let (client, _server) = rested();
    let port = client.local_addr().unwrap().port();
    let filter = format!("sport = :{port}");
    let output = match Command::new("ss").args(["-tinOH", &filter]).output() {
        Ok(output) if output.status.success() => output,
        outcome => {
            eprintln!("skipped: ss (iproute2) is not to be had: {outcome:?}");
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let mut words = text.split_ascii_whitespace();
        let value = words.find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name}: {text}")).to_owned()
    };
    let number = |name: &str| value(name).parse::<u64>().unwrap();
    let seen = own_figures(&client);
    assert_eq!(seen.bytes_acked, number("bytes_acked"));
    assert_eq!(seen.bytes_received, number("bytes_received"));
    assert_eq!(u64::from(seen.segments_out), number("segs_out"));
    assert_eq!(u64::from(seen.send_window), number("snd_wnd"));
    assert_eq!(u64::from(seen.rto_us / 1000), number("rto"));
    let us = |ms: &str| (ms.parse::<f64>().unwrap() * 1000.0).round() as u32;
    assert_eq!(seen.min_rtt_us, us(&value("minrtt")));
    assert_eq!(seen.srtt_us, us(value("rtt").split('/').next().unwrap()));
    assert!(u64::from(seen.last_received_ms) >= number("lastrcv"));
}

/// A listener whose queue is full drops SYNs, and they are sent again after a second.
#[test]
fn since_when_a_syn_has_been_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // Room for one connection that is not accepted (tcp_v4_syn_recv_sock, sk_acceptq_is_full: more than the backlog).
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _first = TcpStream::connect(address).unwrap();
    let flags = rustix::net::SocketFlags::NONBLOCK;
    let family = rustix::net::AddressFamily::INET;
    let second = rustix::net::socket_with(family, rustix::net::SocketType::STREAM, flags, None).unwrap();
    let began = Instant::now();
    let outcome = rustix::net::connect(&second, &address);
    assert_eq!(outcome, Err(rustix::io::Errno::INPROGRESS));
    std::thread::sleep(Duration::from_millis(1400));
    let seen = own_figures(&second);
    let elapsed = u32::try_from(began.elapsed().as_millis()).unwrap();
    assert_eq!((seen.retransmits, seen.retransmitted), (1, 1));
    let unanswered = seen.unanswered_ms.unwrap();
    // The timer of a second fires late by some tens of milliseconds at most.
    assert!(
        (elapsed - 150..=elapsed).contains(&unanswered),
        "{unanswered} of {elapsed}"
    );
}

/// An answer with one TCP socket and its `struct tcp_info`.
fn answer(info: &[u8]) -> Vec<u8> {
    const MESSAGE_BYTES: usize = 72;
    let length = 16 + MESSAGE_BYTES + 4 + info.len();
    let mut bytes = Vec::new();
    bytes.extend((length as u32).to_ne_bytes());
    // SOCK_DIAG_BY_FAMILY, NLM_F_MULTI
    bytes.extend(20_u16.to_ne_bytes());
    bytes.extend(2_u16.to_ne_bytes());
    bytes.extend([0; 8]);
    // Family, state, timer, retransmissions; the rest is 0.
    bytes.extend([AF_INET, 2, 1, 0]);
    bytes.extend([0; MESSAGE_BYTES - 4]);
    bytes.extend((info.len() as u16 + 4).to_ne_bytes());
    // INET_DIAG_INFO
    bytes.extend(2_u16.to_ne_bytes());
    bytes.extend(info);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn parsed(bytes: &[u8]) -> (Vec<InetObservation>, usize) {
    let (mut rows, mut skipped) = (Vec::new(), 0);
    let outcome = messages(bytes, &mut skipped, &mut |message| {
        if let SockDiagMessage::InetResponse(row) = message {
            rows.push(inet_observation(&row, true, 7));
        }
    });
    assert!(outcome.is_ok());
    (rows, skipped)
}

#[test]
fn figures_of_any_length() {
    for length in 0..300 {
        let (rows, skipped) = parsed(&answer(&vec![2; length]));
        assert_eq!((rows.len(), skipped), (1, 0), "{length}");
        assert_eq!(rows[0].figures.is_some(), length >= 192, "{length}");
    }
}

proptest::proptest! {
    #[test]
    fn hostile_figures_are_taken_or_left(info in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let (rows, _) = parsed(&answer(&info));
        proptest::prop_assert_eq!(rows.len(), 1);
    }

    #[test]
    fn an_answer_cut_short_or_spoilt_is_counted(cut in 0_usize..350, at in 0_usize..340, with in 4_u8..) {
        let mut bytes = answer(&[2; 248]);
        let whole = bytes.len();
        if let Some(byte) = bytes.get_mut(16 + at) {
            *byte = with;
        }
        bytes.truncate(cut);
        let (rows, skipped) = parsed(&bytes);
        proptest::prop_assert!(rows.len() + skipped <= 1);
        proptest::prop_assert!(cut < 4 || cut >= whole || skipped == 1);
    }
}

#[test]
fn broken_answers_are_counted() {
    let mut skipped = 0;
    let mut none = |_| panic!("a row");
    for bytes in [&[][..], &[0; 3], &[0; 64], &[255; 64], &[16, 0, 0, 0]] {
        assert!(!messages(bytes, &mut skipped, &mut none).unwrap());
    }
    assert_eq!(skipped, 3);
    let mut unknown = [0; 20];
    unknown[..6].copy_from_slice(&[20, 0, 0, 0, 99, 0]);
    assert!(!messages(&unknown, &mut skipped, &mut none).unwrap());
    assert_eq!(skipped, 4);
}
