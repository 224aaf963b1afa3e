//! `retry-storm`: clients that try again and again what fails, and clients that are only fast or patient.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::{ConnectRefused, ConnectTimeout, Flapping, RetryStorm};

use super::case::Case;
use super::network::{Family, NETWORK};
use super::services::{self, Count, HERE, HERE_V6, PYTHON, Place, Service, load, switch};
use super::stage::Stage;
use super::truth::Truth;

/// A storm has to blow for 10 s (failure-modes.md), and must be found within 12 s.
const WINDOW_SECONDS: u64 = 12;
/// As many tries as a test can take: the client never gives up.
const ENDLESS: &str = "tries=1000000000";

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "storm-refused-no-back-off",
        RetryStorm,
        "a client tries a closed port as fast as it can",
        no_back_off,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .alone()
    .beyond_procfs(),
    Case::fault(
        "storm-refused-fixed-interval",
        RetryStorm,
        "a client tries a closed port ten times a second, by IPv6",
        fixed_interval,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "storm-refused-in-step",
        RetryStorm,
        "four clients try a closed port at the same moments",
        in_step,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "storm-dropped-no-back-off",
        RetryStorm,
        "a client tries a port behind a filter again whenever 100 ms are over",
        dropped,
    )
    .needs(NETWORK)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "storm-dropped-fixed-interval",
        RetryStorm,
        "a client tries a port behind a filter for 50 ms and rests for 50 ms, by IPv6",
        dropped_v6,
    )
    .needs(NETWORK)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "storm-closed-without-answer",
        RetryStorm,
        "a server accepts, reads the request and closes, and its client tries again every 100 ms",
        closed,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::fault(
        "storm-over-budget",
        RetryStorm,
        "a tier repeats the third of its calls that its leaf closes without an answer, and most get through",
        |stage| one_in_three(stage, 2),
    )
    .needs(PYTHON)
    .look_seconds(2 * WINDOW_SECONDS)
    .beyond_procfs(),
    Case::twin(
        "storm-twin-within-budget",
        RetryStorm,
        "a tier repeats none of the third of its calls that its leaf closes without an answer",
        |stage| one_in_three(stage, 1),
    )
    .needs(PYTHON)
    .look_seconds(2 * WINDOW_SECONDS)
    .beyond_procfs(),
    Case::twin(
        "storm-twin-exponential",
        RetryStorm,
        "a client tries a closed port with exponential back-off and jitter",
        exponential,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS),
    Case::twin(
        "storm-twin-pool-refill",
        RetryStorm,
        "a client opens a hundred connections at once every second, and all succeed",
        refill,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
    Case::twin(
        "storm-twin-some-fail",
        RetryStorm,
        "a busy client whose server is away for a second",
        some_fail,
    )
    .needs(PYTHON)
    .look_seconds(WINDOW_SECONDS)
    .beyond_procfs(),
];

/// The truth about a client all of whose attempts fail, at so many a second at least.
fn storm(client: &Service, least_rate: f64) -> Result<Truth> {
    let since = client.counts_on(Count::Failed, 3)?;
    let (attempts, failed) = (client.count(Count::Attempts)?, client.count(Count::Failed)?);
    let rate = client.rate(Count::Attempts, Duration::from_secs(2))?;
    ensure!(
        rate >= least_rate && failed + 1 >= attempts,
        "no storm: {rate:.1} attempts a second, {failed} of {attempts} failed"
    );
    // Nothing gets through: of the one request that it repeats a budget allows hardly anything.
    Ok(Truth::fault(RetryStorm, client.pid(), since)
        .age_unknown()
        .says("a retry budget of 10% would allow 0.1")
        .flow(client.address))
}

fn no_back_off(stage: &mut Stage) -> Result<Truth> {
    let client = load(stage, HERE, HERE.closed_port()?, &[ENDLESS])?;
    Ok(storm(&client, 500.0)?
        .because_of(ConnectRefused)
        .says("no back-off")
        .case("refused, no back-off"))
}

fn fixed_interval(stage: &mut Stage) -> Result<Truth> {
    let options = [ENDLESS, "backoff=fixed:0.1"];
    let client = load(stage, HERE_V6, HERE_V6.closed_port()?, &options)?;
    Ok(storm(&client, 8.0)?
        .because_of(ConnectRefused)
        .says("fixed interval")
        .case("refused, every 100 ms"))
}

fn in_step(stage: &mut Stage) -> Result<Truth> {
    let options = [ENDLESS, "backoff=fixed:0.125"];
    let clients = services::loads_at_once(stage, 4, HERE.closed_port()?, &options)?;
    let mut truths = clients.iter().map(|client| storm(client, 5.5));
    let mut truth = truths.next().unwrap_or_else(|| anyhow::bail!("no client"))?;
    for other in truths {
        truth = truth.or_subject(other?.subjects[0]);
    }
    Ok(truth
        .because_of(ConnectRefused)
        .says("with other clients")
        .case("refused, in step with others"))
}

