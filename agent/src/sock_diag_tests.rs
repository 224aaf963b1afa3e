//! The own sockets of the test, as the kernel tells of them.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

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
