//! `cascading-wait` and the `thread-pile-up` before it: pools that all wait for one slow dependency, and busy or idle ones.

use std::time::Duration;

use anyhow::{Result, ensure};
use libc::{SYS_accept, SYS_accept4, SYS_poll, SYS_recvfrom};
use rung_diagnosis::mode::Mode::{Backpressure, CascadingWait, ThreadPileUp};

use super::case::{Case, Need};
use super::network::{Family, NETWORK};
use super::proc;
use super::real_servers::redis;
use super::services::{self, Count, HERE, HERE_V6, PYTHON, Place, Service, load, switch};
use super::stage::Stage;
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "cascade-thread-pool",
        CascadingWait,
        "a pool of 16 threads before a leaf that takes 5 s for an answer",
        threads,
    )
    .needs(PYTHON)
    .look_seconds(6)
    .beyond_procfs(),
    Case::fault(
        "cascade-async",
        CascadingWait,
        "an asynchronous service with 16 connections to a leaf that takes 5 s for an answer",
        asynchronous,
    )
    .needs(PYTHON)
    .look_seconds(6)
    .beyond_procfs(),
    Case::fault(
        "cascade-other-host",
        CascadingWait,
        "a pool of 16 threads before a slow leaf in another network namespace, by IPv6",
        other_host,
    )
    .needs(NETWORK)
    .look_seconds(6)
    .beyond_procfs(),
    Case::fault(
        "cascade-redis",
        CascadingWait,
        "a pool of 16 threads before a Redis that sleeps",
        behind_redis,
    )
    .needs(&[
        Need::Program("python3"),
        Need::Program("redis-server"),
        Need::Program("redis-cli"),
    ])
    .look_seconds(6)
    .beyond_procfs(),
    Case::twin(
        "cascade-twin-busy",
        CascadingWait,
        "a pool of 16 threads that always wait for the leaf, which answers each after 50 ms",
        busy_threads,
    )
    .needs(PYTHON)
    .look_seconds(6)
    .beyond_procfs(),
    Case::twin(
        "cascade-twin-busy-async",
        CascadingWait,
        "16 connections that are always in use, each answered after 50 ms",
        busy_async,
    )
    .needs(PYTHON)
    .look_seconds(6)
    .beyond_procfs(),
    Case::twin(
        "pile-up-twin-idle-pool",
        ThreadPileUp,
        "16 threads wait for clients, and the leaf's for requests on connections that are kept",
        idle,
    )
    .needs(PYTHON)
    .look_seconds(6),
];

/// Calls a thread makes that waits for an answer: recv(2), or poll(2) before it where there is a timeout.
const WAITS: &[i64] = &[SYS_recvfrom, SYS_poll];

struct Cascade {
    leaf: Service,
    tier: Service,
    client: Service,
}