/// A client of a server that never gets its packets.
fn behind_filter(stage: &mut Stage, family: Family, options: &[&str]) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let server = services::leaf(stage, Place::on(&far, family), &[])?;
    far.drop_incoming(&[&format!("tcp dport {}", server.address.port())])?;
    let client = load(
        stage,
        Place::on(&near, family),
        server.address,
        &[&[ENDLESS], options].concat(),
    )?;
    let truth = storm(&client, 6.0)?.because_of(ConnectTimeout);
    let dropped = far.hits()?;
    ensure!(dropped >= 5, "only {dropped} packets were dropped");
    Ok(truth)
}

fn dropped(stage: &mut Stage) -> Result<Truth> {
    behind_filter(stage, Family::V4, &["timeout=0.1"])
}

fn dropped_v6(stage: &mut Stage) -> Result<Truth> {
    let truth = behind_filter(stage, Family::V6, &["timeout=0.05", "backoff=fixed:0.05"])?;
    Ok(truth.says("fixed interval"))
}

fn closed(stage: &mut Stage) -> Result<Truth> {
    let server = services::leaf(stage, HERE, &[])?;
    switch(stage.dir(), "close")?;
    let options = [ENDLESS, "backoff=fixed:0.1", "timeout=1"];
    let client = load(stage, HERE, server.address, &options)?;
    let truth = storm(&client, 8.0)?;
    server.counts_on(Count::Requests, 3)?;
    ensure!(server.count(Count::Answered)? == 0, "the server answers");
    Ok(truth
        .because_of(Flapping)
        .says("fixed interval")
        .case("closed without an answer"))
}

/// A tier with so many tries, and a leaf that fails each third call once the trigger is pulled.
fn one_in_three(stage: &mut Stage, tries: u32) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE, &[])?;
    let options = [&format!("tries={tries}"), "timeout=5"];
    let tier = services::tier(stage, HERE, "tier", leaf.address, &options)?;
    let client = load(stage, HERE, tier.address, &["clients=4", "pooled=1", "rate=12"])?;
    tier.counts_on(Count::Attempts, 12)?;
    ensure!(tier.count(Count::Failed)? == 0, "calls fail before the fault");
    let mut truth = if tries > 1 {
        Truth::fault(RetryStorm, tier.pid(), Instant::now())
            .age_unknown()
            .flow(leaf.address)
            .says("a retry budget of 10% would allow")
            .figure("calls_for_each_request", 1.5, 0.1)
    } else {
        Truth::twin(RetryStorm, services::pids(&[&tier, &client, &leaf]))
    };
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        switch(&dir, "some 3")?;
        let counts = || anyhow::Ok((tier.count(Count::Attempts)?, tier.count(Count::Failed)?));
        let (attempts, failed) = counts()?;
        let asked = tier.count(Count::Requests)?;
        sleep(Duration::from_secs(5));
        let (attempts, failed) = (counts()?.0 - attempts, counts()?.1 - failed);
        let asked = tier.count(Count::Requests)? - asked;
        let repeated = attempts as f64 / asked.max(1) as f64;
        // Each third of the repeated ones fails as well.
        let wanted = if tries > 1 { 1.5 } else { 1.0 };
        ensure!(
            failed * 4 > attempts && (repeated / wanted - 1.0).abs() < 0.1,
            "{failed} of {attempts} calls failed, for {asked} requests"
        );
        Ok(())
    }));
    Ok(truth)
}

fn exponential(stage: &mut Stage) -> Result<Truth> {
    let options = [ENDLESS, "backoff=jitter:0.2:60"];
    let client = load(stage, HERE, HERE.closed_port()?, &options)?;
    client.counts_on(Count::Failed, 4)?;
    let mut truth = Truth::twin(RetryStorm, [client.pid()]);
    truth.tolerated.push(ConnectRefused);
    Ok(truth)
}

fn refill(stage: &mut Stage) -> Result<Truth> {
    let server = services::leaf(stage, HERE, &["threads=1", "backlog=1000"])?;
    let client = services::refill(stage, server.address, 100)?;
    client.counts_on(Count::Attempts, 150)?;
    Ok(Truth::twin(RetryStorm, [client.pid()]))
}

fn some_fail(stage: &mut Stage) -> Result<Truth> {
    let server = services::leaf(stage, HERE, &[])?;
    let options = ["clients=4", "rate=20", "timeout=1"];
    let client = load(stage, HERE, server.address, &options)?;
    client.counts_on(Count::Answered, 20)?;
    let mut truth = Truth::twin(RetryStorm, services::pids(&[&client, &server])).tolerate(ConnectRefused);
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        let failed = client.count(Count::Failed)?;
        switch(&dir, "refuse")?;
        sleep(Duration::from_secs(1));
        switch(&dir, "answer")?;
        client.counts_on(Count::Answered, 10)?;
        let failed = client.count(Count::Failed)? - failed;
        ensure!(
            (5..40).contains(&failed),
            "{failed} attempts failed in the second"
        );
        Ok(())
    }));
    Ok(truth)
}
