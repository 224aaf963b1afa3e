//! Probes of the running host, and the pipeline from them to a report.

pub mod bpf;
pub mod clock;
mod detail;
pub mod engine;
#[cfg(test)]
mod fake_tree;
mod hierarchies;
pub mod host;
pub mod hosts;
pub mod locks;
mod networks;
pub mod pids_limits;
pub mod procfs;
mod redact;
pub mod sock_diag;
pub mod syscalls;
mod tcp_info;
mod usage;
pub mod user_memory;
mod write_calls;