/// A service with 16 ways to the leaf, and more clients than it has ways.
fn cascade(stage: &mut Stage, kind: &str, at: [Place<'_>; 2], leaf_options: &[&str]) -> Result<Cascade> {
    let [near, far] = at;
    let leaf = services::leaf(stage, far, leaf_options)?;
    let ways: &[&str] = match kind {
        "tier" => &["threads=16", "pooled=1"],
        _ => &["connections=16"],
    };
    let tier = services::tier(stage, near, kind, leaf.address, ways)?;
    let client = load(stage, near, tier.address, &["clients=24", "pooled=1", "rate=120"])?;
    client.counts_on(Count::Answered, 100)?;
    Ok(Cascade { leaf, tier, client })
}

impl Cascade {
    /// Slows the leaf, and waits until hardly anything gets through.
    fn slow(&self, stage: &Stage) -> Result<Truth> {
        switch(stage.dir(), "slow 5")?;
        std::thread::sleep(Duration::from_secs(1));
        let rate = self.client.rate(Count::Answered, Duration::from_millis(1500))?;
        // 16 answers in 5 s.
        ensure!(rate < 12.0, "{rate:.1} answers a second get through");
        let waiting = self.tier.count(Count::Attempts)? - self.tier.count(Count::Answered)?;
        ensure!(
            (14..=16).contains(&waiting),
            "{waiting} of 16 ways wait for the leaf"
        );
        let since = std::time::Instant::now();
        Ok(Truth::fault(CascadingWait, self.leaf.pid(), since)
            .age_unknown()
            .threshold_seconds(3)
            .symptom(Backpressure, self.tier.pid()))
    }

    fn is_busy(&self) -> Result<Truth> {
        let rate = self.client.rate(Count::Answered, Duration::from_secs(1))?;
        ensure!(rate > 60.0, "only {rate:.1} answers a second");
        let cast = services::pids(&[&self.leaf, &self.tier, &self.client]);
        Ok(Truth::twin(CascadingWait, cast))
    }
}

fn threads(stage: &mut Stage) -> Result<Truth> {
    let cascade = cascade(stage, "tier", [HERE, HERE], &[])?;
    let truth = cascade.slow(stage)?;
    cascade.tier.workers_hang(WAITS)?;
    Ok(truth
        .expect_symptom(ThreadPileUp, cascade.tier.pid())
        .case("a pool of threads"))
}

fn asynchronous(stage: &mut Stage) -> Result<Truth> {
    let cascade = cascade(stage, "async-tier", [HERE, HERE_V6], &[])?;
    ensure!(
        proc::tids(cascade.tier.pid()).len() == 1,
        "an asynchronous service has one thread"
    );
    Ok(cascade.slow(stage)?.case("a pool of connections"))
}

fn other_host(stage: &mut Stage) -> Result<Truth> {
    let [near, far] = stage.network(["near", "far"])?;
    let places = [Place::on(&near, Family::V6), Place::on(&far, Family::V6)];
    let cascade = cascade(stage, "tier", places, &[])?;
    let truth = cascade.slow(stage)?;
    cascade.tier.workers_hang(WAITS)?;
    // Its process can be seen from here; who does not look into other namespaces has the address.
    Ok(truth
        .or_subject(cascade.tier.pid())
        .says(far.v6.to_string())
        .symptom(ThreadPileUp, cascade.tier.pid()))
}

fn behind_redis(stage: &mut Stage) -> Result<Truth> {
    let (redis, address) = redis(stage)?;
    let tier = services::tier(stage, HERE, "tier", address, &["threads=16", "pooled=1"])?;
    let client = load(stage, HERE, tier.address, &["clients=24", "pooled=1", "rate=120"])?;
    client.counts_on(Count::Answered, 100)?;
    let (port, seconds) = (address.port().to_string(), stage.seconds().to_string());
    let play = stage
        .program("redis-cli")?
        .args(["-p", &port, "debug", "sleep", &seconds]);
    stage.start(play)?;
    let since = tier.workers_hang(WAITS)?;
    let answered = client.count(Count::Answered)?;
    std::thread::sleep(Duration::from_millis(500));
    ensure!(client.count(Count::Answered)? == answered, "Redis answers");
    Ok(Truth::fault(CascadingWait, redis, since)
        .age_unknown()
        .threshold_seconds(3)
        .symptom(Backpressure, tier.pid())
        .symptom(ThreadPileUp, tier.pid())
        .case("Redis sleeps"))
}

fn busy_threads(stage: &mut Stage) -> Result<Truth> {
    cascade(stage, "tier", [HERE, HERE], &["seconds=0.05"])?.is_busy()
}

fn busy_async(stage: &mut Stage) -> Result<Truth> {
    cascade(stage, "async-tier", [HERE_V6, HERE], &["seconds=0.05"])?.is_busy()
}

fn idle(stage: &mut Stage) -> Result<Truth> {
    let leaf = services::leaf(stage, HERE, &["threads=16"])?;
    let tier = services::tier(stage, HERE, "tier", leaf.address, &["threads=16", "pooled=1"])?;
    let client = load(stage, HERE, tier.address, &["clients=8", "pooled=1"])?;
    client.counts_on(Count::Answered, 50)?;
    stage.cue("rest")?;
    tier.workers_hang(&[SYS_accept, SYS_accept4])?;
    leaf.workers_hang(&[SYS_accept, SYS_accept4, SYS_recvfrom])?;
    Ok(Truth::twin(ThreadPileUp, services::pids(&[&leaf, &tier])))
}
