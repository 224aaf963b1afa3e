//! Waits that go on through sockets to their other ends.

use crate::detect::fixture::{ELSEWHERE, HERE, Scene, address};
use crate::diagnose::why;
use crate::graph::{Node, Prospect, WaitGraph};
use crate::index::{Index, TCP_SYN_SENT};
use crate::observation::{Call, FdObject, Watch};

const CLIENT: &str = "10.99.0.1:40000";
const SERVER: &str = "10.99.0.2:80";

/// A client in one namespace that reads from a server in another.
fn across() -> Scene {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.process(200, "server");
    scene.connection(100, 3, CLIENT, SERVER);
    scene.connection(200, 4, SERVER, CLIENT).net_ns = ELSEWHERE;
    scene.blocks(100, Call::Read { fd: 3 }, 5.0);
    scene
}

#[test]
fn the_other_end_is_found_across_namespaces_if_it_is_the_only_one() {
    let mut scene = across();
    assert_eq!(why(&scene.picture, &[100])[0].chain[0].on, Some(200));
    // Two hosts' worth of containers with the same addresses.
    scene.process(300, "twin");
    scene.connection(300, 4, SERVER, CLIENT).net_ns = 7;
    let chain = why(&scene.picture, &[100])[0].chain.clone();
    assert_eq!(chain[0].ends, Some(format!("{SERVER}, beyond this host")));
}

#[test]
fn loopback_stays_in_its_namespace() {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.process(200, "server");
    scene.connection(100, 3, "[::1]:40000", "[::1]:80");
    scene.connection(200, 4, "[::1]:80", "[::1]:40000").net_ns = ELSEWHERE;
    scene.blocks(100, Call::Read { fd: 3 }, 5.0);
    assert_eq!(why(&scene.picture, &[100])[0].chain[0].on, None);
    scene.at(200, 4).net_ns = HERE;
    assert_eq!(why(&scene.picture, &[100])[0].chain[0].on, Some(200));
}

#[test]
fn a_listener_of_another_namespace_is_known_by_that_namespaces_address() {
    let mut scene = Scene::new();
    scene.process(200, "server");
    scene.listener(200, 3, "[::]:80", 8).net_ns = ELSEWHERE;
    let to = address("[fd00::2]:80");
    let holder = |scene: &Scene| {
        let index = Index::new(&scene.picture);
        let listener = index.listener_for(HERE, to);
        listener.map(|listener| index.socket_processes(listener.id))
    };
    assert_eq!(holder(&scene), None);
    scene.network(ELSEWHERE).addresses = vec![to.ip()];
    assert_eq!(holder(&scene), Some(vec![200]));
    scene.network(7).addresses = vec![to.ip()];
    assert_eq!(holder(&scene), None, "two namespaces with one address");
    scene.network(HERE).addresses = vec![to.ip()];
    assert_eq!(holder(&scene), None, "an own address is not looked for elsewhere");
}

#[test]
fn inbound_is_what_a_listener_of_the_same_namespace_fits() {
    let mut scene = across();
    scene.listener(200, 5, "0.0.0.0:80", 8);
    let inbound = |scene: &mut Scene| {
        let socket = scene.at(200, 4).clone();
        Index::new(&scene.picture).is_inbound(&socket)
    };
    assert!(!inbound(&mut scene), "that listener is of another namespace");
    scene.at(200, 5).net_ns = ELSEWHERE;
    assert!(inbound(&mut scene));
    scene.at(200, 5).local = address("10.99.0.9:80");
    assert!(!inbound(&mut scene));
}

#[test]
fn a_poll_for_an_unfinished_connect_waits_for_the_listener() {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.process(200, "server");
    scene.listener(200, 3, "127.0.0.1:80", 8);
    scene.socket(100, 3, TCP_SYN_SENT, "127.0.0.1:40000", "127.0.0.1:80");
    let watched = vec![Watch {
        fd: 3,
        read: false,
        write: true,
    }];
    let call = Call::Poll {
        watched,
        incomplete: false,
    };
    scene.blocks(100, call, 5.0);
    let reaches = |scene: &Scene| {
        let graph = WaitGraph::new(&Index::new(&scene.picture));
        graph
            .reach(Node::Thread(100))
            .into_iter()
            .map(|(node, _)| node)
            .collect::<Vec<_>>()
    };
    assert!(reaches(&scene).contains(&Node::Thread(200)));
    scene.close(200, 3);
    assert!(reaches(&scene).contains(&Node::Remote(address("127.0.0.1:80"))));
}

#[test]
fn what_was_not_accepted_yet_waits_for_the_listener_and_is_no_knot() {
    let mut scene = Scene::new();
    scene.process(100, "client");
    scene.process(200, "server");
    scene.listener(200, 3, "127.0.0.1:80", 8);
    scene.connection(100, 3, "127.0.0.1:40000", "127.0.0.1:80");
    scene.blocks(100, Call::Read { fd: 3 }, 5.0);
    // The server waits for that very client.
    scene.connection(200, 4, "127.0.0.1:50000", "127.0.0.1:90");
    scene.connection(100, 4, "127.0.0.1:90", "127.0.0.1:50000");
    scene.blocks(200, Call::Read { fd: 4 }, 5.0);
    let answer = &why(&scene.picture, &[100])[0];
    assert_eq!(
        (answer.chain[0].on, answer.prospect),
        (Some(200), Prospect::Alive)
    );
}

#[test]
fn a_chain_goes_on_through_an_event_poll_to_the_connection_that_awaits_an_answer() {
    let mut scene = across();
    scene.at(100, 3).figures.as_mut().unwrap().last_sent_ms = 4000;
    scene.listener(200, 5, "0.0.0.0:80", 8).net_ns = ELSEWHERE;
    let upstream = scene.connection(200, 6, "10.99.0.2:41000", "10.99.0.3:5432");
    upstream.net_ns = ELSEWHERE;
    upstream.figures.as_mut().unwrap().last_sent_ms = 4000;
    let watched = [4, 5, 6].map(|fd| Watch {
        fd,
        read: true,
        write: false,
    });
    let mut row = scene.picture.descriptors[0].clone();
    (row.tid, row.fd) = (200, 9);
    row.object = FdObject::Epoll {
        watched: watched.to_vec(),
        incomplete: false,
    };
    scene.picture.descriptors.push(row);
    scene.blocks(200, Call::EpollWait { fd: 9 }, 4.0);
    let chain = why(&scene.picture, &[100])[0].chain.clone();
    assert_eq!(chain[0].on, Some(200));
    assert!(chain[1].waits.contains("-> 10.99.0.3:5432"), "{}", chain[1].waits);
    assert_eq!(chain[1].ends.as_deref(), Some("10.99.0.3:5432, beyond this host"));
    // Nothing asked, nothing awaited: an idle server.
    scene.at(200, 6).figures.as_mut().unwrap().last_sent_ms = 20_000;
    assert_eq!(why(&scene.picture, &[100])[0].chain[1].on, None);
}
