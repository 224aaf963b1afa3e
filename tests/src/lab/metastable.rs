//! `metastable`: a server that stays overloaded by retries after its fault has gone, and one that works its backlog off.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use rung_diagnosis::mode::Mode::{Backpressure, Metastable, RetryStorm};

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

fn retries(stage: &mut Stage) -> Result<Truth> {
    let (leaf, client) = overload(stage, HERE, &["timeout=0.5", "tries=4"])?;
    let mut truth = Truth::fault(Metastable, client.pid(), std::time::Instant::now())
        .or_subject(leaf.pid())
        .age_unknown()
        .threshold_seconds(AFTER_SECONDS)
        .because_of(RetryStorm)
        .tolerate(Backpressure);
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        stand_still(&dir)?;
        // Five times the clients' timeout.
        sleep(Duration::from_millis(2500));
        let requests = client.rate(Count::Requests, Duration::from_secs(1))?;
        let answered = client.rate(Count::Answered, Duration::from_secs(1))?;
        ensure!(
            requests > 15.0 && answered < 6.0,
            "it recovers: {answered:.1} good answers a second to {requests:.1} requests"
        );
        leaf.counts_on(Count::Requests, 20)?;
        Ok(())
    }));
    Ok(truth)
}

fn draining(stage: &mut Stage) -> Result<Truth> {
    let (leaf, client) = overload(stage, HERE_V6, &["timeout=30"])?;
    let mut truth = Truth::twin(Metastable, services::pids(&[&leaf, &client]));
    truth.threshold = Duration::from_secs(AFTER_SECONDS);
    let dir = stage.dir().to_path_buf();
    truth.trigger = Some(Box::new(move || {
        stand_still(&dir)?;
        client.counts_on(Count::Answered, 100)?;
        ensure!(client.count(Count::Failed)? == 0, "calls fail");
        Ok(())
    }));
    Ok(truth)
}

fn stand_still(dir: &std::path::Path) -> Result<()> {
    switch(dir, &format!("slow {}", FAULT.as_secs()))?;
    sleep(FAULT);
    switch(dir, "answer")
}
