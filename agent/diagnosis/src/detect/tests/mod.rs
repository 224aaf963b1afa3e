//! Detectors of the network on made-up windows: each fault with its healthy twin, and both sides of its thresholds.

mod attempts;
mod connections;
mod joins;
mod regions;
