//! The pure half of `rung`: what was observed goes in, findings with their causes come out.

mod causes;
pub mod detect;
pub mod diagnose;
pub mod finding;
pub mod graph;
pub mod handbook;
pub mod index;
pub mod mode;
pub mod observation;
pub mod report;
pub mod settings;
pub mod why;
pub mod window;
