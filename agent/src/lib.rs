//! Probes of the running host, and the pipeline from them to a report.

pub mod bpf;
pub mod clock;
pub mod engine;
pub mod syscalls;
