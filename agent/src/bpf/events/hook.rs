//! Attaching programs to raw tracepoints. Each program is named for its hook.

use aya::Ebpf;
use aya::programs::{ProgramError, RawTracePoint};

use crate::bpf::{Unavailable, reason};

/// Attaches the programs of some hooks; they are detached when `ebpf` is dropped.
pub(super) fn attach_all(ebpf: &mut Ebpf, hooks: &[&str]) -> Result<(), Unavailable> {
    hooks.iter().try_for_each(|hook| attach(ebpf, hook))
}

fn attach(ebpf: &mut Ebpf, hook: &str) -> Result<(), Unavailable> {
    let failed = |error: ProgramError| {
        tracing::debug!(%error, hook, "the program is not attached");
        refused(hook, &error)
    };
    let program = ebpf.program_mut(hook).ok_or_else(missing)?;
    let program: &mut RawTracePoint = program.try_into().map_err(failed)?;
    program.load().map_err(failed)?;
    program.attach(hook).map_err(failed)?;
    Ok(())
}

pub(super) fn refused(what: &str, error: &dyn std::error::Error) -> Unavailable {
    Unavailable::new(
        format!("cannot watch {what}: {}", reason(error)),
        "run as root, or with CAP_BPF and CAP_PERFMON",
    )
}

pub(super) fn missing() -> Unavailable {
    Unavailable::new("the BPF object lacks the event programs", "reinstall rung")
}
