//! `metastable`: a server that stays overloaded by retries after its fault has gone, and one that works its backlog off.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::{Backpressure, ConnectRefused, LockContention, Metastable, RetryStorm};

use super::case::Case;
use super::services::{self, Count, HERE, HERE_V6, PYTHON, Place, Service, load, switch};
use super::stage::Stage;
use super::truth::Truth;

/// How long the server stands still.
const FAULT: Duration = Duration::from_secs(3);
/// What is left of the window after the trigger: many times the clients' timeout of half a second.
const AFTER_SECONDS: u64 = 10;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "metastable-retries",
        Metastable,
        "a server stood still for 3 s, and the retries of its clients keep it from recovering",
        retries,
    )
    .needs(PYTHON)
    .look_seconds(12)
    .beyond_procfs(),
    Case::fault(
        "metastable-after-outage",
        Metastable,
        "a server was away for 3 s, and all who have waited for it ask at once and keep it from recovering",
        after_outage,
    )
    .needs(PYTHON)
    .look_seconds(12)
    .beyond_procfs(),
    Case::twin(
        "metastable-twin-draining",
        Metastable,
        "a server stood still for 3 s, and works off what has come in the meantime",
        draining,
    )
    .needs(PYTHON)
    .look_seconds(12)
    .beyond_procfs(),
];

/// A server that does one request after another, 50 a second, and clients that ask 30 times a second. Both its queue
/// and its patience are long: it also works for clients that have gone.
fn overload(stage: &mut Stage, place: Place<'_>, options: &[&str]) -> Result<(Service, Service)> {
    let leaf = services::leaf(stage, place, &["threads=1", "backlog=4096", "seconds=0.02"])?;
    let client = load(
        stage,
        place,
        leaf.address,
        &[&["clients=100", "rate=30"], options].concat(),
    )?;
    client.counts_on(Count::Answered, 60)?;
    ensure!(
        client.count(Count::Failed)? == 0,
        "calls fail before there is a fault"
    );
    Ok((leaf, client))
}

/// The server stands still: connections are accepted for it, and nothing is answered.
fn retries(stage: &mut Stage) -> Result<Truth> {
    stays_down(
        stage,
        &["timeout=0.5", "tries=4"],
        &format!("slow {}", FAULT.as_secs()),
    )
}

/// The server is away: those whom it refuses wait for it, and all come at once.
fn after_outage(stage: &mut Stage) -> Result<Truth> {
    stays_down(
        stage,
        &["timeout=0.5", "tries=1000000", "backoff=fixed:0.1"],
        "refuse",
    )
}

fn stays_down(stage: &mut Stage, options: &[&str], fault: &str) -> Result<Truth> {
    let (leaf, client) = overload(stage, HERE, options)?;
    let mut truth = Truth::fault(Metastable, client.pid(), std::time::Instant::now())
        .or_subject(leaf.pid())
        .age_unknown()
        .threshold_seconds(AFTER_SECONDS)
        .because_of(RetryStorm)
        .because_of(ConnectRefused)
        .tolerate(Backpressure)
        // A hundred threads of one Python process do queue for its interpreter lock.
        .tolerate(LockContention);
    let (dir, fault) = (stage.dir().to_path_buf(), fault.to_owned());
    truth.trigger = Some(Box::new(move || {
        stand_still(&dir, &fault)?;
        // Five times the clients' timeout.
        sleep(Duration::from_millis(2500));
        let (attempts, answered) = (client.count(Count::Attempts)?, client.count(Count::Answered)?);
        let served = leaf.rate(Count::Answered, Duration::from_secs(2))?;
        let (attempts, answered) = (
            client.count(Count::Attempts)? - attempts,
            client.count(Count::Answered)? - answered,
        );
        ensure!(
            served > 20.0 && attempts > 100 && answered < 12,
            "it recovers: {answered} good answers to {attempts} attempts; the server gives {served:.1} a second"
        );
        Ok(())
    }));
    Ok(truth)
}

fn draining(stage: &mut Stage) -> Result<Truth> {
    let (leaf, client) = overload(stage, HERE_V6, &["timeout=30"])?;
    let mut truth = Truth::twin(Metastable, services::pids(&[&leaf, &client])).tolerate(LockContention);
    truth.threshold = Duration::from_secs(AFTER_SECONDS);
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        stand_still(&dir, &format!("slow {}", FAULT.as_secs()))?;
        client.counts_on(Count::Answered, 100)?;
        ensure!(client.count(Count::Failed)? == 0, "calls fail");
        Ok(())
    }));
    Ok(truth)
}

fn stand_still(dir: &std::path::Path, fault: &str) -> Result<()> {
    switch(dir, fault)?;
    sleep(FAULT);
    switch(dir, "answer")
}
