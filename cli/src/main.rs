//! The `rung` command.
fn main() {}
