//! # What
//! The tiers of a call chain retry, each on its own, and the factors multiply.
//!
//! # Signal
//! For each process that serves requests the number of calls it makes to one destination for each request it serves, in
//! the time since these calls began to fail. Only the lowest tier may see hard failures: above it an error is an answer
//! like any other. So the chain is followed upwards: a tier belongs to it if its factor is as high and its destination is
//! served by a tier of the chain.
//!
//! # Healthy twin
//! Several calls for each request by design, without failures; hedged requests. Where the window shows the time before the
//! failures, the factor of that time is the design, and counts as one. Where it does not, a single tier may do so by design:
//! that is only suspected, and a notice. Several tiers one above the other, each with such a factor, are taken for retries.
//!
//! # Thresholds
//! `amplification_factor` (2) with `amplification_failing` (20%) of the lowest tier's calls for `amplification_length`
//! (10 s), and at least `amplification_requests` (5) requests served.
//!
//! # Source
//! Events of connections and turns of requests; Google SRE Book, "Addressing Cascading Failures".

use std::collections::BTreeMap;

use super::service::{address_in_words, named, outbound, requests_in, served, servers};
use super::{Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::mode::Mode;
use crate::observation::{FlowKey, Signal};
use crate::retry_pattern;
use crate::timeline::Timeline;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::RetryAmplification,
    needs: &[Signal::ConnectEvents, Signal::RequestTurns],
    helped_by: &[Signal::InetSockets, Signal::Descriptors],
    needs_window: Some(|settings| settings.amplification_length),
    detect,
    blind_spot: None,
};

/// Chains longer than this are cut: no call passes so many tiers.
const TIERS_MAX: usize = 16;

/// A process that serves requests, with its calls to one destination.
struct Tier<'a> {
    key: &'a FlowKey,
    calls: Timeline,
    served: Timeline,
    /// Those who serve the destination, of this host.
    downstream: Vec<u32>,
}

/// A tier's factor in the time of the failures.
#[derive(Clone, Copy)]
struct Factor {
    calls: f64,
    requests: f64,
    /// Calls for each request.
    raw: f64,
    /// Calls for each request before the failures, if that was seen.
    before: Option<f64>,
}

impl Factor {
    /// The factor that the retries make up.
    fn of_retries(&self) -> f64 {
        self.raw / self.before.unwrap_or(1.0).max(1.0)
    }
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut served_by: BTreeMap<u32, Option<Timeline>> = BTreeMap::new();
    let mut tiers: Vec<Tier<'_>> = Vec::new();
    for (key, history) in outbound(context) {
        let served = served_by
            .entry(key.pid)
            .or_insert_with(|| served(context, key.pid));
        if let Some(served) = served.clone().filter(|_| context.index.lives(key.pid)) {
            tiers.push(Tier {
                key,
                calls: Timeline::of(context.window, [history]),
                served,
                downstream: servers(context, key.net_ns, key.address),
            });
        }
    }
    let lowest = tiers
        .iter()
        .filter_map(|tier| Some((tier, failing_since(context, tier)?)));
    lowest
        .filter_map(|(tier, since)| draft(context, &tiers, tier, since))
        .collect()
}

/// The second in which a tier's calls began to fail, if they have failed often enough for long enough since.
fn failing_since(context: &Context<'_>, tier: &Tier<'_>) -> Option<usize> {
    let settings = context.settings;
    let bad = settings.amplification_failing;
    let seconds = &tier.calls.seconds;
    // The failures go on: back from the end to the last second that was clearly healthy.
    let healthy = seconds
        .iter()
        .rposition(|second| second.calls() >= 1.0 && second.failing_share() < bad / 4.0);
    let first = healthy.map_or(0, |healthy| healthy + 1);
    let first = first
        + seconds
            .get(first..)?
            .iter()
            .position(|second| second.failing() > 0.0)?;
    let sum = tier.calls.sum_from(first);
    let long = tier.calls.length_from(first) + 0.5 >= settings.amplification_length.as_secs_f64();
    (long && sum.failing_share() >= bad).then_some(first)
}

fn factor(context: &Context<'_>, tier: &Tier<'_>, since: usize) -> Option<Factor> {
    let calls = tier.calls.sum_from(since).calls();
    let requests = requests_in(&tier.served.sum_from(since));
    if requests < context.settings.amplification_requests {
        return None;
    }
    // The second before the first failure may already hold some of what led to it.
    let earlier = since.saturating_sub(1);
    let asked = requests_in(&tier.served.sum(0, earlier));
    let before = (asked >= context.settings.amplification_requests)
        .then(|| tier.calls.sum(0, earlier).calls() / asked);
    let factor = Factor {
        calls,
        requests,
        raw: calls / requests,
        before,
    };
    (factor.of_retries() >= context.settings.amplification_factor).then_some(factor)
}

