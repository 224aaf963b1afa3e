//! Connections whose reader does not read.

use std::collections::{BTreeMap, BTreeSet};

use super::super::service::{address_in_words, named};
use super::super::{Context, Draft, Party, count};
use super::{LISTED, chain_from, unmoved_since};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::WaitKind;
use crate::index::TCP_ESTABLISHED;
use crate::mode::Mode;
use crate::observation::InetObservation;

/// The peer's acknowledgements count as current if they are no older than this: probes of a closed window are answered at
/// most 120 s apart (TCP_RTO_MAX), and at first much sooner.
const PROBED_MS: u32 = 130_000;

/// A finding for each reader that does not read, however many connections it has.
pub(super) fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut readers: BTreeMap<(u32, bool), Vec<Stuck<'_>>> = BTreeMap::new();
    for socket in &context.picture.inet_sockets {
        if let Some(stuck) = held_back(context, socket).or_else(|| unread(context, socket)) {
            readers.entry((stuck.pid, stuck.reads)).or_default().push(stuck);
        }
    }
    readers
        .into_values()
        .filter_map(|stuck| reader(context, &stuck))
        .collect()
}

/// A connection that does not move because somebody does not read.
struct Stuck<'a> {
    /// Who reads if it is on this host, otherwise who sends.
    pid: u32,
    /// Whether `pid` is the one that does not read.
    reads: bool,
    /// The end that was looked at.
    socket: &'a InetObservation,
    /// The other end, if it is on this host.
    peer: Option<&'a InetObservation>,
    /// Who waits, if on this host.
    sender: Option<u32>,
    since_ns: u64,
    bytes: u32,
    /// Whether the closed window was seen, and not concluded.
    proven: bool,
}

/// A sender's end that only the reader's window can hold back: nothing in flight, and bytes wait to be sent.
fn held_back<'a>(context: &Context<'a>, socket: &'a InetObservation) -> Option<Stuck<'a>> {
    let figures = socket.figures?;
    if !socket.tcp || socket.state != TCP_ESTABLISHED || socket.send_queue == 0 {
        return None;
    }
    let index = context.index;
    let peer = index.inet_peer(socket).and_then(|peer| index.inet(peer));
    let stands = peer.is_some_and(|peer| peer.receive_queue > 0);
    let closed = figures.send_window == 0;
    let probed = figures.last_ack_ms <= PROBED_MS;
    // Loopback has segments of 64 KiB, and a window smaller than one of them stops the sender just as well.
    let idle = figures.packets_out == 0 && figures.not_sent > 0;
    if figures.backoff > 0 && !closed || !(closed && probed && (idle || figures.probes > 0) || idle && stands)
    {
        return None;
    }
    let holders = index.socket_processes(socket.id);
    let sender = holders.first().copied();
    let sent = u64::from(figures.last_sent_ms) * 1_000_000;
    let mut since_ns = context.picture.began_ns.saturating_sub(sent);
    // A window that opens a little lets a little through; then the writer's wait, or what the window of pictures saw, may
    // be longer than the time since the last segment.
    let blocked = holders
        .iter()
        .flat_map(|pid| index.threads(*pid))
        .filter_map(|task| {
            let wait = context.graph.wait(task.tid)?;
            (wait.kind == WaitKind::SocketWrite(socket.id)).then_some(wait.since_ns?)
        });
    if let Some(blocked) = blocked.min() {
        since_ns = since_ns.min(blocked);
    }
    // A reader of this host that takes a little now and then is only slow: nothing was taken as long as the pictures showed
    // none of it, or none of its threads has run.
    if let Some(peer) = peer {
        let untouched = context.window.network.sockets.get(&peer.id);
        let untouched = untouched.and_then(|socket| socket.unread_since_ns);
        let unmoved = unmoved_since(context, &index.socket_processes(peer.id));
        since_ns = since_ns.max(untouched.into_iter().chain(unmoved).min()?);
    }
    if context.age(since_ns) < context.settings.backpressure {
        return None;
    }
    let reader = peer.and_then(|peer| index.socket_processes(peer.id).first().copied());
    Some(Stuck {
        pid: reader.or(sender)?,
        reads: reader.is_some(),
        socket,
        peer,
        sender,
        since_ns,
        bytes: peer.map_or(figures.not_sent, |peer| peer.receive_queue),
        proven: closed || stands,
    })
}

/// A reader's end that stands full while nothing is taken out; the sender is elsewhere.
fn unread<'a>(context: &Context<'a>, socket: &'a InetObservation) -> Option<Stuck<'a>> {
    let index = context.index;
    if !socket.tcp
        || socket.state != TCP_ESTABLISHED
        || socket.receive_queue < context.settings.unread_bytes
        || index.inet_peer(socket).is_some()
    {
        return None;
    }
    let since_ns = context.window.network.sockets.get(&socket.id)?.unread_since_ns?;
    // Somebody who has stopped sending may just have had that much to say.
    let probing = socket
        .figures
        .is_some_and(|figures| figures.last_ack_ms < figures.last_received_ms);
    if context.age(since_ns) < context.settings.backpressure || !probing {
        return None;
    }
    Some(Stuck {
        pid: *index.socket_processes(socket.id).first()?,
        reads: true,
        socket,
        peer: None,
        sender: None,
        since_ns,
        bytes: socket.receive_queue,
        proven: false,
    })
}

