//! Probes of the running host, and the pipeline from them to a report.
