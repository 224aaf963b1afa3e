//! Made-up pictures, a hundred milliseconds apart.

use rung_diagnosis::observation::{DescriptorObservation, TaskObservation};

use super::*;

const STEP_NS: u64 = 100_000_000;
const CLIENT: u32 = 100;
const SERVER: u32 = 200;
const REMOTE: &str = "10.0.0.5:443";

/// A tracker with its pictures.
struct Story {
    tracker: FlowTracker,
    now_ns: u64,
    opens: Option<Opens>,
}

impl Story {
    /// Begins with a picture of these sockets.
    fn begin(sockets: &[(InetObservation, u32)]) -> (Self, EventsObservation) {
        let mut story = Story {
            tracker: FlowTracker::new(syn_patience(6, 4)),
            now_ns: 500_000_000_000,
            opens: None,
        };
        let events = story.next(sockets);
        (story, events)
    }

    fn next(&mut self, sockets: &[(InetObservation, u32)]) -> EventsObservation {
        self.now_ns += STEP_NS;
        let task = |pid: u32, comm: &[u8]| TaskObservation {
            tid: pid,
            tgid: pid,
            comm: Comm::from_bytes(comm),
            ..TaskObservation::default()
        };
        let descriptors = sockets
            .iter()
            .filter(|(_, holder)| *holder != 0)
            .map(|(socket, holder)| DescriptorObservation {
                tid: *holder,
                fd: 3,
                file: 0,
                readable: true,
                writable: true,
                nonblocking: false,
                close_on_exec: false,
                object: FdObject::Inet(socket.id),
            });
        let picture = Picture {
            began_ns: self.now_ns,
            tasks: vec![task(CLIENT, b"client"), task(SERVER, b"server")],
            descriptors: descriptors.collect(),
            inet_sockets: sockets.iter().map(|(socket, _)| socket.clone()).collect(),
            ..Picture::default()
        };
        self.tracker.advance(&picture, self.opens)
    }
}

fn socket(inode: u64, state: u8, local: &str, remote: &str) -> InetObservation {
    InetObservation {
        id: SocketId(inode),
        inode,
        net_ns: 7,
        tcp: true,
        state,
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        read_timeout: false,
        write_timeout: false,
        receive_queue: 0,
        send_queue: 0,
        figures: Some(TcpFigures {
            bytes_acked: 1,
            ..TcpFigures::default()
        }),
        turn: None,
    }
}

fn client(inode: u64, state: u8) -> InetObservation {
    socket(inode, state, "10.0.0.1:40000", REMOTE)
}

fn syn(inode: u64, retransmitted: u32, unanswered_ms: u32) -> (InetObservation, u32) {
    let mut socket = client(inode, 2);
    socket.figures = Some(TcpFigures {
        retransmitted,
        unanswered_ms: Some(unanswered_ms),
        ..TcpFigures::default()
    });
    (socket, CLIENT)
}

/// A connection that has carried so much, the last data sent and received so long ago.
fn carried(mut socket: InetObservation, written: u64, received: u64, ago_ms: (u32, u32)) -> InetObservation {
    socket.figures = Some(TcpFigures {
        bytes_acked: written + 1,
        bytes_received: received,
        last_sent_ms: ago_ms.0,
        last_received_ms: ago_ms.1,
        ..TcpFigures::default()
    });
    socket
}

fn only(events: &EventsObservation) -> &FlowObservation {
    let [flow] = events.flows.as_slice() else {
        panic!("{:?}", events.flows)
    };
    flow
}

#[test]
fn patience_of_the_kernel() {
    assert_eq!(syn_patience(6, 0), Duration::from_secs(127));
    assert_eq!(syn_patience(6, 4), Duration::from_secs(131));
    assert_eq!(syn_patience(0, 0), Duration::from_secs(1));
    assert_eq!(syn_patience(8, 0), Duration::from_secs(127 + 120 + 120));
    assert!(syn_patience(255, 255) < Duration::from_secs(31_000));
}

