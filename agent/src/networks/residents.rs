//! Which process lives in which network namespace.
//!
//! Scope: the links /proc/PID/ns/net of processes that were not looked at before; a process is known by its pid and
//! start time. A young process may still move to the namespace it is meant for (setns(2), unshare(2)), so it is looked
//! at again until it is old enough, and whoever stands for a namespace is checked each time.
//!
//! Degradation policy: links that are refused are counted, and so are processes that were left for later.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rung_diagnosis::observation::{FdObject, Picture, TaskObservation, TaskState};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat_raw};

/// A process that is older stays where it is.
const SETTLED_NS: u64 = 10_000_000_000;
/// Links that one look reads: some 8 ms. Whoever holds a socket is found without.
const LINKS_MAX: usize = 1000;

/// Where processes live.
#[derive(Debug, Default)]
pub(super) struct Residents {
    /// By pid and start time: the namespace, `None` if it is refused.
    homes: FxHashMap<(u32, u64), Home>,
    /// Who stood for a namespace last.
    chosen: FxHashMap<u32, (u32, u64)>,
    unknown: usize,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    net_ns: Option<u32>,
    settled: bool,
}

impl Residents {
    /// Looks at the processes that are new.
    pub(super) fn look(&mut self, root: &Path, picture: &Picture) {
        let now_ns = picture.began_ns + picture.suspended_ns;
        let mut links = 0;
        self.unknown = 0;
        let mut homes = FxHashMap::default();
        for process in picture.tasks.iter().filter(|task| has_network(task)) {
            let key = (process.tgid, process.start_ns);
            if let Some(home) = self.homes.get(&key).filter(|home| home.settled) {
                homes.insert(key, *home);
                continue;
            }
            if links == LINKS_MAX {
                self.unknown += 1;
                continue;
            }
            links += 1;
            let net_ns = match directory(root, process.tgid).and_then(|base| link(base.as_fd())) {
                Ok(net_ns) => Some(net_ns),
                Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => None,
                // It has ended.
                Err(_) => continue,
            };
            let settled = now_ns.saturating_sub(process.start_ns) >= SETTLED_NS;
            homes.insert(key, Home { net_ns, settled });
        }
        self.homes = homes;
    }

    /// Processes that have a namespace.
    pub(super) fn processes(&self) -> usize {
        self.homes.len() + self.unknown
    }

    /// Processes whose namespace is refused.
    pub(super) fn refused(&self) -> usize {
        self.homes.values().filter(|home| home.net_ns.is_none()).count()
    }

    /// Processes that were left for the next look.
    pub(super) fn unknown(&self) -> usize {
        self.unknown
    }

    /// For each namespace but one a process that lives there just now, with its directory; namespaces with sockets
    /// first.
    pub(super) fn representatives(
        &mut self,
        root: &Path,
        picture: &Picture,
        except: u32,
    ) -> Vec<(u32, u32, OwnedFd)> {
        let mut candidates: FxHashMap<u32, Vec<(u32, u64)>> = FxHashMap::default();
        for (process, home) in &self.homes {
            if let Some(net_ns) = home.net_ns.filter(|net_ns| *net_ns != except) {
                candidates.entry(net_ns).or_default().push(*process);
            }
        }
        let with_sockets: FxHashSet<u32> = picture.inet_sockets.iter().map(|socket| socket.net_ns).collect();
        for (net_ns, holder) in holders(picture) {
            if net_ns != except && net_ns != 0 && !candidates.contains_key(&net_ns) {
                // A socket of a namespace in which nobody was found to live: perhaps its holder has moved there.
                candidates.entry(net_ns).or_default().push(holder);
            }
        }
        let mut namespaces: Vec<u32> = candidates.keys().copied().collect();
        namespaces.sort_unstable_by_key(|net_ns| (!with_sockets.contains(net_ns), *net_ns));
        let mut representatives = Vec::with_capacity(namespaces.len());
        let mut chosen = FxHashMap::default();
        for net_ns in namespaces {
            let mut processes = candidates.remove(&net_ns).unwrap_or_default();
            // The one of last time, else the oldest: it will probably be there next time.
            let last = self.chosen.get(&net_ns).copied();
            processes.sort_unstable_by_key(|process| (Some(*process) != last, process.1, process.0));
            let found = processes.into_iter().find_map(|process| {
                let base = directory(root, process.0).ok()?;
                (link(base.as_fd()) == Ok(net_ns)).then_some((process, base))
            });
            if let Some((process, base)) = found {
                chosen.insert(net_ns, process);
                representatives.push((net_ns, process.0, base));
            }
        }
        self.chosen = chosen;
        representatives
    }
}

/// Kernel threads are in the first namespace, and a zombie is in none any more.
fn has_network(task: &TaskObservation) -> bool {
    task.tid == task.tgid && !task.kernel_thread && !matches!(task.state, TaskState::Zombie | TaskState::Dead)
}

/// Namespaces of sockets with a process that holds one.
fn holders(picture: &Picture) -> FxHashMap<u32, (u32, u64)> {
    let namespaces: FxHashMap<_, _> = picture
        .inet_sockets
        .iter()
        .map(|socket| (socket.id, socket.net_ns))
        .collect();
    let starts: FxHashMap<u32, (u32, u64)> = picture
        .tasks
        .iter()
        .map(|task| (task.tid, (task.tgid, task.start_ns)))
        .collect();
    let mut found = FxHashMap::default();
    for row in &picture.descriptors {
        if let FdObject::Inet(id) = row.object
            && let (Some(net_ns), Some(process)) = (namespaces.get(&id), starts.get(&row.tid))
        {
            found.entry(*net_ns).or_insert(*process);
        }
    }
    found
}

/// The directory of a process. It stays that process's: once it has ended every use fails, whoever has its pid then.
fn directory(root: &Path, pid: u32) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, root.join(pid.to_string()), flags, Mode::empty())
}

/// The inode of the network namespace of a process, whose directory is given.
pub(super) fn namespace(process: BorrowedFd<'_>) -> Option<u32> {
    link(process).ok()
}

/// The link reads `net:[4026531840]` (namespaces(7)).
fn link(process: BorrowedFd<'_>) -> rustix::io::Result<u32> {
    let mut buffer = [0; 64];
    let length = readlinkat_raw(process, "ns/net", &mut buffer[..])?;
    buffer
        .get(..length)
        .and_then(|text| str::from_utf8(text).ok())
        .and_then(|text| text.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok())
        .ok_or(rustix::io::Errno::INVAL)
}
