//! Listeners whose queue is full.

use std::collections::BTreeSet;

use super::super::{Context, Draft, Party};
use super::{LISTED, chain_from, unmoved_since};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::index::TCP_LISTEN;
use crate::mode::Mode;
use crate::observation::InetObservation;

/// Kernel state number of a connection that was asked for and not answered yet.
const TCP_SYN_SENT: u8 = 2;

/// A finding for each listener that does not keep up.
pub(super) fn detect(context: &Context<'_>) -> Vec<Draft> {
    let sockets = context.picture.inet_sockets.iter();
    let listeners = sockets.filter(|socket| socket.tcp && socket.state == TCP_LISTEN);
    listeners
        .filter_map(|listener| listening(context, listener))
        .collect()
}

fn listening(context: &Context<'_>, listener: &InetObservation) -> Option<Draft> {
    let settings = context.settings;
    let (queued, limit) = (listener.receive_queue, listener.send_queue);
    let history = &context.window.network;
    let holders = context.index.socket_processes(listener.id);
    let subject = *holders.first()?;
    // Those who knock and get no answer.
    let knocking: Vec<&InetObservation> = context
        .picture
        .inet_sockets
        .iter()
        .filter(|socket| socket.tcp && socket.state == TCP_SYN_SENT)
        .filter(|socket| socket.remote.port() == listener.local.port())
        .filter(|socket| {
            let taken_by = context.index.inet_listener(socket);
            taken_by.is_some_and(|one| one.id == listener.id)
        })
        .collect();
    let unanswered_ms = knocking
        .iter()
        .filter_map(|socket| socket.figures?.unanswered_ms)
        .max();
    let first_knock =
        unanswered_ms.map(|ms| context.picture.began_ns.saturating_sub(u64::from(ms) * 1_000_000));
    let full = queued > limit;
    let seen_full = history
        .sockets
        .get(&listener.id)
        .and_then(|socket| socket.unread_since_ns);
    let unmoved = unmoved_since(context, &holders);
    let oldest = [seen_full, unmoved, first_knock].into_iter().flatten().min();
    let full_since = oldest.filter(|since| full && context.age(*since) >= settings.backpressure);
    let was_full = history
        .backlogs
        .get(&listener.id)
        .is_some_and(|seen| seen.iter().any(|(_, queued)| *queued > limit));
    let overflows =
        overflow_rate(context, listener.net_ns).filter(|rate| was_full && *rate >= settings.overflow_rate);
    if full_since.is_none() && overflows.is_none() {
        return None;
    }
    let comm = context.comm(subject);
    let to = listener.local;
    let what = if full_since.is_some() {
        format!("does not accept connections on {to}: {queued} wait and its limit is {limit}")
    } else {
        format!("accepts connections on {to} more slowly than they come: its queue of {limit} overflows")
    };
    let source = context.source();
    let mut evidence = vec![
        Evidence::new("queue", u64::from(queued), "connections", source),
        Evidence::new(
            "bound",
            u64::from(limit),
            "connections (backlog of listen(2))",
            source,
        ),
        Evidence::new(
            "protects",
            format!("{comm} from more connections than it can take"),
            "",
            source,
        ),
    ];
    if let Some(since) = full_since {
        let full = context.age(since).as_secs_f64();
        evidence.push(Evidence::new("full", full, "s", source));
    }
    if let Some(rate) = overflows {
        evidence.push(Evidence::from_file(
            "turned_away",
            rate,
            "connections/s",
            "ListenOverflows",
        ));
    }
    let clients: BTreeSet<u32> = knocking
        .iter()
        .flat_map(|socket| context.index.socket_processes(socket.id))
        .collect();
    if !knocking.is_empty() {
        evidence.push(Evidence::new(
            "without_answer",
            knocking.len(),
            "attempts",
            source,
        ));
    }
    let critical = overflows.is_some_and(|rate| rate >= settings.overflow_rate_critical);
    let mut others: Vec<(Role, Party)> = clients
        .into_iter()
        .take(LISTED)
        .map(|pid| (Role::Waiter, Party::process(pid)))
        .collect();
    others.extend(
        holders
            .iter()
            .skip(1)
            .map(|pid| (Role::Listener, Party::process(*pid))),
    );
    let since_ns = if full_since.is_some() {
        since(context, seen_full, unmoved, first_knock)
    } else {
        None
    };
    Some(Draft {
        mode: Mode::Backpressure,
        severity: if critical {
            Severity::Critical
        } else {
            Severity::Warning
        },
        confidence: if full_since.is_some() {
            Confidence::Proven
        } else {
            Confidence::Likely
        },
        subject: Party::process(subject),
        others,
        members: Vec::new(),
        since_ns,
        summary: format!("{comm} ({subject}) {what}"),
        evidence,
        chain_from: chain_from(context, subject),
        flow: None,
        depends_on: Vec::new(),
    })
}

