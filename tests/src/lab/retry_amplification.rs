//! `retry-amplification`: a chain of services in which each tries three times, and chains that only fan out.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rung_diagnosis::mode::Mode::{ConnectRefused, Flapping, RetryAmplification, RetryStorm};

use super::case::Case;
use super::services::{self, Count, HERE, HERE_V6, PYTHON, Place, Service, load, switch};
use super::stage::Stage;
use super::truth::Truth;

/// Failures have to last for 10 s (failure-modes.md).
const WINDOW_SECONDS: u64 = 12;
/// How far off the factors of a report may be.
const TOLERANCE: f64 = 0.15;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "amplification-leaf-closes",
        RetryAmplification,
        "three tiers with three tries each above a leaf that closes without an answer",
        leaf_closes,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "amplification-leaf-resets",
        RetryAmplification,
        "three tiers with three tries each above a leaf that resets, new connections throughout",
        leaf_resets,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "amplification-leaf-refuses",
        RetryAmplification,
        "three tiers with three tries each above a leaf that is not there, by IPv6",
        leaf_refuses,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "amplification-one-tier",
        RetryAmplification,
        "a tier that asked once for each request tries three times since its leaf closes without an answer",
        one_tier,
    )
    .needs(PYTHON)
    .look_seconds(2 * WINDOW_SECONDS)
    .beyond_procfs(),
    Case::twin(
        "amplification-twin-one-tier",
        RetryAmplification,
        "a tier asks three times for each request by design, of a leaf that always failed",
        one_tier_by_design,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::twin(
        "amplification-twin-healthy",
        RetryAmplification,
        "three tiers that would try three times above a leaf that answers",
        healthy,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::twin(
        "amplification-twin-fan-out",
        RetryAmplification,
        "two tiers that ask three times for each request by design",
        fan_out,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
];

struct Chain {
    /// From the clients down.
    tiers: Vec<Service>,
    client: Service,
}

/// Tiers above `down`, and clients that ask `rate` times a second.
fn chain(
    stage: &mut Stage,
    place: Place<'_>,
    down: std::net::SocketAddr,
    tiers: &[&[&str]],
    rate: &str,
) -> Result<Chain> {
    let mut built = Vec::new();
    let mut below = down;
    for options in tiers.iter().rev() {
        let tier = services::tier(stage, place, "tier", below, options)?;
        below = tier.address;
        built.insert(0, tier);
    }
    let client = load(stage, place, below, &["clients=4", "pooled=1", rate])?;
    Ok(Chain { tiers: built, client })
}

impl Chain {
    /// Attempts for each request of every tier, by its own books.
    fn factors(&self) -> Result<Vec<f64>> {
        let counts = |what| -> Result<Vec<u64>> { self.tiers.iter().map(|tier| tier.count(what)).collect() };
        let (requests, attempts) = (counts(Count::Requests)?, counts(Count::Attempts)?);
        std::thread::sleep(Duration::from_secs(2));
        let (more_requests, more_attempts) = (counts(Count::Requests)?, counts(Count::Attempts)?);
        let grown = |now: &[u64], then: &[u64], at: usize| (now[at] - then[at]) as f64;
        Ok((0..self.tiers.len())
            .map(|at| grown(&more_attempts, &attempts, at) / grown(&more_requests, &requests, at).max(1.0))
            .collect())
    }

    /// The truth if every tier tries three times.
    fn amplifies(&self) -> Result<Truth> {
        let last = self.tiers.last().context("a chain has tiers")?;
        let since = last.counts_on(Count::Failed, 27)?;
        let factors = self.factors()?;
        ensure!(
            factors.iter().all(|factor| (2.8..3.2).contains(factor)),
            "the tiers do not try three times: {factors:.2?}"
        );
        ensure!(
            self.client.count(Count::Answered)? == 0,
            "some requests get through"
        );
        let product = factors.iter().product();
        let mut truth = Truth::fault(RetryAmplification, last.pid(), since).age_unknown();
        truth.subjects = self.tiers.iter().map(Service::pid).collect();
        // The last tier sees the failures themselves.
        Ok(truth
            .because_of(ConnectRefused)
            .because_of(Flapping)
            .because_of(RetryStorm)
            .figure("factor", 3.0, TOLERANCE)
            .figure("product", product, TOLERANCE)
            // A tenth more at each of the tiers.
            .figure("allowed_by_10%", 1.1_f64.powi(self.tiers.len() as i32), 0.05))
    }

    fn is_healthy(&self, leaf: &Service) -> Result<Truth> {
        leaf.counts_on(Count::Answered, 50)?;
        for service in &self.tiers {
            ensure!(
                service.count(Count::Failed)? == 0,
                "calls of {} fail",
                service.pid()
            );
        }
        let mut cast: Vec<i32> = self.tiers.iter().map(Service::pid).collect();
        cast.extend([leaf.pid(), self.client.pid()]);
        Ok(Truth::twin(RetryAmplification, cast))
    }
}

/// Between tiers connections are kept; towards the leaf, that would hide nothing.
const KEPT: &[&str] = &["tries=3", "timeout=5", "pooled=1"];
const NEW: &[&str] = &["tries=3", "timeout=5"];

fn leaf_closes(stage: &mut Stage) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE, &[])?;
    switch(stage.dir(), "close")?;
    chain(stage, HERE, leaf.address, &[KEPT, KEPT, NEW], "rate=4")?.amplifies()
}

