//! Fault lab, end-to-end tests and benchmarks.
