//! What can be seen on this host, by which source (`rung doctor`).

use std::path::{Path, PathBuf};

use rung_diagnosis::diagnose;
use rung_diagnosis::mode::Mode;
use rung_diagnosis::observation::{Signal, Source};

use super::probe::{HOSTS, PROC, Probe};
use super::{Checkup, SignalView, SourceChoice, Tier};
use crate::host;
use crate::procfs::ProcfsSource;

/// Tries every source.
pub(super) fn checkup() -> Checkup {
    let mut probe = Probe::open(SourceChoice::Auto).ok();
    let bpf = probe.as_ref().map(Probe::bpf);
    let by_proc = ProcfsSource::new(PathBuf::from(PROC)).picture();
    let mut tiers = tiers(
        bpf,
        by_proc
            .as_ref()
            .map(|picture| picture.sight.source)
            .map_err(ToString::to_string),
    );
    if let Some(best) = tiers.iter_mut().find(|tier| tier.usable) {
        best.chosen = true;
    }
    let picture = probe.as_mut().and_then(|probe| {
        probe.watch_events();
        probe.picture().ok()
    });
    let sight = picture.map(|(picture, _)| picture.sight).unwrap_or_default();
    let signals = Signal::ALL.iter().filter_map(|signal| {
        sight.view(*signal).map(|view| SignalView {
            signal: signal.title(),
            view: view.clone(),
        })
    });
    Checkup {
        schema: "rung.doctor/1",
        host: diagnose::host_facts(&host::observe(Path::new(PROC), Path::new(HOSTS))),
        tiers,
        signals: signals.collect(),
        modes: Mode::ALL
            .iter()
            .map(|mode| diagnose::cover(*mode, &sight))
            .collect(),
    }
}

fn tiers(bpf: Option<Result<Source, crate::bpf::Unavailable>>, by_proc: Result<Source, String>) -> Vec<Tier> {
    let tier = |source, title, reason: Option<(String, String)>| {
        let usable = reason.is_none();
        let (why, remedy) = reason.unzip();
        Tier {
            source,
            title,
            usable,
            chosen: false,
            why,
            remedy,
        }
    };
    let refused = match &bpf {
        Some(Ok(_)) => None,
        Some(Err(refused)) => Some((refused.why.clone(), refused.remedy.clone())),
        None => Some(("no source could be opened".into(), "mount procfs on /proc".into())),
    };
    let without_memory = match &bpf {
        Some(Ok(Source::BpfIterPlain)) => Some((
            "the kernel does not let an iterator read the memory of threads".into(),
            "use a kernel of 5.18 or later".into(),
        )),
        _ => refused.clone(),
    };
    let (all, own) = match by_proc {
        Ok(Source::Procfs) => (None, None),
        Ok(_) => (Some(partly()), None),
        Err(why) => {
            let reason = (why, "mount procfs on /proc".to_owned());
            (Some(reason.clone()), Some(reason))
        }
    };
    vec![
        tier(
            Source::BpfIter,
            "BPF iterators, with the memory of blocked threads",
            without_memory,
        ),
        tier(Source::BpfIterPlain, "BPF iterators without it", refused),
        tier(Source::Procfs, "/proc, all processes", all),
        tier(Source::ProcfsOwn, "/proc, processes within reach", own),
    ]
}

/// Why some processes cannot be read: of other users, or of higher privilege (ptrace(2), access mode checking).
fn partly() -> (String, String) {
    if rustix::process::geteuid().is_root() {
        (
            "some processes have more capabilities than this one".into(),
            "run with all capabilities".into(),
        )
    } else {
        (
            "processes of other users cannot be read".into(),
            "run as root".into(),
        )
    }
}
