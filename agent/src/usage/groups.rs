//! Limits on memory of control groups, v1 and v2: those of the processes that grow or are large, and those above them
//! (Documentation/admin-guide/cgroup-v1/memory.rst; cgroup-v2.rst, "Memory Interface Files").

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rung_diagnosis::observation::{MemoryGroupObservation, ProcessLimitsObservation, View};

use super::partial;
use crate::hierarchies::{self, Hierarchy};
use crate::procfs::files::Reader;

/// Groups read at most.
const GROUPS_MAX: usize = 128;
/// Version 1 has no word for "no limit": the largest number of pages stands for it.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// See the module.
#[derive(Debug)]
pub(super) struct MemoryGroups {
    top: PathBuf,
    /// Where the hierarchy is; `None` before the first look, and inside if there is none.
    hierarchy: Option<Option<Hierarchy>>,
    /// Groups that had a limit when they were last read: a kill in them counts also when nobody is left there.
    limited: BTreeSet<String>,
}

impl MemoryGroups {
    pub(super) fn new(top: &Path) -> Self {
        MemoryGroups {
            top: top.to_owned(),
            hierarchy: None,
            limited: BTreeSet::new(),
        }
    }

    /// The groups that have a limit.
    pub(super) fn read(
        &mut self,
        proc: BorrowedFd<'_>,
        reader: &mut Reader,
        limits: &[ProcessLimitsObservation],
    ) -> Vec<MemoryGroupObservation> {
        let top = &self.top;
        let hierarchy = self.hierarchy.get_or_insert_with(|| {
            let mountinfo = reader.whole(proc, "self/mountinfo").ok()?;
            let mut found = hierarchies::with_controller(mountinfo, top, "memory").into_iter();
            found.next()
        });
        let Some(hierarchy) = hierarchy else {
            return Vec::new();
        };
        let mut paths: BTreeSet<&str> = self.limited.iter().map(String::as_str).collect();
        for limits in limits {
            let mut path = limits.memory_group.as_str();
            while path.len() > 1 {
                paths.insert(path);
                path = path.rsplit_once('/').map_or("", |(above, _)| above);
            }
        }
        let inside = |path: &&str| !path.split('/').any(|part| part == "..");
        let groups: Vec<MemoryGroupObservation> = paths
            .into_iter()
            .filter(inside)
            .take(GROUPS_MAX)
            .filter_map(|path| read_group(hierarchy, path))
            .collect();
        self.limited = groups.iter().map(|group| group.path.clone()).collect();
        groups
    }

    pub(super) fn view(&self) -> View {
        match &self.hierarchy {
            Some(Some(_)) => View::Full,
            _ => partial(
                "no control group hierarchy with the memory controller is mounted, so only limits of processes and of the \
                 host are known",
                "mount the memory controller's hierarchy",
            ),
        }
    }
}

/// One group; `None` if it has no limit or is gone.
fn read_group(hierarchy: &Hierarchy, path: &str) -> Option<MemoryGroupObservation> {
    let directory = hierarchy.top.join(path.trim_start_matches('/'));
    let text = |file: &str| fs::read_to_string(directory.join(file)).ok();
    // "max" is no number.
    let number = |file: &str| -> Option<u64> { text(file)?.trim().parse().ok() };
    let mut group = MemoryGroupObservation {
        path: path.to_owned(),
        ..MemoryGroupObservation::default()
    };
    let (used, events);
    if hierarchy.unified {
        group.limit_bytes = number("memory.max");
        group.high_bytes = number("memory.high");
        used = "memory.current";
        events = "memory.events";
    } else {
        group.limit_bytes = number("memory.limit_in_bytes").filter(|bytes| *bytes < UNLIMITED_BYTES);
        used = "memory.usage_in_bytes";
        events = "memory.oom_control";
    }
    if group.limit_bytes.is_none() && group.high_bytes.is_none() {
        return None;
    }
    group.used_bytes = number(used)?;
    let stat = text("memory.stat").unwrap_or_default();
    let prefix = if hierarchy.unified { "" } else { "total_" };
    let of_files = ["active_file", "inactive_file"].map(|list| entry(&stat, &format!("{prefix}{list}")));
    group.reclaimable_bytes = of_files.into_iter().flatten().sum();
    let events = text(events).unwrap_or_default();
    group.kills = entry(&events, "oom_kill").unwrap_or(0);
    group.limit_hits = match hierarchy.unified {
        true => entry(&events, "max").unwrap_or(0),
        // Where memory and swap together have the same limit, theirs is met first.
        false => [number("memory.failcnt"), number("memory.memsw.failcnt")]
            .into_iter()
            .flatten()
            .sum(),
    };
    Some(group)
}

/// The number beside a word, in lines of `word number`.
pub(super) fn entry(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, number) = line.split_once(' ')?;
        (name == word).then(|| number.trim().parse().ok())?
    })
}
