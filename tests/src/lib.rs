//! Fault lab, end-to-end tests and benchmarks.

pub mod bench;
pub mod lab;
pub mod rung;
pub mod verdict;
