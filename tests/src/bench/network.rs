//! What watching connections costs those who make them, beside what two runs of the same differ by.

use std::fmt::Write;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rung_agent::bpf::BpfSource;
use rung_diagnosis::observation::Direction;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::load::{Load, Servers};
use crate::rung::Rung;

/// Length of one run, and of one in which the programs are timed.
const RUN: Duration = Duration::from_secs(1);
const TIMED_RUN: Duration = Duration::from_secs(2);
/// Before a load the events have to be attached.
const ATTACHED_AFTER: Duration = Duration::from_millis(400);
/// Connections that stand open for the cost of a picture, and pictures of which the fastest counts.
const OPEN: usize = 10_000;
const PICTURES: usize = 15;
/// Switches the kernel's accounting of BPF programs on.
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Rates of one load: rounds of without, with, and without again.
pub struct Rates {
    load: Load,
    rounds: Vec<[f64; 3]>,
}

impl Rates {
    /// Measures in so many rounds.
    pub fn measure(servers: &Servers, rung: &Rung, load: Load, rounds: usize) -> Result<Self> {
        servers.run(load, RUN)?;
        let round = |_| {
            let before = servers.run(load, RUN)?;
            let watched = watched(servers, rung, load)?;
            Ok([before, watched, servers.run(load, RUN)?])
        };
        Ok(Rates {
            load,
            rounds: (0..rounds).map(round).collect::<Result<_>>()?,
        })
    }

    /// The rate with, over the rate without, in percent: median, lowest, highest.
    fn effect(&self) -> [f64; 3] {
        percent(
            self.rounds
                .iter()
                .map(|[before, with, after]| with / ((before + after) / 2.0)),
        )
    }

    /// The same of two runs without.
    fn control(&self) -> [f64; 3] {
        percent(self.rounds.iter().map(|[before, _, after]| after / before))
    }

    /// Whether the median with lies within what two runs without differ by, either way round.
    pub fn inside(&self) -> bool {
        let ([_, lowest, highest], [median, ..]) = (self.control(), self.effect());
        median >= lowest.min(-highest)
    }
}

/// Median, lowest and highest of ratios, as percents above or below one.
fn percent(ratios: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut all: Vec<f64> = ratios.map(|ratio| (ratio - 1.0) * 100.0).collect();
    all.sort_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
    [at(all.len() / 2), at(0), at(all.len().wrapping_sub(1))]
}

/// A run while rung watches, started as a user does.
fn watched(servers: &Servers, rung: &Rung, load: Load) -> Result<f64> {
    let window = ATTACHED_AFTER + RUN * 2;
    let mut watcher = Command::new(rung.binary())
        .args(["--for", &format!("{}ms", window.as_millis()), "--format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start rung")?;
    std::thread::sleep(ATTACHED_AFTER);
    let rate = servers.run(load, RUN);
    let outlived = watcher.try_wait()?.is_none();
    let status = watcher.wait()?;
    // 1: it found something; 0: it did not.
    if !outlived || !matches!(status.code(), Some(0 | 1)) {
        bail!("rung did not watch the whole run of {load}: it ended with {status}");
    }
    rate
}

/// What the programs cost, by the kernel's own accounting.
pub struct Costs {
    load: Load,
    connections: u64,
    requests: u64,
    /// Name, time and runs of each program.
    programs: Vec<(String, u64, u64)>,
}

/// The programs of connections; the others of the object are of processes.
const OF_CONNECTIONS: [&str; 4] = [
    "inet_sock_set_state",
    "tcp_retransmit_skb",
    "tcp_receive_reset",
    "tcp_send_reset",
];
const OF_TURNS: [&str; 2] = ["sock_send_length", "sock_recv_length"];

impl Costs {
    /// Runs a load with the accounting on.
    pub fn measure(servers: &Servers, load: Load) -> Result<Self> {
        let mut source = BpfSource::open()?;
        source.watch_events()?;
        source.picture()?;
        source.take_events();
        let _accounting = Accounting::start()?;
        let before = source.event_costs();
        servers.run(load, TIMED_RUN)?;
        let programs = source
            .event_costs()
            .into_iter()
            .zip(before)
            .map(|(now, before)| (now.name, now.run_ns - before.run_ns, now.runs - before.runs))
            .collect();
        let flows = source.take_events().context("events are watched")?.flows;
        let outbound = flows
            .iter()
            .filter(|flow| flow.key.direction == Direction::Outbound);
        let (connections, requests) = outbound.fold((0, 0), |(made, asked), flow| {
            (made + flow.established, asked + flow.requests)
        });
        Ok(Costs {
            load,
            connections,
            requests,
            programs,
        })
    }

    /// Whether each request of the load had a connection of its own.
    pub fn makes_connections(&self) -> bool {
        match self.load {
            Load::WebConnections | Load::RedisConnections => true,
            Load::WebKeptAlive | Load::RedisKeptAlive => false,
        }
    }

    fn total_ns(&self, names: &[&str]) -> u64 {
        let programs = self
            .programs
            .iter()
            .filter(|(name, ..)| names.contains(&name.as_str()));
        programs.map(|(_, ns, _)| ns).sum()
    }

    /// Nanoseconds a connection in all over its life, both of its ends and its request included.
    pub fn per_connection_ns(&self) -> f64 {
        let all = self.total_ns(&OF_CONNECTIONS) + self.total_ns(&OF_TURNS);
        all as f64 / self.connections.max(1) as f64
    }

    /// Nanoseconds a request and its answer, both ends.
    pub fn per_request_ns(&self) -> f64 {
        self.total_ns(&OF_TURNS) as f64 / self.requests.max(1) as f64
    }
}

/// The kernel's accounting of BPF programs, switched on as long as this value is there.
struct Accounting {
    before: String,
}

impl Accounting {
    fn start() -> Result<Self> {
        let before = std::fs::read_to_string(STATS)?;
        std::fs::write(STATS, "1")?;
        Ok(Accounting { before })
    }
}

impl Drop for Accounting {
    fn drop(&mut self) {
        let _ = std::fs::write(STATS, &self.before);
    }
}

/// A picture of many open connections.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// How many there were: fewer than wanted if the limit of open files is low.
    pub connections: usize,
    /// What each of their descriptors adds to a picture, microseconds.
    pub descriptor_us: f64,
}

