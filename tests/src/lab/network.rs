//! Several hosts on one machine: network namespaces, each with a veth on a bridge in a namespace of its own.
//!
//! The machine's own network is not touched. Names carry the stage's mark, so that the guard finds what a killed
//! runner left behind. Packets are dropped by nftables inside a host, and counted there: what was dropped is known
//! without rung.

use std::fs::{self, File};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::case::Need;
use super::stage::{Play, Stage};

/// What every case with a network of its own needs. Its faults are beyond /proc: sock_diag(7) shows the sockets of the
/// reader's own namespace only, and a diagnosis without BPF declares that.
pub(crate) const NETWORK: &[Need] = &[
    Need::Root,
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("ss"),
    Need::Program("python3"),
];

/// Where ip-netns(8) keeps the namespaces that have names.
const NAMED: &str = "/run/netns";
/// The namespace of the bridge.
const WIRE: &str = "wire";
/// How long a namespace may take to go once its last process has ended.
const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace with one interface on the wire, `eth0`.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// Its address of the first or the second family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// A port of it.
    pub fn port(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// Sets a variable below /proc/sys/net of this host, `ipv4/ip_local_port_range` for one.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys/net").join(name);
        let text = format!("printf %s '{value}' > {}", file.display());
        self.run("sh", &["-c", &text], "").map(drop)
    }

    /// Drops and counts what comes in and matches one of these, in the words of nft(8): `tcp dport 80`.
    pub fn drop_incoming(&self, matches: &[&str]) -> Result<()> {
        self.filter("input", matches, "drop")
    }

    /// Drops and counts what goes out and matches one of these.
    pub fn drop_outgoing(&self, matches: &[&str]) -> Result<()> {
        self.filter("output", matches, "drop")
    }

    /// Answers what comes in and matches one of these with what nft(8) calls a `reject` statement's operand.
    pub fn reject_incoming(&self, matches: &[&str], with: &str) -> Result<()> {
        self.filter("input", matches, &format!("reject with {with}"))
    }

    fn filter(&self, hook: &str, matches: &[&str], verdict: &str) -> Result<()> {
        let mut rules = format!(
            "table inet lab {{\n counter hit {{ }}\n chain {hook} {{\n  type filter hook {hook} priority 0;\n"
        );
        for what in matches {
            rules.push_str(&format!("  {what} counter name hit {verdict}\n"));
        }
        rules.push_str(" }\n}\n");
        self.run("nft", &["-f", "-"], &rules).map(drop)
    }

    /// Takes all filters away.
    pub fn unfilter(&self) -> Result<()> {
        self.run("nft", &["delete", "table", "inet", "lab"], "").map(drop)
    }

    /// How many packets the filters have hit so far.
    pub fn hits(&self) -> Result<u64> {
        let text = self.run("nft", &["list", "counter", "inet", "lab", "hit"], "")?;
        let packets = text
            .split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        packets
            .and_then(|number| number.parse().ok())
            .with_context(|| format!("nft does not say how many packets: {text}"))
    }

    /// The sockets that ss(8) shows with these arguments, a line each: `-tin dst 10.0.0.1`.
    pub fn sockets(&self, arguments: &str) -> Result<Vec<String>> {
        let words: Vec<&str> = ["-H", "-O", "-n"]
            .into_iter()
            .chain(arguments.split(' '))
            .collect();
        Ok(self.run("ss", &words, "")?.lines().map(str::to_owned).collect())
    }

    /// Runs a program inside the host to its end and returns what it says.
    pub fn run(&self, program: &str, args: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new(program);
        command.args(args);
        enter(&mut command, &self.name)?;
        let output = to_the_end(&mut command, input)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Which of a host's two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The hosts of one stage. Dropping it removes the namespaces; processes in them must have ended.
#[derive(Debug)]
pub struct Network {
    mark: String,
    hosts: Vec<Host>,
}

impl Network {
    fn new(mark: &str, hosts: &[&str]) -> Result<Self> {
        // Addresses differ from stage to stage: cases play side by side, and what looks at all namespaces at once
        // must not take two stages for one.
        static NETWORKS: AtomicU16 = AtomicU16::new(0);
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let site = (high ^ low) & 0x7f | 0x80;
        let [_, subnet] = number.to_be_bytes();
        // From here on, dropping it removes what was made.
        let mut network = Network {
            mark: mark.to_owned(),
            hosts: Vec::new(),
        };
        let wire = name(mark, WIRE);
        ip(&["netns", "add", &wire])?;
        batch(
            &wire,
            "link set lo up\nlink add bridge0 type bridge mcast_snooping 0\nlink set bridge0 up\n",
        )?;
        for (index, short) in hosts.iter().enumerate() {
            let index = u8::try_from(index + 1)?;
            let host = Host {
                name: name(mark, short),
                v4: Ipv4Addr::new(10, site, subnet, index),
                v6: Ipv6Addr::new(0xfd99, u16::from(site), number, 0, 0, 0, 0, index.into()),
            };
            ip(&["netns", "add", &host.name])?;
            let port = format!("port{index}");
            ip(&[
                "link", "add", "eth0", "netns", &host.name, "type", "veth", "peer", "name", &port, "netns",
                &wire,
            ])?;
            batch(&wire, &format!("link set dev {port} master bridge0 up\n"))?;
            batch(
                &host.name,
                &format!(
                    "link set lo up\nlink set eth0 up\naddress add {}/24 dev eth0\n\
                     address add {}/64 dev eth0 nodad\n",
                    host.v4, host.v6
                ),
            )?;
            network.hosts.push(host);
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        while !remove_marked(&self.mark) {
            if Instant::now() > end {
                eprintln!("lab: network namespaces of {} were not removed", self.mark);
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Stage {
    /// Hosts of these names on one wire. They go when the stage goes.
    pub fn network<const N: usize>(&mut self, hosts: [&str; N]) -> Result<[Host; N]> {
        ensure!(self.network.is_none(), "a stage has one network");
        let network = Network::new(self.mark(), &hosts)?;
        let made = network.hosts.clone().try_into();
        self.network = Some(network);
        made.map_err(|_| anyhow::anyhow!("not every host was made"))
    }

    /// Puts a second wire between two hosts, on which packets take so long; returns the hosts by their addresses there.
    pub fn long_wire(&mut self, hosts: [&Host; 2], there_ms: u32, back_ms: u32) -> Result<[Host; 2]> {
        // The devices are made where the actor is, and moved from there; its descriptors go on working.
        let wire = Host {
            name: name(self.mark(), WIRE),
            v4: Ipv4Addr::UNSPECIFIED,
            v6: Ipv6Addr::UNSPECIFIED,
        };
        let (there, back) = (there_ms.to_string(), back_ms.to_string());
        let play = self
            .python("delay.py")?
            .args(["long0", "long1", &there, &back])
            .on(&wire)?;
        self.start(play)?.get("ready")?;
        let [near, far] = hosts;
        let far_away = |host: &Host, device: &str| {
            let ([_, site, subnet, index], mut v6) = (host.v4.octets(), host.v6.segments());
            v6[0] = 0xfd9a;
            let there = Host {
                name: host.name.clone(),
                v4: Ipv4Addr::new(172, 16 + site % 16, subnet, index),
                v6: v6.into(),
            };
            batch(
                &wire.name,
                &format!("link set dev {device} netns {}\n", host.name),
            )?;
            batch(
                &host.name,
                &format!(
                    "link set dev {device} up\naddress add {}/24 dev {device}\n\
                     address add {}/64 dev {device} nodad\n",
                    there.v4, there.v6
                ),
            )?;
            anyhow::Ok(there)
        };
        Ok([far_away(near, "long0")?, far_away(far, "long1")?])
    }
}

impl Play {
    /// On this host: its network, but the machine's files.
    pub fn on(mut self, host: &Host) -> Result<Self> {
        enter(&mut self.command, &host.name)?;
        Ok(self)
    }
}

fn name(mark: &str, host: &str) -> String {
    format!("rung-lab-{mark}.{host}")
}

/// Makes `command` start in the namespace.
#[expect(
    unsafe_code,
    reason = "only pre_exec can move a child before its program starts"
)]
fn enter(command: &mut Command, namespace: &str) -> Result<()> {
    let file = Path::new(NAMED).join(namespace);
    let file = File::open(&file).with_context(|| format!("cannot open {}", file.display()))?;
    let move_in =
        move || move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(Into::into);
    // SAFETY: the closure makes one system call on a descriptor that it owns, and allocates nothing.
    unsafe { command.pre_exec(move_in) };
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    to_the_end(Command::new("ip").args(args), "").map(drop)
}

/// Lines of ip(8), done in one namespace.
fn batch(namespace: &str, lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    to_the_end(command.args(["-n", namespace, "-batch", "-"]), lines).map(drop)
}

fn to_the_end(command: &mut Command, input: &str) -> Result<Output> {
    let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
    let program = command.get_program().to_owned();
    let mut child = command
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    // Dropping the pipe is the end of the input.
    child
        .stdin
        .take()
        .context("no standard input")?
        .write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "{} {:?} failed: {}",
        program.display(),
        command.get_args().collect::<Vec<_>>(),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// The names of the namespaces that carry the mark.
pub fn marked(mark: &str) -> Vec<String> {
    let prefix = name(mark, "");
    let entries = fs::read_dir(NAMED).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(&prefix))
        .collect()
}

/// Removes every namespace that carries the mark; whether none is left.
pub fn remove_marked(mark: &str) -> bool {
    for namespace in marked(mark) {
        // The runner and the guard may be at it at once.
        let _ = ip(&["netns", "del", &namespace]);
    }
    marked(mark).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_stage_are_not_those_of_another() {
        assert!(!name("1-2-10", "a").starts_with(&name("1-2-1", "")));
        assert!(name("1-2-1", "a").starts_with(&name("1-2-1", "")));
    }
}