fn draft(context: &Context<'_>, tiers: &[Tier<'_>], lowest: &Tier<'_>, since: usize) -> Option<Draft> {
    let own = factor(context, lowest, since)?;
    // From the lowest tier upwards, each time by the tier that multiplies most.
    let mut chain = vec![(lowest.key.pid, own)];
    while chain.len() < TIERS_MAX {
        let (below, _) = *chain.last()?;
        let above = tiers.iter().filter(|tier| {
            tier.downstream.contains(&below) && chain.iter().all(|(pid, _)| *pid != tier.key.pid)
        });
        let above = above.filter_map(|tier| Some((tier.key.pid, factor(context, tier, since)?)));
        match above.max_by(|one, other| one.1.raw.total_cmp(&other.1.raw)) {
            Some(tier) => chain.push(tier),
            None => break,
        }
    }
    let product: f64 = chain.iter().map(|(_, factor)| factor.of_retries()).product();
    let pid = lowest.key.pid;
    let sum = lowest.calls.sum_from(since);
    let to = address_in_words(context, lowest.key.address);
    let source = "events";
    let mut evidence = vec![
        Evidence::from_file("product", product, "calls/request", source),
        Evidence::from_file("tiers", chain.len(), "tiers", source),
        Evidence::from_file("failing", sum.failing_share() * 100.0, "%", source),
    ];
    for (tier, factor) in chain.iter().rev() {
        let text = format!(
            "{} makes {:.1} calls for each request",
            named(context, *tier),
            factor.raw
        );
        let text = match factor.before {
            Some(before) => format!("{text}, {before:.1} before the failures"),
            None => text,
        };
        evidence.push(Evidence::from_file("tier", text, "", source));
        evidence.push(Evidence::from_file(
            "factor",
            factor.of_retries(),
            "calls/request",
            source,
        ));
    }
    evidence.push(Evidence::from_file("calls", own.calls, "calls", source));
    evidence.push(Evidence::from_file(
        "requests_served",
        own.requests,
        "requests",
        source,
    ));
    let share = context.settings.retry_budget;
    // Each tier within its own budget.
    let allowed = chain
        .iter()
        .fold(1.0, |calls, _| retry_pattern::within_budget(calls, share));
    let budget = retry_pattern::budget_signal(share);
    evidence.push(Evidence::from_file(&budget, allowed, "calls/request", source));
    let summary = match &chain[..] {
        [_] => format!(
            "{} makes {:.1} calls to {to} for each request that it serves, and {:.0}% of them fail",
            named(context, pid),
            own.raw,
            sum.failing_share() * 100.0
        ),
        many => {
            let factors: Vec<String> = many
                .iter()
                .rev()
                .map(|(tier, factor)| format!("{} {:.1}", named(context, *tier), factor.of_retries()))
                .collect();
            format!(
                "{} tiers retry and multiply one request into {product:.0} calls to {to}: {}",
                many.len(),
                factors.join(", ")
            )
        }
    };
    let summary = format!(
        "{summary}; a retry budget of {:.0}% would allow {allowed:.1}",
        share * 100.0
    );
    // Several tiers at once, or a tier that did not call as often before, are no design. Of one tier whose time before the
    // failures was not seen, that is not known.
    let sure = chain.len() > 1 || own.before.is_some();
    let servers = lowest.downstream.clone();
    let mut others: Vec<(Role, Party)> = chain
        .iter()
        .skip(1)
        .map(|(tier, _)| (Role::Peer, Party::process(*tier)))
        .collect();
    others.extend(
        servers
            .iter()
            .map(|server| (Role::Listener, Party::process(*server))),
    );
    Some(Draft {
        mode: Mode::RetryAmplification,
        severity: if sure { Severity::Warning } else { Severity::Notice },
        confidence: if sure {
            Confidence::Likely
        } else {
            Confidence::Suspected
        },
        subject: Party::process(pid),
        others,
        members: Vec::new(),
        since_ns: Some(lowest.calls.at_ns(since)),
        summary,
        evidence,
        chain_from: None,
        flow: Some((None, lowest.key.address)),
        depends_on: servers,
    })
}

#[cfg(test)]
mod tests;