#[test]
fn an_attempt_that_succeeds() {
    let (mut story, events) = Story::begin(&[]);
    assert_eq!((events.flows.len(), events.from_ns), (0, events.to_ns));
    // Not repeated yet: it may end before the next picture, and nobody would know how.
    assert_eq!(story.next(&[syn(1, 0, 940)]).flows, []);
    let events = story.next(&[syn(1, 1, 1040)]);
    let flow = only(&events);
    assert_eq!((flow.key.pid, flow.key.direction), (CLIENT, Direction::Outbound));
    assert_eq!((flow.key.address, flow.key.net_ns), (REMOTE.parse().unwrap(), 7));
    assert_eq!(flow.comm, Comm::from_bytes(b"client"));
    assert_eq!((flow.attempts, flow.established, flow.failed()), (1, 0, 0));
    assert_eq!((flow.retransmits, flow.syn_retransmits), (1, 1));
    let start_ns = story.now_ns - 1_040_000_000;
    assert_eq!(
        (flow.recent_starts_ns.as_slice(), flow.first_start_ns),
        (&[start_ns][..], start_ns)
    );
    let events = story.next(&[(client(1, 1), CLIENT)]);
    let flow = only(&events);
    assert_eq!(
        (flow.attempts, flow.established, flow.first_start_ns),
        (0, 1, start_ns)
    );
    let events = story.next(&[]);
    assert_eq!((only(&events).closed, only(&events).failed()), (1, 0));
    assert_eq!(events.to_ns - events.from_ns, STEP_NS);
    assert_eq!((events.forks_total, events.exits_total), (0, 0));
}

#[test]
fn an_attempt_that_is_answered_at_once() {
    let (mut story, _) = Story::begin(&[]);
    story.next(&[syn(1, 0, 40)]);
    let events = story.next(&[(client(1, 1), CLIENT)]);
    let flow = only(&events);
    assert_eq!((flow.attempts, flow.established), (1, 1));
    assert_eq!((flow.syn_retransmits, flow.recent_starts_ns.len()), (0, 0));
}

/// Short connections over a long way: they are seen while they are made, and not once they are done.
#[test]
fn attempts_of_unknown_fate_do_not_count() {
    let (mut story, _) = Story::begin(&[]);
    for inode in 1..100 {
        assert_eq!(story.next(&[syn(inode, 0, 40)]).flows, []);
    }
}

#[test]
fn an_attempt_that_is_given_up() {
    for (retransmitted, unanswered_ms, wanted) in
        [(1, 1000, (1, 0)), (9, 126_000, (1, 0)), (10, 130_950, (0, 1))]
    {
        let (mut story, _) = Story::begin(&[]);
        story.next(&[syn(1, 0, 10)]);
        let events = story.next(&[syn(1, retransmitted, unanswered_ms)]);
        assert_eq!(only(&events).syn_retransmits, u64::from(retransmitted));
        let events = story.next(&[]);
        let flow = only(&events);
        assert_eq!(
            (flow.aborted, flow.timed_out),
            wanted,
            "{retransmitted} {unanswered_ms}"
        );
        assert_eq!((flow.established, flow.closed, flow.attempts), (0, 0, 0));
    }
}

#[test]
fn a_late_success_that_has_been_closed_is_none_that_failed() {
    let (mut story, _) = Story::begin(&[syn(1, 1, 1000)]);
    let mut orphan = client(0, 5);
    orphan.id = SocketId(1 << 63);
    let events = story.next(&[(orphan, 0)]);
    let flow = only(&events);
    assert_eq!((flow.established, flow.closed, flow.failed()), (1, 1, 0));
}

#[test]
fn attempts_under_way_at_the_start_count_and_connections_do_not() {
    let (mut story, events) = Story::begin(&[syn(1, 2, 3000), (client(2, 1), CLIENT)]);
    let flow = only(&events);
    assert_eq!((flow.attempts, flow.established), (1, 0));
    assert_eq!(
        (flow.syn_retransmits, flow.first_start_ns),
        (2, story.now_ns - 3_000_000_000)
    );
    let events = story.next(&[]);
    assert_eq!((only(&events).aborted, only(&events).closed), (1, 1));
}

#[test]
fn whoever_has_a_listener_on_the_port_accepts() {
    let listener = (socket(9, 10, "0.0.0.0:443", "0.0.0.0:0"), SERVER);
    let accepted = (socket(10, 1, "10.0.0.5:443", "10.0.0.1:40000"), SERVER);
    let (mut story, _) = Story::begin(std::slice::from_ref(&listener));
    let events = story.next(&[listener, (client(1, 1), CLIENT), accepted]);
    let [outbound, inbound] = events.flows.as_slice() else {
        panic!("{:?}", events.flows)
    };
    assert_eq!((outbound.key.pid, inbound.key.pid), (CLIENT, SERVER));
    assert_eq!(inbound.key.direction, Direction::Inbound);
    assert_eq!(inbound.key.address, "0.0.0.0:443".parse().unwrap());
    assert_eq!((inbound.attempts, inbound.established), (1, 1));
    assert_eq!((outbound.attempts, outbound.established), (1, 1));
}

