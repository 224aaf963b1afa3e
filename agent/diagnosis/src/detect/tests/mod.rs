//! Detectors of the network and of growth on made-up windows: each fault with its healthy twin, and both sides of its thresholds.

mod attempts;
mod connections;
mod growth;
mod joins;
mod regions;
