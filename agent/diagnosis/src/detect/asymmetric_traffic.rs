//! # What
//! The balance of bytes sent to and received from a peer is far off what it was before.
//!
//! # Signal
//! Bytes exchanged by a process with each peer, sampled every 10 s: the ratio of bytes sent to bytes received since a
//! change against that before it, both steady. Reported are a balance that has turned (one direction has grown and the
//! other has shrunk), and traffic that has moved (what more goes one way with this peer is what less goes that way with
//! another one of the same process, as writes do in a failover); growth of one direction alone, once it has lasted.
//!
//! # Healthy twin
//! Backups, copies and migrations: a process of their own, without a past to compare with, or more in one direction for a
//! while and nothing else changed; the end of one. Traffic that varies: then the parts of a side disagree. Little traffic.
//!
//! # Thresholds
//! `balance_factor` (10) between before and after, `balance_length` (60 s) and `balance_bytes` (10 MiB) on each side, of
//! the last `balance_window` (20 min). `balance_backup` (5 min) of growth in one direction alone.
//!
//! # Source
//! tcp_info, tcpi_bytes_acked and tcpi_bytes_received (RFC 4898, tcpEStatsAppHCThruOctetsAcked and -Received). What
//! connections exchange that live for less than a step is not seen.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::{Context, Detector, Draft, peer};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::Signal;
use crate::settings::NetworkSettings;
use crate::window::BalanceStep;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::AsymmetricTraffic,
    needs: &[
        Signal::Tasks,
        Signal::Descriptors,
        Signal::InetSockets,
        Signal::TcpFigures,
    ],
    helped_by: &[],
    // A step for the change itself.
    needs_window: Some(|settings| settings.network.balance_length * 2 + STEP),
    detect,
    blind_spot: None,
};

/// The step of the samples, and what the engine's pictures may add to it.
const STEP: std::time::Duration = std::time::Duration::from_secs(12);
/// What counts as the same differs by this factor at most.
const STEADY: f64 = 3.0;
/// A direction has changed by itself if it did so by this factor.
const CHANGED: f64 = 2.0;
/// Less than this share of all bytes in one direction counts as this share: none has no ratio.
const LEAST_SHARE: f64 = 1e-3;

/// Bytes of a span.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    sent: u64,
    received: u64,
    seconds: f64,
}

/// One direction, as the process sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Sent,
    Received,
}

impl Bytes {
    /// Bytes sent for each one received.
    fn ratio(self) -> f64 {
        let least = self.all() as f64 * LEAST_SHARE;
        (self.sent as f64).max(least) / (self.received as f64).max(least).max(f64::MIN_POSITIVE)
    }

    fn all(self) -> u64 {
        self.sent + self.received
    }

    /// Bytes a second.
    fn rate(self, way: Way) -> f64 {
        let bytes = match way {
            Way::Sent => self.sent,
            Way::Received => self.received,
        };
        bytes as f64 / self.seconds.max(1.0)
    }
}

/// What was exchanged with one peer, step by step.
struct Exchange<'a> {
    pid: u32,
    address: IpAddr,
    steps: &'a [BalanceStep],
}

/// A change of a balance.
#[derive(Clone, Copy, Debug)]
struct Change {
    /// The sample after which it began.
    at: usize,
    before: Bytes,
    after: Bytes,
}

/// When the bytes were sampled, and the thresholds.
struct Samples<'a> {
    times: &'a [u64],
    settings: &'a NetworkSettings,
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let settings = &context.settings.network;
    let balance = &context.window.network.balance;
    let earliest = u64::try_from(settings.balance_window.as_nanos()).unwrap_or(u64::MAX);
    let earliest = context.picture.began_ns.saturating_sub(earliest);
    let begin = balance.sampled_ns.partition_point(|at| *at < earliest);
    let times = balance.sampled_ns.get(begin..).unwrap_or_default();
    let samples = Samples { times, settings };
    let lives = |pid: u32, start_ns: u64| {
        let task = context.index.process(pid);
        task.is_some_and(|task| task.start_ns == start_ns)
    };
    let peers = balance.peers.iter();
    let mut exchanges: Vec<Exchange<'_>> = peers
        .filter(|((pid, start_ns, _), _)| lives(*pid, *start_ns))
        .map(|((pid, _, address), steps)| Exchange {
            pid: *pid,
            address: *address,
            steps,
        })
        .collect();
    exchanges.sort_by_key(|exchange| (exchange.pid, exchange.address));
    exchanges
        .iter()
        .filter_map(|exchange| {
            let change = samples.change(exchange)?;
            let moved = samples.moved_from(&exchanges, exchange, &change);
            let evident = moved.is_some() || has_turned(&change);
            let lasts = change.after.seconds >= settings.balance_backup.as_secs_f64();
            (evident || lasts && grown(&change).is_some())
                .then(|| draft(context, exchange, &change, times[change.at], moved))
        })
        .collect()
}

