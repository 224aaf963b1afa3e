//! Thresholds. Structure (a proof) needs none; these are for waits that could still end.

mod growth;
mod network;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::growth::GrowthSettings;
pub use self::network::NetworkSettings;

/// Every threshold, with the project's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A wait that only a signal or somebody unseen could end is suspected after this time.
    pub suspect_after: Duration,
    /// A pipe that nobody drained for this long stands still.
    pub pipe_stall: Duration,
    /// A Unix socket whose peer did not read or accept for this long stands still.
    pub unix_stall: Duration,
    /// A wait for a file lock of this length is reported.
    pub file_lock: Duration,
    /// A stopped process that kept somebody waiting for this long is reported.
    pub stopped: Duration,
    /// A zombie of this age is reported by itself.
    pub zombie_age: Duration,
    /// So many zombies of one parent are reported when younger, if they are at least `zombie_settled` old.
    pub zombie_count: usize,
    /// See `zombie_count`.
    pub zombie_settled: Duration,
    /// An orphan younger than this is left in peace.
    pub orphan_age: Duration,
    /// Share of one CPU above which an orphan counts as burning it.
    pub orphan_cpu_share: f64,
    /// Share of a process's busy thread time that queueing for one lock may take.
    pub contention_share: f64,
    /// Mean number of waiters from which on a lock counts as contended.
    pub contention_waiters: f64,
    /// A wait for a mutex of this length is contention without any sampling.
    pub contention_wait: Duration,
    /// Growth of a process tree, processes a second, that is reported if it goes on.
    pub churn_growth: f64,
    /// Least growth over the window, processes.
    pub churn_least: usize,
    /// The window that rates need.
    pub rate_window: Duration,
    /// What goes wrong over the network.
    pub network: NetworkSettings,
    /// What grows until something breaks.
    pub growth: GrowthSettings,
    /// Attempts a second to one destination from which on failing ones are a retry storm.
    pub storm_rate: f64,
    /// Share of these attempts that has to fail.
    pub storm_failing: f64,
    /// For how long.
    pub storm_length: Duration,
    /// The share of retries that a budget would allow a client, of its requests: what is said beside a storm.
    pub retry_budget: f64,
    /// Calls a tier makes for each request that it serves, from which on retries amplify.
    pub amplification_factor: f64,
    /// Share of the calls that has to fail, at the tier where failures are to be seen.
    pub amplification_failing: f64,
    /// For how long.
    pub amplification_length: Duration,
    /// Requests that a tier has to have served in that time, for a factor that means something.
    pub amplification_requests: f64,
    /// A call counts as waiting for its downstream if nothing has come for this long.
    pub cascade_wait: Duration,
    /// Workers (threads, or pooled connections with a call out) that have to wait for one downstream.
    pub cascade_workers: usize,
    /// Their share of the service's workers.
    pub cascade_share: f64,
    /// Threads of a process in one and the same wait that are a pile-up, if work waits behind them.
    pub pile_up_threads: usize,
    /// Their share of the process's threads.
    pub pile_up_share: f64,
    /// A pile-up consists of waits of at least this length.
    pub pile_up_wait: Duration,
    /// A bounded queue of a connection or a listener that has been full for this long pushes back.
    pub backpressure: Duration,
    /// Connections a second that a listener's full queue turns away, from which on that is reported,
    pub overflow_rate: f64,
    /// and from which on it is critical.
    pub overflow_rate_critical: f64,
    /// Bytes in a receive queue, untouched, that count as a full one where the window told to the peer cannot be seen.
    pub unread_bytes: u32,
    /// Once a trigger is gone, failures may outlast it by so many client timeouts.
    pub metastable_timeouts: f64,
    /// The client timeout that is assumed where a longer one was not seen.
    pub client_timeout: Duration,
    /// Share of the goodput before the trigger that a recovered service reaches again.
    pub metastable_goodput: f64,
    /// Failed calls that a burst has before a silence counts as an open circuit breaker.
    pub breaker_failures: f64,
    /// The silence, or near silence, that has to follow.
    pub breaker_silence: Duration,
    /// Share of the calls before that may go on in it: the probes.
    pub breaker_probes: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            suspect_after: Duration::from_secs(30),
            pipe_stall: Duration::from_secs(5),
            unix_stall: Duration::from_secs(3),
            file_lock: Duration::from_secs(5),
            stopped: Duration::from_secs(5),
            zombie_age: Duration::from_secs(30),
            zombie_count: 5,
            zombie_settled: Duration::from_secs(1),
            orphan_age: Duration::from_secs(5),
            orphan_cpu_share: 0.5,
            contention_share: 0.3,
            contention_waiters: 2.0,
            contention_wait: Duration::from_secs(5),
            churn_growth: 10.0,
            churn_least: 50,
            rate_window: Duration::from_millis(4500),
            network: NetworkSettings::default(),
            growth: GrowthSettings::default(),
            storm_rate: 5.0,
            storm_failing: 0.5,
            storm_length: Duration::from_secs(10),
            retry_budget: 0.1,
            amplification_factor: 2.0,
            amplification_failing: 0.2,
            amplification_length: Duration::from_secs(10),
            amplification_requests: 5.0,
            cascade_wait: Duration::from_secs(1),
            cascade_workers: 4,
            cascade_share: 0.5,
            pile_up_threads: 8,
            pile_up_share: 0.5,
            pile_up_wait: Duration::from_secs(1),
            backpressure: Duration::from_secs(3),
            overflow_rate: 1.0,
            overflow_rate_critical: 5.0,
            unread_bytes: 64 * 1024,
            metastable_timeouts: 5.0,
            client_timeout: Duration::from_secs(1),
            metastable_goodput: 0.5,
            breaker_failures: 5.0,
            breaker_silence: Duration::from_secs(6),
            breaker_probes: 0.1,
        }
    }
}