/// Opens many connections and measures pictures with and without them.
pub fn open_connections() -> Result<Open> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    // Both ends are here, and so are some descriptors of our own.
    let room = limit.maximum.map_or(usize::MAX, |maximum| maximum as usize);
    let connections = OPEN.min(room.saturating_sub(200) / 2);
    ensure!(connections > 0, "the limit of open files is too low");
    let mut source = BpfSource::open()?;
    let before = fastest(&mut source)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut open = Vec::with_capacity(2 * connections);
    for _ in 0..connections {
        open.push(TcpStream::connect(address)?);
        open.push(listener.accept()?.0);
    }
    let with = fastest(&mut source)?;
    Ok(Open {
        connections,
        descriptor_us: with.saturating_sub(before).as_secs_f64() * 1e6 / open.len() as f64,
    })
}

/// CPU time of the cheapest of some pictures: on a shared machine the time by the clock is also other people's.
fn fastest(source: &mut BpfSource) -> Result<Duration> {
    let mut fastest = Duration::MAX;
    for _ in 0..PICTURES {
        let began = cpu_time();
        source.picture()?;
        fastest = fastest.min(cpu_time().saturating_sub(began));
    }
    Ok(fastest)
}

/// CPU time of this thread, which also runs the iterators.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        spent.tv_sec.unsigned_abs(),
        u32::try_from(spent.tv_nsec).unwrap_or_default(),
    )
}

/// A section in Markdown.
pub fn section(rates: &[Rates], costs: &[Costs], open: Open) -> Result<String> {
    let mut page = String::new();
    writeln!(
        page,
        "## Watching connections\n\n\
         Requests a second while `rung --for` watches, against the mean of a run before and one after without it; beside \
         it the control, the run after against the run before. Medians, with the lowest and highest of all rounds.\n\n\
         | load | requests/s without | with rung | control | inside |\n|---|---|---|---|---|"
    )?;
    for one in rates {
        let mut without: Vec<f64> = one.rounds.iter().flat_map(|round| [round[0], round[2]]).collect();
        without.sort_by(f64::total_cmp);
        let show =
            |[median, lowest, highest]: [f64; 3]| format!("{median:+.1}% ({lowest:+.1} to {highest:+.1})");
        writeln!(
            page,
            "| {} | {:.0} | {} | {} | {} |",
            one.load,
            without[without.len() / 2],
            show(one.effect()),
            show(one.control()),
            if one.inside() { "yes" } else { "**no**" }
        )?;
    }
    writeln!(
        page,
        "\nBy the kernel's own accounting (`kernel.bpf_stats_enabled`), both ends of each connection on this host:\n\n\
         | load | program | runs | ns a run |\n|---|---|---|---|"
    )?;
    for one in costs {
        for (name, ns, runs) in one.programs.iter().filter(|(_, _, runs)| *runs > 0) {
            writeln!(
                page,
                "| {} | {name} | {runs} | {:.0} |",
                one.load,
                *ns as f64 / *runs as f64
            )?;
        }
    }
    writeln!(
        page,
        "\n| load | a connection in all | a request with its answer |\n|---|---|---|"
    )?;
    for one in costs {
        let connection = if one.makes_connections() {
            format!("{:.0} ns", one.per_connection_ns())
        } else {
            String::new()
        };
        writeln!(
            page,
            "| {} | {connection} | {:.0} ns |",
            one.load,
            one.per_request_ns()
        )?;
    }
    writeln!(
        page,
        "\nA picture with {} open connections, both ends in one process: {:.2} us of CPU time a descriptor.",
        open.connections, open.descriptor_us
    )?;
    Ok(page)
}