impl Samples<'_> {
    fn seconds(&self, range: &Range<usize>) -> f64 {
        let at = |sample: usize| self.times.get(sample).copied().unwrap_or(0);
        at(range.end).saturating_sub(at(range.start)) as f64 / 1e9
    }

    /// What was exchanged from one sample to another.
    fn bytes(&self, exchange: &Exchange<'_>, range: &Range<usize>) -> Bytes {
        let (Some(from), Some(to)) = (self.times.get(range.start), self.times.get(range.end)) else {
            return Bytes::default();
        };
        let first = exchange.steps.partition_point(|step| step.to_ns <= *from);
        let mut bytes = Bytes {
            seconds: self.seconds(range),
            ..Bytes::default()
        };
        for step in exchange.steps[first..]
            .iter()
            .take_while(|step| step.to_ns <= *to)
        {
            bytes.sent += step.sent_bytes;
            bytes.received += step.received_bytes;
        }
        bytes
    }

    /// Parts of a side of a change, each of half the least length or somewhat more.
    fn parts(&self, side: &Range<usize>) -> Vec<Range<usize>> {
        let length = self.settings.balance_length.as_secs_f64() / 2.0;
        let mut parts: Vec<Range<usize>> = Vec::new();
        let mut from = side.start;
        for to in side.start + 1..=side.end {
            // A rest that is shorter belongs to the last part.
            let last = to == side.end || self.seconds(&(to..side.end)) < length;
            if !last && self.seconds(&(from..to)) >= length || to == side.end {
                parts.push(from..to);
                from = to;
            }
        }
        parts
    }

    /// The bytes of a side, if it is long enough, there are enough of them, and their balance was steady.
    fn steady(&self, exchange: &Exchange<'_>, side: &Range<usize>) -> Option<Bytes> {
        if self.seconds(side) < self.settings.balance_length.as_secs_f64() {
            return None;
        }
        let all = self.bytes(exchange, side);
        if all.all() < self.settings.balance_bytes {
            return None;
        }
        let parts = self.parts(side);
        let least = self.settings.balance_bytes / (2 * parts.len().max(1) as u64);
        let steady = parts.iter().all(|part| {
            let bytes = self.bytes(exchange, part);
            bytes.all() >= least && apart(bytes.ratio(), all.ratio()) <= STEADY
        });
        steady.then_some(all)
    }

    /// The sides of a change after the sample `at`; what it fell into belongs to neither.
    fn sides(&self, at: usize) -> (Range<usize>, Range<usize>) {
        (0..at, at + 1..self.times.len() - 1)
    }

    /// The greatest change of balance between two steady times.
    fn change(&self, exchange: &Exchange<'_>) -> Option<Change> {
        let whole = self.bytes(exchange, &(0..self.times.len().checked_sub(1)?));
        if whole.all() < 2 * self.settings.balance_bytes {
            return None;
        }
        let changes = (1..self.times.len() - 1).filter_map(|at| {
            let (before, after) = self.sides(at);
            let (before, after) = (self.steady(exchange, &before)?, self.steady(exchange, &after)?);
            let factor = apart(before.ratio(), after.ratio());
            (factor >= self.settings.balance_factor).then_some((Change { at, before, after }, factor))
        });
        changes
            .max_by(|one, other| one.1.total_cmp(&other.1))
            .map(|(change, _)| change)
    }

    /// The peer with which the process exchanged before what has been added with this one since, the same way.
    fn moved_from(
        &self,
        exchanges: &[Exchange<'_>],
        exchange: &Exchange<'_>,
        change: &Change,
    ) -> Option<(IpAddr, Way)> {
        let way = grown(change)?;
        let more = change.after.rate(way) - change.before.rate(way);
        let (before, after) = self.sides(change.at);
        let mut others = exchanges
            .iter()
            .filter(|other| other.pid == exchange.pid && other.address != exchange.address);
        let source = others.find(|other| {
            let was = self.bytes(other, &before).rate(way);
            let is = self.bytes(other, &after).rate(way);
            let mut parts = self.parts(&before).into_iter();
            apart(was, more) <= STEADY
                && is * self.settings.balance_factor <= was
                && parts.all(|part| self.bytes(other, &part).rate(way) * STEADY >= was)
        });
        source.map(|other| (other.address, way))
    }
}

