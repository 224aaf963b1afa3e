//! Network namespaces: their counters, and their TCP sockets that no process holds.
//!
//! Scope: each namespace in which a process of the picture lives, by /proc/PID/net of one such process; none is entered.
//! Which process lives where is remembered from reading to reading, so that only new processes are looked at. The root
//! is injected, so that tests run on a small fake tree.
//!
//! Degradation policy: at most 64 namespaces, those with sockets first; one that cannot be read is left out. What is
//! missing is said by the two views of a [`Reading`]. The range of local ports is a file of the reader's own namespace
//! (/proc/sys/net), so it is unknown of the others.

mod addresses;
mod counters;
mod ownerless;
mod residents;

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rung_diagnosis::observation::{NetworkObservation, OwnerlessObservation, Picture, Signal, View};
use rustix::fs::{CWD, Mode, OFlags, openat};

use self::ownerless::Ownerless;
use self::residents::{Residents, namespace};
use crate::clock;

/// Namespaces that are read.
const NETWORKS_MAX: usize = 64;
/// Time for all tables of sockets that nobody holds.
const SOCKETS_BUDGET: Duration = Duration::from_millis(150);
/// Bytes of one file of counters.
const COUNTERS_BYTES: u64 = 256 << 10;
/// Kernel states of a socket that the process has closed: FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING
/// (include/net/tcp_states.h).
const ORPHANED: [u8; 4] = [4, 5, 9, 11];

/// Reads namespaces, and remembers who lives where.
#[derive(Debug)]
pub(crate) struct Networks {
    root: PathBuf,
    /// The root is that of the own namespaces: sock_diag tells of the same sockets.
    by_netlink: bool,
    residents: Residents,
}

/// What one reading gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    networks: Vec<NetworkObservation>,
    ownerless: Vec<OwnerlessObservation>,
    counters_view: View,
    ownerless_view: View,
}

impl Reading {
    /// Adds what was read to a picture.
    pub(crate) fn add_to(&self, picture: &mut Picture) {
        picture.networks.clone_from(&self.networks);
        picture.ownerless.clone_from(&self.ownerless);
        picture
            .sight
            .set(Signal::NetworkCounters, self.counters_view.clone());
        picture
            .sight
            .set(Signal::OwnerlessSockets, self.ownerless_view.clone());
    }
}

/// What was refused or left out.
#[derive(Debug, Default)]
struct Gaps {
    /// Processes, and those of which it is not known where they live: refused, not looked at yet.
    processes: usize,
    refused: usize,
    unknown: usize,
    /// Namespaces beyond the bound, and those that could not be read.
    beyond: usize,
    unread: usize,
    /// Namespaces of which not all sockets were counted, and why the own ones were not.
    cut: usize,
    unlisted: usize,
    failure: Option<String>,
}

impl Networks {
    /// Reads below `root`, normally /proc. `by_netlink` says that the kernel's own answers belong to the same tree.
    pub(crate) fn new(root: PathBuf, by_netlink: bool) -> Self {
        Networks {
            root,
            by_netlink,
            residents: Residents::default(),
        }
    }

    /// Reads the namespaces of a picture's processes.
    pub(crate) fn read(&mut self, picture: &Picture) -> Reading {
        let own = open(CWD, &self.root.join("self"), OFlags::PATH | OFlags::DIRECTORY);
        let own_ns = own.as_ref().ok().and_then(|own| namespace(own.as_fd()));
        let (Ok(own), Some(own_ns)) = (own, own_ns) else {
            let why = format!("cannot read {}", self.root.join("self/ns/net").display());
            let remedy = "mount procfs on /proc";
            return Reading {
                networks: Vec::new(),
                ownerless: Vec::new(),
                counters_view: blind(&why, remedy),
                ownerless_view: blind(&why, remedy),
            };
        };
        self.residents.look(&self.root, picture);
        let others = self.residents.representatives(&self.root, picture, own_ns);
        let mut gaps = Gaps {
            processes: self.residents.processes(),
            refused: self.residents.refused(),
            unknown: self.residents.unknown(),
            beyond: (others.len() + 1).saturating_sub(NETWORKS_MAX),
            ..Gaps::default()
        };
        let own_pid = std::fs::read_link(self.root.join("self"))
            .ok()
            .and_then(|pid| pid.to_str()?.parse().ok())
            .unwrap_or(0);
        let own = std::iter::once((own_ns, own_pid, own));
        let deadline = Instant::now() + SOCKETS_BUDGET;
        let mut networks = Vec::new();
        let mut ownerless = Vec::new();
        for (net_ns, pid, process) in own.chain(others).take(NETWORKS_MAX) {
            let mut network = NetworkObservation {
                net_ns,
                pid,
                at_ns: clock::monotonic_ns(),
                ..NetworkObservation::default()
            };
            network.addresses = read_addresses(process.as_fd());
            let is_own = net_ns == own_ns;
            let counted = read_counters(process.as_fd(), &mut network);
            if is_own {
                let ports = read(CWD, &self.root.join("sys/net/ipv4/ip_local_port_range"));
                network.local_ports = ports.map_or((0, 0), |text| counters::local_ports(&text));
            }
            let sockets = self.ownerless(process.as_fd(), is_own, deadline, &mut gaps);
            if let Some(mut sockets) = sockets {
                let rows = sockets.count(net_ns);
                gaps.cut += usize::from(sockets.cut);
                let orphaned = rows.iter().filter(|row| ORPHANED.contains(&row.state));
                network.orphaned = orphaned.map(|row| row.count).sum();
                ownerless.extend(rows);
            }
            if counted {
                networks.push(network);
            } else {
                gaps.unread += 1;
            }
        }
        Reading {
            counters_view: gaps.counters(networks.len(), &self.root),
            ownerless_view: gaps.ownerless(),
            networks,
            ownerless,
        }
    }