#[test]
fn a_listener_of_another_namespace_is_not_meant() {
    let mut listener = socket(9, 10, "[::]:40000", "[::]:0");
    listener.net_ns = 8;
    let (mut story, _) = Story::begin(&[]);
    let events = story.next(&[(listener, SERVER), (client(1, 1), CLIENT)]);
    assert_eq!(only(&events).key.direction, Direction::Outbound);
}

#[test]
fn an_inode_that_is_used_again_is_another_connection() {
    let (mut story, _) = Story::begin(&[(client(1, 1), CLIENT)]);
    let again = socket(1, 1, "10.0.0.1:40001", REMOTE);
    let events = story.next(&[(again, CLIENT)]);
    let flow = only(&events);
    assert_eq!((flow.attempts, flow.established, flow.closed), (1, 1, 1));
}

#[test]
fn sockets_of_nobody_known_are_in_no_flow() {
    let (mut story, _) = Story::begin(&[]);
    assert_eq!(story.next(&[(client(1, 1), 0)]).flows, []);
    // Its process is known later: it is not taken for a new one.
    let events = story.next(&[(client(1, 1), CLIENT)]);
    assert_eq!((only(&events).attempts, only(&events).established), (0, 0));
    let (mut story, _) = Story::begin(&[]);
    let nobody = (syn(1, 1, 1010).0, 0);
    assert_eq!(story.next(&[nobody]).flows, []);
    let events = story.next(&[syn(1, 1, 1110)]);
    assert_eq!(only(&events).attempts, 1);
}

/// A count of the namespace's connections.
fn opens(active: u64, passive: u64) -> Option<Opens> {
    Some(Opens { active, passive })
}

/// So many connections of the client, all there at once.
fn many(count: u64) -> Vec<(InetObservation, u32)> {
    (1..=count)
        .map(|number| {
            (
                socket(number, 1, &format!("10.0.0.1:{}", 40_000 + number), REMOTE),
                CLIENT,
            )
        })
        .collect()
}

#[test]
fn connects_between_pictures_are_counted_as_lost() {
    let (mut story, _) = Story::begin(&[]);
    story.tracker = FlowTracker::new(syn_patience(6, 4));
    story.opens = opens(1000, 0);
    assert_eq!(story.next(&[]).flows_lost, 0);
    story.opens = opens(1010, 0);
    let events = story.next(&many(1));
    assert_eq!((events.flows_lost, only(&events).attempts), (9, 1));
    let tracking = story.tracker.tracking();
    assert_eq!(
        (tracking.missed, tracking.connects, tracking.too_short),
        (9, 10, false)
    );
    // The count may have been read a little earlier than the sockets.
    assert_eq!(story.next(&many(2)).flows_lost, 0);
    story.opens = opens(1011, 0);
    assert_eq!(story.next(&many(2)).flows_lost, 0);
}

#[test]
fn flows_are_not_told_where_too_many_are_missed() {
    for (missed, told) in [(0, true), (24, true), (25, false), (1000, false)] {
        let (mut story, _) = Story::begin(&[]);
        story.tracker = FlowTracker::new(syn_patience(6, 4));
        story.opens = opens(7, 7);
        story.next(&[]);
        story.opens = opens(107 + missed, 7);
        let events = story.next(&many(100));
        assert_eq!(events.flows.len() == 1, told, "{missed}");
        assert_eq!(story.tracker.tracking().too_short, !told);
    }
}

#[test]
fn turns_are_not_told_where_there_must_have_been_more() {
    // Every so many pictures a request and its answer.
    for (every, told) in [(1, 0), (4, 25)] {
        let (mut story, _) = Story::begin(&[]);
        let mut requests = Vec::new();
        for look in 0..200_u64 {
            let carried = carried(client(1, 1), look / every * 10, look / every * 10, (5, 1));
            let events = story.next(&[(carried, CLIENT)]);
            requests.push(only(&events).requests);
        }
        assert_eq!(requests[100..].iter().sum::<u64>(), told, "{every}");
        assert_eq!(story.tracker.tracking().too_busy, told == 0);
    }
    let (mut story, _) = Story::begin(&[]);
    story.tracker = FlowTracker::new(syn_patience(6, 4));
    story.opens = opens(0, 0);
    story.next(&[]);
    story.opens = opens(1, 100);
    let events = story.next(&[(carried(client(1, 1), 10, 10, (5, 1)), CLIENT)]);
    assert_eq!((only(&events).attempts, only(&events).requests), (1, 0));
    assert!(story.tracker.tracking().too_short_inbound);
}