fn apart(one: f64, other: f64) -> f64 {
    (one / other).max(other / one)
}

/// The direction in which more goes than before.
fn grown(change: &Change) -> Option<Way> {
    let way = if change.after.ratio() > change.before.ratio() {
        Way::Sent
    } else {
        Way::Received
    };
    (change.after.rate(way) >= CHANGED * change.before.rate(way)).then_some(way)
}

/// Whether one direction has grown and the other has shrunk.
fn has_turned(change: &Change) -> bool {
    let shrunk = |way| change.after.rate(way) * CHANGED <= change.before.rate(way);
    match grown(change) {
        Some(Way::Sent) => shrunk(Way::Received),
        Some(Way::Received) => shrunk(Way::Sent),
        None => false,
    }
}

fn draft(
    context: &Context<'_>,
    exchange: &Exchange<'_>,
    change: &Change,
    since_ns: u64,
    moved: Option<(IpAddr, Way)>,
) -> Draft {
    let (pid, address) = (exchange.pid, exchange.address);
    let (before, after) = (change.before, change.after);
    let who = format!("{} ({pid})", context.comm(pid));
    let kilobytes = |bytes: Bytes, way| bytes.rate(way) / 1e3;
    let figures = format!(
        "{:.0} kB/s out and {:.0} in, before {:.0} and {:.0}",
        kilobytes(after, Way::Sent),
        kilobytes(after, Way::Received),
        kilobytes(before, Way::Sent),
        kilobytes(before, Way::Received),
    );
    let summary = match moved {
        Some((from, Way::Sent)) => {
            format!("what {who} sent to {from} now goes to {address}: {figures}")
        }
        Some((from, Way::Received)) => {
            format!("what {who} received from {from} now comes from {address}: {figures}")
        }
        None if has_turned(change) => {
            format!("traffic of {who} with {address} has turned round: {figures}")
        }
        None => format!("traffic of {who} with {address} has become lopsided: {figures}"),
    };
    let mut draft = Draft::of_process(Mode::AsymmetricTraffic, pid, summary);
    draft.severity = Severity::Notice;
    draft.confidence = Confidence::Suspected;
    draft.since_ns = Some(since_ns);
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("sent_per_received_before", before.ratio(), "", source),
        Evidence::new("sent_per_received", after.ratio(), "", source),
        Evidence::new("seen_before", before.seconds, "s", source),
        Evidence::new("seen_since", after.seconds, "s", source),
    ];
    if let Some((from, _)) = moved {
        draft
            .evidence
            .push(Evidence::new("moved_from", from.to_string(), "", source));
    }
    let sockets = context.picture.inet_sockets.iter();
    let theirs: Vec<_> = sockets
        .filter(|socket| socket.remote.ip() == address)
        .filter(|socket| context.index.socket_processes(socket.id).contains(&pid))
        .collect();
    for socket in &theirs {
        peer::add(&mut draft, Role::Peer, &peer::holders(context, socket));
    }
    let remote = peer::only(theirs.iter().map(|socket| socket.remote));
    draft.flow = Some((None, remote.unwrap_or(SocketAddr::new(address, 0))));
    draft
}
