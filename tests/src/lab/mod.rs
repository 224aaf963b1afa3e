//! The fault lab: every failure mode provoked for real, and beside each its healthy twin.
//!
//! A case starts its actors on a [`Stage`], proves by /proc alone that it bit, and returns the [`Truth`].
//! The table of all cases is [`CASES`]; listing, running and testing iterate over it. Dropping the stage
//! clears everything away.

pub mod actor;
mod asymmetric_traffic;
mod backpressure;
pub mod bite;
mod black_hole;
mod breaker_open;
mod cascading_wait;
mod case;
pub mod cgroup;
mod close_wait_leak;
mod composed;
mod connect_refused;
mod connect_timeout;
mod cross_region_latency;
mod deadlock;
mod deadlock_runtimes;
mod dns_stall;
mod fd_leak;
mod file_lock_wait;
mod flapping;
mod half_open;
mod inherit;
mod leftovers;
mod lock_contention;
mod memory_growth;
mod metastable;
pub mod network;
mod network_at_work;
mod oom_kill;
mod orphan;
mod packet_loss;
mod partition;
mod peers;
mod pipe_stall;
mod port_exhaustion;
pub mod proc;
mod process_churn;
mod process_deadlock;
mod programs;
mod real_servers;
mod retry_amplification;
mod retry_storm;
mod service_chain;
mod services;
mod sockets;
mod stage;
mod stopped_process;
pub mod sweep;
mod thread_leak;
mod truth;
mod unix_socket_stall;
mod weird;
mod zombie;

pub use case::{Case, Kind, Look, Need, Start};
pub use leftovers::clear;
pub use stage::{Actor, Play, Stage, Workshop};
pub use truth::{Certainty, Figure, Party, Role, Trigger, Truth};

/// Every case, by failure mode.
pub const CASES: &[&[Case]] = &[
    memory_growth::CASES,
    oom_kill::CASES,
    fd_leak::CASES,
    deadlock::CASES,
    deadlock_runtimes::CASES,
    lock_contention::CASES,
    thread_leak::CASES,
    zombie::CASES,
    orphan::CASES,
    pipe_stall::CASES,
    process_deadlock::CASES,
    unix_socket_stall::CASES,
    file_lock_wait::CASES,
    stopped_process::CASES,
    process_churn::CASES,
    connect_timeout::CASES,
    connect_refused::CASES,
    black_hole::CASES,
    partition::CASES,
    flapping::CASES,
    packet_loss::CASES,
    close_wait_leak::CASES,
    port_exhaustion::CASES,
    dns_stall::CASES,
    half_open::CASES,
    cross_region_latency::CASES,
    asymmetric_traffic::CASES,
    network_at_work::CASES,
    retry_storm::CASES,
    retry_amplification::CASES,
    cascading_wait::CASES,
    backpressure::CASES,
    metastable::CASES,
    breaker_open::CASES,
    real_servers::CASES,
    service_chain::CASES,
    composed::CASES,
    weird::CASES,
];

/// The rows of [`CASES`], one after another.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().copied().flatten()
}

/// The case of this name.
pub fn find(name: &str) -> Option<&'static Case> {
    cases().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_kebab_case() {
        let mut seen = BTreeSet::new();
        for case in cases() {
            assert!(seen.insert(case.name), "{} is listed twice", case.name);
            let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(case.name.chars().all(kebab), "{}", case.name);
            assert!(
                !case.about.is_empty() && !case.about.ends_with('.'),
                "{}",
                case.name
            );
            assert_eq!(find(case.name).map(|found| found.name), Some(case.name));
        }
    }

    #[test]
    fn every_faults_mode_has_a_twin() {
        for fault in cases().filter(|case| case.kind == Kind::Fault) {
            let twin = cases().any(|case| case.kind == Kind::Twin && case.mode == fault.mode);
            assert!(twin, "{} has no healthy twin", fault.mode);
        }
    }

    #[test]
    fn every_need_of_a_case_can_be_asked_for() {
        for case in cases() {
            if let Some(reason) = case.missing() {
                assert!(!reason.is_empty());
            }
        }
    }
}
