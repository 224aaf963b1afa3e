//! Limits on the number of tasks of control groups: the `pids` controller, v1 and v2.
//!
//! Scope: every group that has a limit, its use and how often a fork was refused
//! (Documentation/admin-guide/cgroup-v1/pids.rst, cgroup-v2.rst "PID"). Hierarchies are found by mountinfo.
//!
//! Degradation policy: a group that vanishes or cannot be read is left out; the walk stops after 4096 groups and
//! says so in [`PidsLimits::incomplete`]. Members are read only of groups that are close to their limit or have met
//! it, at most 256.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use rung_diagnosis::observation::PidsLimitObservation;

use crate::hierarchies;

/// Groups visited at most.
const GROUPS_MAX: usize = 4096;
/// Members listed of one group at most.
const MEMBERS_MAX: usize = 256;

/// Why no limits could be read.
#[derive(Debug, thiserror::Error)]
pub enum PidsLimitsError {
    /// The table of mounts is not readable.
    #[error("cannot read {path}: {source}; the pids controllers' hierarchies are found by it")]
    Mounts {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// No hierarchy with the controller is mounted.
    #[error(
        "{path} lists no cgroup hierarchy with the pids controller; mount one to see limits on processes"
    )]
    NoHierarchy {
        /// The file.
        path: PathBuf,
    },
}

/// The limits of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PidsLimits {
    /// Groups that have a limit.
    pub groups: Vec<PidsLimitObservation>,
    /// There are more than 4096 groups, and the walk stopped there.
    pub incomplete: bool,
}

/// Reads all limits. `mountinfo` is normally /proc/self/mountinfo; mount points are looked up below `root`, normally
/// `/`.
pub fn read(mountinfo: &Path, root: &Path) -> Result<PidsLimits, PidsLimitsError> {
    let text = std::fs::read(mountinfo).map_err(|source| PidsLimitsError::Mounts {
        path: mountinfo.to_owned(),
        source,
    })?;
    let hierarchies = hierarchies::with_controller(&text, root, "pids");
    if hierarchies.is_empty() {
        return Err(PidsLimitsError::NoHierarchy {
            path: mountinfo.to_owned(),
        });
    }
    let mut limits = PidsLimits::default();
    let mut visited = 0;
    for hierarchy in hierarchies {
        walk(&hierarchy.top, &mut visited, &mut limits);
    }
    Ok(limits)
}

/// Breadth first, so that a bound on the walk cuts the deep groups.
fn walk(top: &Path, visited: &mut usize, limits: &mut PidsLimits) {
    let mut queue = VecDeque::from([top.to_owned()]);
    while let Some(directory) = queue.pop_front() {
        if *visited >= GROUPS_MAX {
            limits.incomplete = true;
            return;
        }
        *visited += 1;
        limits.groups.extend(group(top, &directory));
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        let children = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        queue.extend(children.map(|entry| entry.path()));
    }
}

/// One group; `None` if it has no limit or vanished.
fn group(top: &Path, directory: &Path) -> Option<PidsLimitObservation> {
    let number = |file: &str| -> Option<u64> {
        let text = std::fs::read_to_string(directory.join(file)).ok()?;
        text.trim().parse().ok()
    };
    // "max" is no number.
    let max = number("pids.max")?;
    let current = number("pids.current")?;
    let refused = std::fs::read_to_string(directory.join("pids.events")).map_or(0, |text| refused(&text));
    let close = refused > 0 || current >= max / 5 * 4 + max % 5 * 4 / 5;
    let below = directory.strip_prefix(top).unwrap_or(directory);
    Some(PidsLimitObservation {
        path: format!("/{}", below.display()),
        current,
        max,
        refused,
        members: if close { members(directory) } else { Vec::new() },
    })
}

fn refused(events: &str) -> u64 {
    events
        .lines()
        .find_map(|line| line.strip_prefix("max ")?.trim().parse().ok())
        .unwrap_or(0)
}