    /// The sockets of one namespace; `None` if they could not be listed.
    fn ownerless(
        &self,
        process: BorrowedFd<'_>,
        is_own: bool,
        deadline: Instant,
        gaps: &mut Gaps,
    ) -> Option<Ownerless> {
        if is_own && self.by_netlink {
            match Ownerless::of_own_namespace(deadline) {
                Ok(found) => return Some(found),
                // The kernel may lack the module; /proc says the same, slower.
                Err(error) => gaps.failure = Some(error.to_string()),
            }
        }
        let mut found = Ownerless::default();
        for table in ["net/tcp", "net/tcp6"] {
            let listed = open(process, Path::new(table), OFlags::RDONLY)
                .and_then(|file| found.add_table(File::from(file), deadline));
            match listed {
                Ok(()) => {}
                // There is no tcp6 where IPv6 is switched off.
                Err(error) if table == "net/tcp6" && error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    gaps.unlisted += 1;
                    gaps.failure = Some(format!("cannot read /proc/PID/{table}: {error}"));
                    return None;
                }
            }
        }
        Some(found)
    }
}

/// How many TCP connections a namespace has opened and accepted so far, from the text of its snmp table.
pub(crate) fn opens(snmp: &[u8]) -> Option<(u64, u64)> {
    let mut network = NetworkObservation::default();
    (counters::read_table(snmp, &mut network) > 0).then_some((network.active_opens, network.passive_opens))
}

/// Reads the counters of the namespace of a process, whose directory is given; false if there are none.
fn read_counters(process: BorrowedFd<'_>, network: &mut NetworkObservation) -> bool {
    let mut found = 0;
    for table in ["net/netstat", "net/snmp"] {
        match read(process, Path::new(table)) {
            Ok(text) => found += counters::read_table(&text, network),
            Err(error) => tracing::debug!(table, %error, "counters of a network namespace not read"),
        }
    }
    if let Some(count) = read(process, Path::new("net/sockstat"))
        .ok()
        .and_then(|text| counters::time_wait(&text))
    {
        network.time_wait = count;
    }
    found > 0
}

/// The addresses of the namespace of a process, whose directory is given; none where the tables cannot be read.
fn read_addresses(process: BorrowedFd<'_>) -> Vec<IpAddr> {
    let table = |path: &str| read(process, Path::new(path)).unwrap_or_default();
    let mut found = addresses::of_trie(&table("net/fib_trie"));
    found.extend(addresses::of_interfaces(&table("net/if_inet6")));
    found
}

fn open(dir: impl AsFd, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
    Ok(openat(dir, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

fn read(dir: impl AsFd, path: &Path) -> std::io::Result<Vec<u8>> {
    let file = File::from(open(dir, path, OFlags::RDONLY)?);
    let mut text = Vec::new();
    file.take(COUNTERS_BYTES).read_to_end(&mut text)?;
    Ok(text)
}

impl Gaps {
    /// What is missing of the namespaces themselves.
    fn namespaces(&self) -> Vec<String> {
        let mut why = Vec::new();
        if self.refused > 0 {
            why.push(format!(
                "the network namespaces of {} of {} processes, those of other users or more privileged, are not readable",
                self.refused, self.processes
            ));
        }
        if self.unknown > 0 {
            why.push(format!(
                "the network namespaces of {} of {} processes have not been looked at yet",
                self.unknown, self.processes
            ));
        }
        if self.beyond > 0 {
            why.push(format!(
                "{} network namespaces beyond the first {NETWORKS_MAX} were left out",
                self.beyond
            ));
        }
        why
    }

    fn counters(&self, read: usize, root: &Path) -> View {
        let mut why = self.namespaces();
        if read == 0 {
            let why = format!("cannot read {}", root.join("PID/net/snmp").display());
            return blind(&why, "mount procfs on /proc");
        }
        if self.unread > 0 {
            why.push(format!("{} network namespaces could not be read", self.unread));
        }
        self.view(why)
    }

    fn ownerless(&self) -> View {
        let mut why = self.namespaces();
        if self.cut > 0 {
            why.push(format!(
                "in {} network namespaces there are too many to count them all",
                self.cut
            ));
        }
        if let (1.., Some(failure)) = (self.unlisted, &self.failure) {
            why.push(format!("in {} network namespaces: {failure}", self.unlisted));
        }
        self.view(why)
    }

    fn view(&self, why: Vec<String>) -> View {
        if why.is_empty() {
            return View::Full;
        }
        let remedy = match (self.refused, rustix::process::geteuid().is_root()) {
            (0, _) => "look from inside the namespace: `nsenter -t PID -n ss -tan`",
            (_, false) => "run as root (CAP_SYS_PTRACE)",
            (_, true) => "run with CAP_SYS_PTRACE in the host's user namespace",
        };
        View::Partial {
            why: why.join("; "),
            remedy: remedy.to_owned(),
        }
    }
}

fn blind(why: &str, remedy: &str) -> View {
    View::Blind {
        why: why.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests;