/// When a queue became full: seen to do so, or when the first one knocked in vain. If it was full in the first picture
/// already, and all who knock now began a moment ago, others have given up before them: then it is the last time that
/// somebody could have accepted.
fn since(
    context: &Context<'_>,
    seen_full: Option<u64>,
    unmoved: Option<u64>,
    first_knock: Option<u64>,
) -> Option<u64> {
    let became_full = seen_full.filter(|since| *since > context.window.began_ns);
    let first_knock = first_knock
        .filter(|knock| became_full.is_some() || context.age(*knock) >= context.settings.backpressure);
    match (became_full, first_knock) {
        (None, None) => unmoved.or(seen_full),
        _ => [seen_full, first_knock].into_iter().flatten().min(),
    }
}

/// Connections a second that were turned away at full queues in a network namespace.
fn overflow_rate(context: &Context<'_>, net_ns: u32) -> Option<f64> {
    let network = &context.window.network;
    let (first, last) = (
        network.first_networks.get(&net_ns)?,
        network.networks.get(&net_ns)?,
    );
    let seconds = last.at_ns.saturating_sub(first.at_ns) as f64 / 1e9;
    let long = seconds >= context.settings.backpressure.as_secs_f64() - 0.5;
    let more = last.listen_overflows.saturating_sub(first.listen_overflows);
    long.then(|| more as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Scene;
    use super::*;
    use crate::observation::Call;

    fn full(local: &str) -> Scene {
        let mut scene = Scene::new();
        scene.process(20, "server");
        scene.listener(20, 3, local, 2).receive_queue = 3;
        scene
    }

    fn drafts(scene: &mut Scene) -> Vec<Draft> {
        scene.drafts(Mode::Backpressure)
    }

    #[test]
    fn a_listener_that_does_not_accept_is_found_in_one_picture_with_its_bound() {
        for local in ["127.0.0.1:80", "[::1]:80"] {
            let mut scene = full(local);
            scene.blocks(20, Call::Sleep, 40.0);
            let found = drafts(&mut scene);
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].subject, Party::process(20));
            assert_eq!(found[0].confidence, Confidence::Proven);
            assert!(found[0].summary.contains(local), "{}", found[0].summary);
            assert!(found[0].evidence.iter().any(|fact| fact.signal == "bound"));
        }
    }

    #[test]
    fn one_that_runs_counts_from_the_pictures_in_which_its_queue_was_full() {
        let mut scene = full("127.0.0.1:80");
        scene.blocks(20, Call::Accept { fd: 3 }, 0.0001);
        scene.pass(2.9);
        scene.blocks(20, Call::Accept { fd: 3 }, 0.0001);
        assert_eq!(drafts(&mut scene).len(), 0);
        scene.pass(0.2);
        scene.blocks(20, Call::Accept { fd: 3 }, 0.0001);
        assert_eq!(drafts(&mut scene).len(), 1);
    }

    #[test]
    fn a_queue_at_its_limit_has_room_for_one_more() {
        let mut scene = full("127.0.0.1:80");
        scene.at(20, 3).receive_queue = 2;
        scene.pass(10.0);
        assert_eq!(drafts(&mut scene).len(), 0);
    }

    #[test]
    fn one_that_is_full_for_a_moment_is_a_burst() {
        let mut scene = full("127.0.0.1:80");
        scene.blocks(20, Call::Accept { fd: 3 }, 0.0001);
        scene.pass(2.0);
        scene.at(20, 3).receive_queue = 0;
        scene.pass(2.0);
        scene.at(20, 3).receive_queue = 3;
        scene.blocks(20, Call::Accept { fd: 3 }, 0.0001);
        assert_eq!(drafts(&mut scene).len(), 0);
    }

    #[test]
    fn those_who_knock_date_it_and_are_named() {
        let mut scene = full("127.0.0.1:80");
        scene.process(10, "client");
        let knocks = scene.socket(10, 3, TCP_SYN_SENT, "127.0.0.1:4000", "127.0.0.1:80");
        let figures = knocks.figures.as_mut().unwrap();
        figures.unanswered_ms = Some(7000);
        scene.blocks(20, Call::Sleep, 0.0001);
        let found = drafts(&mut scene);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].since_ns, Some(scene.now_ns() - 7_000_000_000));
        assert_eq!(found[0].others, [(Role::Waiter, Party::process(10))]);
    }

    #[test]
    fn overflows_count_only_where_a_queue_was_seen_full() {
        for (queued, more, expected) in [(3, 20, 1), (1, 20, 0), (3, 2, 0)] {
            let mut scene = full("127.0.0.1:80");
            scene.at(20, 3).receive_queue = queued;
            scene.network(super::super::super::fixture::HERE).at_ns = scene.now_ns();
            scene.pass(4.0);
            scene.at(20, 3).receive_queue = 0;
            let now = scene.now_ns();
            let counters = scene.network(super::super::super::fixture::HERE);
            (counters.at_ns, counters.listen_overflows) = (now, more);
            let found = drafts(&mut scene);
            assert_eq!(found.len(), expected, "{queued} {more}");
            assert!(
                found
                    .iter()
                    .all(|one| one.severity == Severity::Critical || more < 20)
            );
        }
    }
}
