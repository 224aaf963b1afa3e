//! Probes of the running host, and the pipeline from them to a report.

pub mod syscalls;
