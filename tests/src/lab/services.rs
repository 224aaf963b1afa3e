//! Services that call each other, and what they count of it by themselves.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bite::{self, Hang};
use super::case::Need;
use super::network::{Family, Host};
use super::proc;
use super::stage::{Actor, Stage};

/// What services on this machine's loopback need.
pub(super) const PYTHON: &[Need] = &[Need::Program("python3")];

/// Where a service runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    address: IpAddr,
    host: Option<&'a Host>,
}

/// This machine, by IPv4.
pub(super) const HERE: Place<'_> = Place {
    address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    host: None,
};

/// This machine, by IPv6.
pub(super) const HERE_V6: Place<'_> = Place {
    address: IpAddr::V6(Ipv6Addr::LOCALHOST),
    host: None,
};

impl<'a> Place<'a> {
    /// A host of the stage's network.
    pub(super) fn on(host: &'a Host, family: Family) -> Self {
        Place {
            address: host.address(family),
            host: Some(host),
        }
    }

    /// The address of a port that is closed, and that no client gets as its own.
    pub(super) fn closed_port(self) -> Result<SocketAddr> {
        ensure!(self.host.is_none(), "only this machine's ports can be tried");
        let base = 30000 + (std::process::id() % 1000) as u16;
        (0..1000)
            .map(|offset| SocketAddr::new(self.address, base + offset))
            .find(|&address| TcpListener::bind(address).is_ok())
            .context("no port below 32768 is free")
    }
}

/// What a service counts (`Counts` of services.py).
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    /// Requests that came in; of a load, that it wanted answered.
    Requests,
    /// Of those, the ones answered well.
    Answered,
    /// Calls to the downstream, each try by itself.
    Attempts,
    /// Of those, the ones that failed.
    Failed,
}

/// A service that runs.
#[derive(Debug, Clone)]
pub(super) struct Service {
    actor: Actor,
    /// Where it listens; of a load, where it asks.
    pub(super) address: SocketAddr,
}

impl Service {
    /// Its process.
    pub(super) fn pid(&self) -> i32 {
        self.actor.pid
    }

    /// What it has counted so far.
    pub(super) fn count(&self, what: Count) -> Result<u64> {
        let counters = self.actor.counters()?;
        counters
            .get(what as usize)
            .copied()
            .context("its counters are cut short")
    }

    /// Waits until so much more was counted.
    pub(super) fn counts_on(&self, what: Count, more: u64) -> Result<Instant> {
        let before = self.count(what)?;
        bite::until(
            &format!("process {} counts {more} {what:?} more", self.pid()),
            || self.count(what).is_ok_and(|now| now >= before + more),
        )
    }

    /// How much is counted a second, looked at for so long.
    pub(super) fn rate(&self, what: Count, span: Duration) -> Result<f64> {
        let (before, start) = (self.count(what)?, Instant::now());
        sleep(span);
        Ok((self.count(what)? - before) as f64 / start.elapsed().as_secs_f64())
    }

    /// The threads of a tier that serve clients: all but the first.
    pub(super) fn workers(&self) -> Vec<i32> {
        proc::tids(self.pid())
            .into_iter()
            .filter(|&tid| tid != self.pid())
            .collect()
    }

    /// Waits until all its workers hang in one of these calls at once.
    pub(super) fn workers_hang(&self, calls: &[i64]) -> Result<Instant> {
        let pid = self.pid();
        let hangs: Vec<_> = self
            .workers()
            .into_iter()
            .map(|tid| Hang { pid, tid, calls })
            .collect();
        bite::hang(&hangs)
    }
}

fn play(stage: &mut Stage, place: Place<'_>, args: &[&str]) -> Result<Actor> {
    let mut play = stage.python("services.py")?.args(args);
    if let Some(host) = place.host {
        play = play.on(host)?;
    }
    let actor = stage.start(play)?;
    actor.get("ready")?;
    Ok(actor)
}

