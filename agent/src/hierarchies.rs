//! Where the hierarchies of control groups are mounted.
//!
//! Scope: version 1 and 2, found by /proc/PID/mountinfo (proc_pid_mountinfo(5)).
//!
//! Degradation policy: a line that is not understood is no hierarchy.

use std::path::{Path, PathBuf};

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Its mount point.
    pub(crate) top: PathBuf,
    /// Version 2 of the interface.
    pub(crate) unified: bool,
}

/// The hierarchies that have the controller, each once, of the text of a mountinfo file. Mount points are looked up below
/// `root`, normally `/`.
pub(crate) fn with_controller(mountinfo: &[u8], root: &Path, controller: &str) -> Vec<Hierarchy> {
    let mut found: Vec<(String, Hierarchy)> = Vec::new();
    for line in String::from_utf8_lossy(mountinfo).lines() {
        let Some((before, after)) = line.split_once(" - ") else {
            continue;
        };
        let mut before = before.split(' ').skip(2);
        let (Some(device), Some(_), Some(at)) = (before.next(), before.next(), before.next()) else {
            continue;
        };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        let top = root.join(unescape(at).trim_start_matches('/'));
        let has_controller = match kind {
            Some("cgroup") => options.split(',').any(|option| option == controller),
            Some("cgroup2") => std::fs::read_to_string(top.join("cgroup.controllers"))
                .is_ok_and(|text| text.split_ascii_whitespace().any(|one| one == controller)),
            _ => false,
        };
        // The same hierarchy may be mounted more than once (in chroots): one device number each.
        if has_controller && !found.iter().any(|(known, _)| known == device) {
            let unified = kind == Some("cgroup2");
            found.push((device.to_owned(), Hierarchy { top, unified }));
        }
    }
    found.into_iter().map(|(_, hierarchy)| hierarchy).collect()
}

/// Blanks and backslashes in mountinfo are written as `\040`.
fn unescape(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"]
        .iter()
        .fold(text.to_owned(), |text, rule| {
            let (code, character) = rule.split_at(4);
            text.replace(code, character)
        })
}