fn reader(context: &Context<'_>, stuck: &[Stuck<'_>]) -> Option<Draft> {
    let first = stuck.iter().min_by_key(|one| one.since_ns)?;
    let pid = first.pid;
    if first.reads && context.awaits_person(pid) {
        return None;
    }
    let who = named(context, pid);
    let remote = address_in_words(context, first.socket.remote);
    let more = match stuck.len() {
        1 => String::new(),
        many => format!(", on {}", count(many, "connection")),
    };
    let kib = first.bytes / 1024;
    let (summary, bound, protects) = match (first.reads, first.sender.filter(|sender| *sender != pid)) {
        (true, Some(sender)) => (
            format!(
                "{who} does not read what {} sends it: {kib} KiB wait to be read{more}",
                named(context, sender)
            ),
            "receive buffer of the reader",
            who.clone(),
        ),
        (true, None) => (
            format!("{who} does not read what comes from {remote}: {kib} KiB wait to be read{more}"),
            "receive buffer of the reader",
            who.clone(),
        ),
        (false, _) => (
            format!(
                "{remote} does not read what {who} sends it{more}: its window is closed, and the cause is beyond this host"
            ),
            "receive buffer of the peer",
            remote.clone(),
        ),
    };
    let source = context.source();
    let mut evidence = vec![
        Evidence::new("unread", u64::from(first.bytes), "bytes", source),
        Evidence::new("bound", bound, "", source),
        Evidence::new("protects", format!("the memory of {protects}"), "", source),
        Evidence::new("unmoved", context.age(first.since_ns).as_secs_f64(), "s", source),
        Evidence::new("connections", stuck.len(), "connections", source),
    ];
    if first.sender.is_some()
        && let Some(figures) = first.socket.figures
    {
        evidence.push(Evidence::new(
            "window",
            u64::from(figures.send_window),
            "bytes",
            source,
        ));
        evidence.push(Evidence::new(
            "not_sent",
            u64::from(figures.not_sent),
            "bytes",
            source,
        ));
        evidence.push(Evidence::new(
            "probes",
            u64::from(figures.probes),
            "probes",
            source,
        ));
        let limited = [
            ("limited_by_window", figures.receive_window_limited_us),
            ("limited_by_send_buffer", figures.send_buffer_limited_us),
        ];
        for (signal, us) in limited.into_iter().filter(|(_, us)| *us > 0) {
            evidence.push(Evidence::new(signal, us as f64 / 1e6, "s", source));
        }
    }
    let senders: BTreeSet<u32> = stuck.iter().filter_map(|one| one.sender).collect();
    let flow = match first.peer {
        Some(peer) => (Some(peer.local), peer.remote),
        None => (Some(first.socket.local), first.socket.remote),
    };
    Some(Draft {
        mode: Mode::Backpressure,
        severity: Severity::Warning,
        confidence: if first.proven {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(pid),
        others: senders
            .into_iter()
            .filter(|sender| *sender != pid)
            .take(LISTED)
            .map(|sender| (Role::Waiter, Party::process(sender)))
            .collect(),
        members: Vec::new(),
        since_ns: Some(first.since_ns),
        summary,
        evidence,
        chain_from: chain_from(context, pid),
        flow: Some(flow),
        depends_on: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Scene;
    use super::*;
    use crate::observation::{Call, TcpFigures};

    const SENDER: (u32, i32) = (10, 3);

    /// A sender with a closed window since so many seconds; its reader is on this host.
    fn closed(sender: &str, reader: &str, seconds: f64) -> Scene {
        let mut scene = Scene::new();
        scene.process(10, "sender");
        scene.process(20, "reader");
        let socket = scene.connection(SENDER.0, SENDER.1, sender, reader);
        socket.send_queue = 500_000;
        socket.figures = Some(TcpFigures {
            send_window: 0,
            not_sent: 500_000,
            packets_out: 0,
            probes: 2,
            last_sent_ms: (seconds * 1e3) as u32,
            last_ack_ms: 300,
            ..socket.figures.unwrap()
        });
        scene.connection(20, 4, reader, sender).receive_queue = 300_000;
        scene
    }

    fn drafts(scene: &mut Scene) -> Vec<Draft> {
        scene.drafts(Mode::Backpressure)
    }

    #[test]
    fn the_reader_that_does_not_read_is_named_by_both_families_and_its_sender_waits() {
        for (sender, reader) in [("127.0.0.1:4000", "127.0.0.1:80"), ("[::1]:4000", "[::1]:80")] {
            let found = drafts(&mut closed(sender, reader, 5.0));
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].subject, Party::process(20));
            assert_eq!(found[0].others, [(Role::Waiter, Party::process(10))]);
            assert_eq!(found[0].confidence, Confidence::Proven);
        }
    }

    #[test]
    fn a_window_that_closed_a_moment_ago_may_open_again() {
        assert_eq!(
            drafts(&mut closed("127.0.0.1:4000", "127.0.0.1:80", 2.9)).len(),
            0
        );
        assert_eq!(
            drafts(&mut closed("127.0.0.1:4000", "127.0.0.1:80", 3.1)).len(),
            1
        );
    }

    #[test]
    fn a_reader_beyond_this_host_leaves_the_local_end_as_the_subject() {
        let mut scene = closed("192.0.2.1:4000", "192.0.2.9:80", 5.0);
        scene.close(20, 4);
        let found = drafts(&mut scene);
        assert_eq!(found[0].subject, Party::process(10));
        assert!(
            found[0].summary.contains("beyond this host"),
            "{}",
            found[0].summary
        );
        assert!(found[0].summary.contains("192.0.2.9:80"));
    }

    #[test]
    fn what_is_in_flight_without_an_answer_is_a_black_hole_and_no_closed_window() {
        let mut scene = closed("192.0.2.1:4000", "192.0.2.9:80", 20.0);
        scene.close(20, 4);
        let figures = scene.at(10, 3).figures.as_mut().unwrap();
        (figures.send_window, figures.packets_out, figures.backoff) = (65_535, 10, 5);
        (figures.probes, figures.last_ack_ms) = (0, 20_000);
        assert_eq!(drafts(&mut scene).len(), 0);
    }

    #[test]
    fn a_window_smaller_than_a_segment_stops_the_sender_on_loopback_as_well() {
        let mut scene = closed("127.0.0.1:4000", "127.0.0.1:80", 5.0);
        let figures = scene.at(10, 3).figures.as_mut().unwrap();
        (figures.send_window, figures.probes) = (4096, 0);
        assert_eq!(drafts(&mut scene).len(), 1);
        // The reader has taken everything: the rest is on its way.
        scene.at(20, 4).receive_queue = 0;
        assert_eq!(drafts(&mut scene).len(), 0);
    }

    #[test]
    fn a_reader_of_this_host_that_takes_a_little_now_and_then_is_only_slow() {
        let mut scene = closed("127.0.0.1:4000", "127.0.0.1:80", 20.0);
        for taken in [0, 10_000, 20_000] {
            scene.at(20, 4).receive_queue = 300_000 - taken;
            scene.at(20, 4).figures.as_mut().unwrap().bytes_received = 300_000;
            scene.blocks(20, Call::Sleep, 0.1);
            scene.pass(2.0);
        }
        scene.blocks(20, Call::Sleep, 0.1);
        assert_eq!(drafts(&mut scene).len(), 0);
        // It has gone on sleeping since.
        scene.pass(3.0);
        assert_eq!(drafts(&mut scene).len(), 1);
    }

    #[test]
    fn a_person_at_a_terminal_may_read_as_slowly_as_they_like() {
        let mut scene = closed("127.0.0.1:4000", "127.0.0.1:80", 50.0);
        scene.terminal(20, 0);
        scene.blocks(20, Call::Read { fd: 0 }, 50.0);
        assert_eq!(drafts(&mut scene).len(), 0);
    }

    #[test]
    fn a_receive_queue_that_stands_full_convicts_its_reader_if_the_sender_is_elsewhere_and_probes() {
        for (bytes, last_ack_ms, expected) in [(65_536, 100, 1), (65_535, 100, 0), (65_536, 9000, 0)] {
            let mut scene = Scene::new();
            scene.process(20, "reader");
            let socket = scene.connection(20, 4, "192.0.2.1:80", "192.0.2.9:4000");
            socket.receive_queue = bytes;
            let figures = socket.figures.as_mut().unwrap();
            figures.bytes_received = 1_000_000;
            (figures.last_received_ms, figures.last_ack_ms) = (9000, last_ack_ms);
            scene.pass(4.0);
            let found = drafts(&mut scene);
            assert_eq!(found.len(), expected, "{bytes} {last_ack_ms}");
            assert!(found.iter().all(|one| one.subject == Party::process(20)));
        }
    }

    #[test]
    fn a_reader_that_takes_something_is_only_slow() {
        let mut scene = Scene::new();
        scene.process(20, "reader");
        let socket = scene.connection(20, 4, "192.0.2.1:80", "192.0.2.9:4000");
        socket.receive_queue = 100_000;
        socket.figures.as_mut().unwrap().bytes_received = 1_000_000;
        scene.pass(2.0);
        scene.at(20, 4).figures.as_mut().unwrap().bytes_received = 1_010_000;
        scene.at(20, 4).figures.as_mut().unwrap().last_ack_ms = 10;
        scene.pass(2.0);
        assert_eq!(drafts(&mut scene).len(), 0);
    }
}