/// Requests and answers of a connection that is seen with these bytes, one after the other.
fn turns(inbound: bool, looks: &[(u64, u64, (u32, u32))]) -> Vec<(u64, u64)> {
    let listener = (socket(9, 10, "10.0.0.1:40000", "0.0.0.0:0"), SERVER);
    let with = |connection: Option<InetObservation>| {
        let mut sockets: Vec<_> = connection.map(|socket| (socket, CLIENT)).into_iter().collect();
        sockets.extend(inbound.then(|| listener.clone()));
        sockets
    };
    let (mut story, _) = Story::begin(&with(None));
    looks
        .iter()
        .map(|(written, received, ago_ms)| {
            let events = story.next(&with(Some(carried(client(1, 1), *written, *received, *ago_ms))));
            (only(&events).requests, only(&events).responses)
        })
        .collect()
}

#[test]
fn turns_of_the_one_who_asks() {
    let looks = [
        (0, 0, (5, 5)),
        (100, 0, (5, 90)),
        (150, 0, (5, 190)),
        (150, 700, (105, 5)),
        (150, 900, (205, 5)),
        // A whole request and its answer in between, and then another request.
        (250, 1700, (50, 5)),
        (350, 1800, (5, 50)),
        (450, 1900, (5, 50)),
        (550, 2000, (50, 5)),
        (550, 2000, (150, 105)),
    ];
    let counted = [
        (0, 0),
        (1, 0),
        (0, 0),
        (0, 1),
        (0, 0),
        (1, 1),
        (1, 0),
        (1, 1),
        (0, 1),
        (0, 0),
    ];
    assert_eq!(turns(false, &looks), counted);
}

#[test]
fn turns_of_the_one_who_is_asked() {
    let looks = [
        (0, 100, (90, 5)),
        (0, 200, (90, 5)),
        (50, 200, (5, 105)),
        (100, 300, (5, 50)),
        (100, 400, (105, 5)),
    ];
    assert_eq!(turns(true, &looks), [(1, 0), (0, 0), (0, 1), (1, 1), (1, 0)]);
}

#[test]
fn a_greeting_is_no_answer_and_an_end_no_question() {
    assert_eq!(
        turns(false, &[(0, 80, (90, 5)), (20, 80, (5, 105))]),
        [(0, 0), (1, 0)]
    );
    let (mut story, _) = Story::begin(&[]);
    story.next(&[(carried(client(1, 1), 10, 10, (5, 1)), CLIENT)]);
    // Both ends have closed: each FIN counts for a byte.
    let closed = carried(client(1, 9), 11, 11, (5, 1));
    let events = story.next(&[(closed, CLIENT)]);
    assert_eq!((only(&events).requests, only(&events).responses), (0, 0));
}

#[test]
fn an_old_connection_goes_on_where_it_stands() {
    for (before, wanted) in [
        // Its question is out, it has its answer, nothing was said.
        (carried(client(1, 1), 10, 10, (5, 50)), (0, 1)),
        (carried(client(1, 1), 10, 10, (50, 5)), (0, 0)),
        (carried(client(1, 1), 10, 0, (50, 5)), (0, 1)),
        (client(1, 1), (0, 0)),
    ] {
        let (mut story, _) = Story::begin(&[(before.clone(), CLIENT)]);
        let figures = before.figures.unwrap();
        let after = carried(
            before,
            figures.bytes_acked - 1,
            figures.bytes_received + 10,
            (105, 1),
        );
        let events = story.next(&[(after, CLIENT)]);
        assert_eq!((only(&events).requests, only(&events).responses), wanted);
    }
}

#[test]
fn without_figures_nothing_is_claimed() {
    let mut bare = client(1, 2);
    bare.figures = None;
    let (mut story, _) = Story::begin(&[]);
    assert_eq!(story.next(&[(bare.clone(), CLIENT)]).flows, []);
    bare.state = 1;
    let events = story.next(&[(bare, CLIENT)]);
    let flow = only(&events);
    assert_eq!(
        (flow.attempts, flow.established, flow.requests, flow.retransmits),
        (1, 1, 0, 0)
    );
    assert_eq!(only(&story.next(&[])).closed, 1);
}