fn listening(stage: &mut Stage, place: Place<'_>, args: &[&str]) -> Result<Service> {
    let actor = play(stage, place, args)?;
    let address = SocketAddr::new(place.address, actor.get("port")?.try_into()?);
    Ok(Service { actor, address })
}

/// The last of a chain. It does what [`switch`] says.
pub(super) fn leaf(stage: &mut Stage, place: Place<'_>, options: &[&str]) -> Result<Service> {
    let host = place.address.to_string();
    listening(stage, place, &[&["leaf", &host], options].concat())
}

/// A leaf whose standard output goes there.
pub(super) fn leaf_into(
    stage: &mut Stage,
    place: Place<'_>,
    options: &[&str],
    stdout: impl Into<std::process::Stdio>,
) -> Result<Service> {
    let host = place.address.to_string();
    let play = stage
        .python("services.py")?
        .args([&["leaf", &host], options].concat())
        .stdout(stdout);
    let actor = stage.start(play)?;
    actor.get("ready")?;
    let address = SocketAddr::new(place.address, actor.get("port")?.try_into()?);
    Ok(Service { actor, address })
}

/// A `tier` or an `async-tier` that calls `down`.
pub(super) fn tier(
    stage: &mut Stage,
    place: Place<'_>,
    kind: &str,
    down: SocketAddr,
    options: &[&str],
) -> Result<Service> {
    let (host, down_host, port) = (
        place.address.to_string(),
        down.ip().to_string(),
        down.port().to_string(),
    );
    listening(
        stage,
        place,
        &[&[kind, &host, &down_host, &port], options].concat(),
    )
}

/// Clients of `target`.
pub(super) fn load(
    stage: &mut Stage,
    place: Place<'_>,
    target: SocketAddr,
    options: &[&str],
) -> Result<Service> {
    let (host, port) = (target.ip().to_string(), target.port().to_string());
    let actor = play(stage, place, &[&["load", &host, &port], options].concat())?;
    Ok(Service {
        actor,
        address: target,
    })
}

/// Clients of `target` that all begin at the cue `load`, which this gives.
pub(super) fn loads_at_once(
    stage: &mut Stage,
    clients: usize,
    target: SocketAddr,
    options: &[&str],
) -> Result<Vec<Service>> {
    let (host, port) = (target.ip().to_string(), target.port().to_string());
    let args = [&["load", &host, &port, "wait=1"], options].concat();
    let mut loads = Vec::new();
    for _ in 0..clients {
        let play = stage.python("services.py")?.args(&args);
        let actor = stage.start(play)?;
        loads.push(Service {
            actor,
            address: target,
        });
    }
    for load in &loads {
        load.actor.get("waiting")?;
    }
    stage.cue("load")?;
    for load in &loads {
        load.actor.get("ready")?;
    }
    Ok(loads)
}

/// A client that opens a pool of connections all at once, over and over.
pub(super) fn refill(stage: &mut Stage, target: SocketAddr, connections: usize) -> Result<Service> {
    let (host, port) = (target.ip().to_string(), target.port().to_string());
    let actor = play(stage, HERE, &["refill", &host, &port, &connections.to_string()])?;
    Ok(Service {
        actor,
        address: target,
    })
}

/// What the leaves of the stage in `dir` do from now on: `answer`, `slow SECONDS`, `close`, `some N`, `reset` or
/// `refuse`.
pub(super) fn switch(dir: &Path, mode: &str) -> Result<()> {
    // By rename: a leaf must not read half of it.
    let new = dir.join("leaf.mode.new");
    fs::write(&new, mode)?;
    fs::rename(&new, dir.join("leaf.mode")).with_context(|| format!("cannot switch the leaves to {mode}"))
}

/// Their processes.
pub(super) fn pids(services: &[&Service]) -> Vec<i32> {
    services.iter().map(|service| service.pid()).collect()
}
