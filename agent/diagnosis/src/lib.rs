//! The pure half of `rung`: what was observed goes in, findings with their causes come out.

pub mod finding;
pub mod handbook;
pub mod mode;
pub mod observation;
pub mod report;
pub mod why;
