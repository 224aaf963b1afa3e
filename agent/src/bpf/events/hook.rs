//! Attaching programs to tracepoints. Each program is named for its hook.

use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf};

use crate::bpf::{Unavailable, reason};

/// Attaches the programs of some hooks; they are detached when `ebpf` is dropped. `btf` names those that are typed.
pub(super) fn attach_all(ebpf: &mut Ebpf, btf: &Btf, hooks: &[&str]) -> Result<(), Unavailable> {
    hooks.iter().try_for_each(|hook| attach(ebpf, btf, hook))
}

fn attach(ebpf: &mut Ebpf, btf: &Btf, hook: &str) -> Result<(), Unavailable> {
    let failed = |error: ProgramError| {
        tracing::debug!(%error, hook, "the program is not attached");
        refused(hook, &error)
    };
    match ebpf.program_mut(hook).ok_or_else(missing)? {
        Program::RawTracePoint(program) => {
            program.load().map_err(failed)?;
            program.attach(hook).map_err(failed)?;
        }
        Program::BtfTracePoint(program) => {
            program.load(hook, btf).map_err(failed)?;
            program.attach().map_err(failed)?;
        }
        _ => return Err(missing()),
    }
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
