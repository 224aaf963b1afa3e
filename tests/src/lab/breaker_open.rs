//! `breaker-open`: callers that have stopped calling while they are still asked, and callers with other reasons for silence.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::{BreakerOpen, ConnectRefused};

use super::case::Case;
use super::services::{self, Count, HERE, HERE_V6, PYTHON, Place, Service, load, switch};
use super::stage::Stage;
use super::truth::{Certainty, Truth};

/// What is left of the window after the trigger.
const AFTER_SECONDS: u64 = 10;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "breaker-open-probes",
        BreakerOpen,
        "a breaker opens after five failures and probes every 2 s",
        probes,
    )
    .needs(PYTHON)
    .look_seconds(12)
    .beyond_procfs(),
    Case::fault(
        "breaker-open-stuck",
        BreakerOpen,
        "a breaker opens after five failures and never probes, by IPv6",
        stuck,
    )
    .needs(PYTHON)
    .look_seconds(12)
    .beyond_procfs(),
    Case::twin(
        "breaker-twin-deploy",
        BreakerOpen,
        "the downstream is away for 2 s, then the breaker closes",
        deploy,
    )
    .needs(PYTHON)
    .look_seconds(12)
    .beyond_procfs(),
    Case::twin(
        "breaker-twin-idle",
        BreakerOpen,
        "the downstream was away for a moment, and then nobody asks any more",
        idle,
    )
    .needs(PYTHON)
    .look_seconds(12)
    .beyond_procfs(),
];

struct Circuit {
    leaf: Service,
    tier: Service,
    client: Service,
}

/// A tier with a breaker between clients and a leaf; all is well.
fn circuit(stage: &mut Stage, place: Place<'_>, probe: &str) -> Result<Circuit> {
    let leaf = services::leaf(stage, place, &[])?;
    let options = ["timeout=1", "breaker=5", probe];
    let tier = services::tier(stage, place, "tier", leaf.address, &options)?;
    let client = load(stage, place, tier.address, &["clients=8", "pooled=1", "rate=30"])?;
    client.counts_on(Count::Answered, 30)?;
    ensure!(
        tier.count(Count::Failed)? == 0,
        "calls fail before there is a fault"
    );
    Ok(Circuit { leaf, tier, client })
}

/// The leaf goes, and the breaker opens: inbound requests go on, attempts do not.
fn opens(stage: &mut Stage, place: Place<'_>, probe: &str, most_attempts: f64) -> Result<Truth> {
    let circuit = circuit(stage, place, probe)?;
    let mut truth = Truth::fault(BreakerOpen, circuit.tier.pid(), std::time::Instant::now())
        .age_unknown()
        .certainty(Certainty::Hinted)
        .because_of(ConnectRefused)
        .flow(circuit.leaf.address)
        .threshold_seconds(AFTER_SECONDS);
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        let tier = &circuit.tier;
        switch(&dir, "refuse")?;
        tier.counts_on(Count::Failed, 5)?;
        sleep(Duration::from_millis(300));
        let (requests, start) = (tier.count(Count::Requests)?, std::time::Instant::now());
        let attempts = tier.rate(Count::Attempts, Duration::from_secs(4))?;
        let requests = (tier.count(Count::Requests)? - requests) as f64 / start.elapsed().as_secs_f64();
        ensure!(
            requests > 20.0 && attempts <= most_attempts,
            "the breaker is not open: {attempts:.2} attempts a second for {requests:.1} requests"
        );
        Ok(())
    }));
    Ok(truth)
}

fn probes(stage: &mut Stage) -> Result<Truth> {
    Ok(opens(stage, HERE, "probe=2", 0.8)?.case("open, with probes"))
}

fn stuck(stage: &mut Stage) -> Result<Truth> {
    Ok(opens(stage, HERE_V6, "probe=0", 0.0)?.case("stuck open"))
}

/// A twin in which the leaf is away for so long, and then `after` happens.
fn away(
    stage: &mut Stage,
    seconds: f64,
    after: impl FnOnce(&Circuit) -> Result<()> + Send + 'static,
) -> Result<Truth> {
    let circuit = circuit(stage, HERE, "probe=0.5")?;
    let cast = services::pids(&[&circuit.leaf, &circuit.tier, &circuit.client]);
    let mut truth = Truth::twin(BreakerOpen, cast)
        .tolerate(ConnectRefused)
        .not_even_a_notice();
    truth.threshold = Duration::from_secs(AFTER_SECONDS);
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        switch(&dir, "refuse")?;
        circuit.tier.counts_on(Count::Failed, 5)?;
        sleep(Duration::from_secs_f64(seconds));
        switch(&dir, "answer")?;
        circuit.client.counts_on(Count::Answered, 10)?;
        after(&circuit)
    }));
    Ok(truth)
}

fn deploy(stage: &mut Stage) -> Result<Truth> {
    away(stage, 2.0, |circuit| {
        let rate = circuit.client.rate(Count::Answered, Duration::from_secs(1))?;
        ensure!(
            rate > 20.0,
            "only {rate:.1} good answers a second after the deploy"
        );
        Ok(())
    })
}

fn idle(stage: &mut Stage) -> Result<Truth> {
    let rest = stage.dir().join("rest");
    away(stage, 0.5, move |circuit| {
        std::fs::write(rest, "")?;
        sleep(Duration::from_millis(500));
        let rate = circuit.tier.rate(Count::Requests, Duration::from_secs(1))?;
        ensure!(rate == 0.0, "{rate:.1} requests a second come in");
        Ok(())
    })
}
