//! The pure half of `rung`: what was observed goes in, findings with their causes come out.

mod causes;
pub mod detect;
pub mod diagnose;
pub mod finding;
pub mod graph;
pub mod growth;
pub mod handbook;
pub mod index;
pub mod mode;
pub mod observation;
pub mod report;
pub mod retry_pattern;
pub mod settings;
pub mod timeline;
pub mod why;
pub mod window;
