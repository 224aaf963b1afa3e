//! # What
//! The balance of bytes sent to and received from a peer is far off what it was before.
//!
//! # Signal
//! Bytes exchanged by a process with each peer, sampled over a long window: the ratio of the second half against that
//! of the first, with every quarter in line with its half.
//!
//! # Healthy twin
//! Backups and migrations: a process of their own, without a past to compare with, or over before a quarter is full.
//! Traffic that varies: then the quarters disagree. Little traffic.
//!
//! # Thresholds
//! `balance_factor` (10) between the halves of `balance_window` (10 min), `balance_bytes` (10 MiB) in each half.
//!
//! # Source
//! tcp_info, tcpi_bytes_acked and tcpi_bytes_received (RFC 4898, tcpEStatsAppHCThruOctetsAcked and -Received).

use std::net::{IpAddr, SocketAddr};

use super::{Context, Detector, Draft, peer};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::Signal;
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
    needs_window: Some(|settings| settings.network.balance_window),
    detect,
    blind_spot: None,
};

/// A quarter's ratio differs from that of its half by this factor at most.
const STEADY: f64 = 3.0;

/// Bytes of a span.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    sent: u64,
    received: u64,
}

impl Bytes {
    /// Bytes sent for each one received. One byte more on each side keeps it finite.
    fn ratio(self) -> f64 {
        (self.sent + 1) as f64 / (self.received + 1) as f64
    }

    fn all(self) -> u64 {
        self.sent + self.received
    }

    fn plus(self, other: Bytes) -> Bytes {
        Bytes {
            sent: self.sent + other.sent,
            received: self.received + other.received,
        }
    }
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let settings = &context.settings.network;
    let length_ns = u64::try_from(settings.balance_window.as_nanos()).unwrap_or(u64::MAX);
    if context.window.length_ns() < length_ns {
        return Vec::new();
    }
    let mut drafts = Vec::new();
    for ((pid, start_ns, address), steps) in &context.window.network.balance.peers {
        let lives = context
            .index
            .process(*pid)
            .is_some_and(|task| task.start_ns == *start_ns);
        let quarters = quarters(steps, context.picture.began_ns, length_ns);
        if let Some((before, after)) = shift(&quarters, settings.balance_factor, settings.balance_bytes)
            && lives
        {
            let since_ns = context.picture.began_ns.saturating_sub(length_ns / 2);
            drafts.push(draft(context, *pid, *address, before, after, since_ns));
        }
    }
    drafts
}

fn quarters(steps: &[BalanceStep], now_ns: u64, length_ns: u64) -> [Bytes; 4] {
    let begin_ns = now_ns.saturating_sub(length_ns);
    let mut quarters = [Bytes::default(); 4];
    for step in steps.iter().filter(|step| step.to_ns > begin_ns) {
        let at = (step.to_ns - begin_ns - 1) * 4 / length_ns.max(1);
        if let Some(quarter) = quarters.get_mut(at as usize) {
            quarter.sent += step.sent_bytes;
            quarter.received += step.received_bytes;
        }
    }
    quarters
}

/// The two halves, if their balance differs by the factor, and each is steady in itself.
fn shift(quarters: &[Bytes; 4], factor: f64, least_bytes: u64) -> Option<(Bytes, Bytes)> {
    let [first, second, third, fourth] = *quarters;
    let (before, after) = (first.plus(second), third.plus(fourth));
    let apart = |one: f64, other: f64| (one / other).max(other / one);
    let steady = |half: Bytes, quarters: [Bytes; 2]| {
        quarters
            .iter()
            .all(|quarter| quarter.all() >= least_bytes / 4 && apart(quarter.ratio(), half.ratio()) <= STEADY)
    };
    let enough = before.all() >= least_bytes && after.all() >= least_bytes;
    (enough
        && apart(before.ratio(), after.ratio()) >= factor
        && steady(before, [first, second])
        && steady(after, [third, fourth]))
    .then_some((before, after))
}

fn draft(
    context: &Context<'_>,
    pid: u32,
    address: IpAddr,
    before: Bytes,
    after: Bytes,
    since_ns: u64,
) -> Draft {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let summary = format!(
        "traffic of {} ({pid}) with {address} has become lopsided: {:.1} MB out and {:.1} MB in, before {:.1} and {:.1}",
        context.comm(pid),
        megabytes(after.sent),
        megabytes(after.received),
        megabytes(before.sent),
        megabytes(before.received),
    );
    let mut draft = Draft::of_process(Mode::AsymmetricTraffic, pid, summary);
    draft.severity = Severity::Notice;
    draft.confidence = Confidence::Suspected;
    draft.since_ns = Some(since_ns);
    let source = context.source();
    draft.evidence = vec![
        Evidence::new("sent_per_received_before", before.ratio(), "", source),
        Evidence::new("sent_per_received", after.ratio(), "", source),
    ];
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