fn leaf_resets(stage: &mut Stage) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE, &[])?;
    switch(stage.dir(), "reset")?;
    chain(stage, HERE, leaf.address, &[NEW, NEW, NEW], "rate=4")?.amplifies()
}

fn one_tier(stage: &mut Stage) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE, &[])?;
    let chain = chain(stage, HERE, leaf.address, &[NEW], "rate=8")?;
    let tier = chain.tiers.first().context("a chain has tiers")?.clone();
    tier.counts_on(Count::Attempts, 8)?;
    ensure!(tier.count(Count::Failed)? == 0, "calls fail before the fault");
    let mut truth = Truth::fault(RetryAmplification, tier.pid(), Instant::now())
        .age_unknown()
        .because_of(Flapping)
        .because_of(RetryStorm)
        .figure("factor", 3.0, TOLERANCE)
        .says("a retry budget of 10% would allow 1.1");
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        switch(&dir, "close")?;
        tier.counts_on(Count::Failed, 9)?;
        let factors = chain.factors()?;
        ensure!(
            (2.8..3.2).contains(&factors[0]),
            "the tier does not try three times: {factors:.2?}"
        );
        Ok(())
    }));
    Ok(truth)
}

fn one_tier_by_design(stage: &mut Stage) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE, &[])?;
    switch(stage.dir(), "close")?;
    let options: &[&str] = &["fanout=3", "timeout=5"];
    // Fewer than five attempts a second: no storm.
    let chain = chain(stage, HERE, leaf.address, &[options], "rate=1.5")?;
    let tier = chain.tiers.first().context("a chain has tiers")?;
    tier.counts_on(Count::Failed, 6)?;
    // That the leaf cuts connections off is true.
    Ok(Truth::twin(RetryAmplification, services::pids(&[tier, &chain.client, &leaf])).tolerate(Flapping))
}

fn leaf_refuses(stage: &mut Stage) -> Result<Truth> {
    let nobody = HERE_V6.closed_port()?;
    chain(stage, HERE_V6, nobody, &[KEPT, KEPT, NEW], "rate=4")?.amplifies()
}

fn healthy(stage: &mut Stage) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE, &[])?;
    chain(stage, HERE, leaf.address, &[NEW, NEW, NEW], "rate=40")?.is_healthy(&leaf)
}

fn fan_out(stage: &mut Stage) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE_V6, &[])?;
    let tier: &[&str] = &["fanout=3", "tries=3", "timeout=5"];
    let chain = chain(stage, HERE_V6, leaf.address, &[tier, tier], "rate=8")?;
    let truth = chain.is_healthy(&leaf)?;
    let factors = chain.factors()?;
    ensure!(
        factors.iter().all(|factor| (2.8..3.2).contains(factor)),
        "the tiers do not fan out: {factors:.2?}"
    );
    Ok(truth)
}