fn members(directory: &Path) -> Vec<u32> {
    let Ok(file) = std::fs::File::open(directory.join("cgroup.procs")) else {
        return Vec::new();
    };
    BufReader::new(file.take(1 << 16))
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.trim().parse().ok())
        .filter(|pid| *pid != 0)
        .take(MEMBERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_tree::FakeTree;

    const V1_AND_V2: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime shared:9 - cgroup cgroup rw,pids
40 31 0:36 / /chroot/pids rw,relatime shared:9 - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime - cgroup2 cgroup2 rw
";

    fn tree() -> FakeTree {
        let tree = FakeTree::new("pids-limits");
        tree.file("mountinfo", V1_AND_V2);
        tree.file(
            "sys/fs/cgroup/uni fied/cgroup.controllers",
            "cpu io memory pids\n",
        );
        tree
    }

    #[test]
    fn limits_of_both_versions() {
        let tree = tree();
        let v1 = "sys/fs/cgroup/pids";
        tree.file(&format!("{v1}/docker/a/pids.max"), "100\n");
        tree.file(&format!("{v1}/docker/a/pids.current"), "12\n");
        tree.file(&format!("{v1}/docker/a/pids.events"), "max 0\n");
        tree.file(&format!("{v1}/docker/a/cgroup.procs"), "1\n2\n");
        tree.file(&format!("{v1}/docker/pids.max"), "max\n");
        let v2 = "sys/fs/cgroup/uni fied/user.slice";
        tree.file(&format!("{v2}/pids.max"), "10\n");
        tree.file(&format!("{v2}/pids.current"), "8\n");
        tree.file(&format!("{v2}/pids.events"), "max 3\n");
        let procs: String = (0..1000).map(|pid| format!("{pid}\n")).collect();
        tree.file(&format!("{v2}/cgroup.procs"), &procs);
        let limits = read(&tree.path("mountinfo"), tree.root()).unwrap();
        assert!(!limits.incomplete);
        let [a, b] = limits.groups.as_slice() else {
            panic!("{limits:?}")
        };
        assert_eq!(
            (a.path.as_str(), a.current, a.max, a.refused),
            ("/docker/a", 12, 100, 0)
        );
        assert!(a.members.is_empty(), "far from its limit");
        assert_eq!(
            (b.path.as_str(), b.current, b.max, b.refused),
            ("/user.slice", 8, 10, 3)
        );
        assert_eq!(b.members, (1..=256).collect::<Vec<u32>>());
    }

    #[test]
    fn the_walk_is_bounded() {
        let tree = tree();
        for group in 0..GROUPS_MAX + 10 {
            std::fs::create_dir_all(tree.path(&format!("sys/fs/cgroup/pids/g{group}"))).unwrap();
        }
        assert!(read(&tree.path("mountinfo"), tree.root()).unwrap().incomplete);
    }

    #[test]
    fn unlimited_and_broken_groups_are_left_out() {
        let tree = tree();
        tree.file("sys/fs/cgroup/pids/a/pids.max", "7");
        tree.file("sys/fs/cgroup/pids/b/pids.max", "-7");
        tree.file("sys/fs/cgroup/pids/b/pids.current", "1");
        assert_eq!(
            read(&tree.path("mountinfo"), tree.root()).unwrap(),
            PidsLimits::default()
        );
    }

    #[test]
    fn errors_name_the_file() {
        let error = read(Path::new("/nonexistent/mountinfo"), Path::new("/")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/mountinfo"));
        let tree = FakeTree::new("no-cgroups");
        tree.file("mountinfo", "25 1 0:23 / /proc rw - proc proc rw\nshort\n");
        let error = read(&tree.path("mountinfo"), tree.root()).unwrap_err();
        assert!(matches!(error, PidsLimitsError::NoHierarchy { .. }));
    }

    #[test]
    fn huge_limits_do_not_overflow() {
        let tree = tree();
        tree.file("sys/fs/cgroup/pids/a/pids.max", u64::MAX.to_string());
        tree.file("sys/fs/cgroup/pids/a/pids.current", u64::MAX.to_string());
        assert_eq!(
            read(&tree.path("mountinfo"), tree.root()).unwrap().groups.len(),
            1
        );
    }
}
