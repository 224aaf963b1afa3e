//! Flows on a common scale of seconds: what several of them did at the same time, and how that changed.
//!
//! The steps of a flow begin when it was first seen, and last a second or somewhat more. Here each step is spread evenly
//! over the seconds that it touches, so that sums stay what they were and flows can be added and compared.

use crate::window::{FlowHistory, FlowStep, Window};

/// What happened in one second; fractions come from steps that touch more than one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Second {
    /// Attempts begun.
    pub attempts: f64,
    /// Attempts that became connections.
    pub established: f64,
    /// Attempts that failed.
    pub failed: f64,
    /// Connections that the peer reset, or that broke.
    pub reset: f64,
    /// Connections that ended while a request had no answer.
    pub unanswered: f64,
    /// Requests begun.
    pub requests: f64,
    /// Answers begun.
    pub responses: f64,
}

impl Second {
    /// Calls of a client: attempts where each call has a connection of its own, requests where they share some.
    pub fn calls(&self) -> f64 {
        self.attempts.max(self.requests)
    }

    /// Calls that failed, as far as that can be seen without reading the answers. A connection that was reset while a
    /// request waited counts once.
    pub fn failing(&self) -> f64 {
        self.failed + self.reset.max(self.unanswered)
    }

    /// Share of the calls that failed; 0 without calls.
    pub fn failing_share(&self) -> f64 {
        if self.calls() > 0.0 {
            (self.failing() / self.calls()).min(1.0)
        } else {
            0.0
        }
    }

    fn add_second(&mut self, more: &Second) {
        self.attempts += more.attempts;
        self.established += more.established;
        self.failed += more.failed;
        self.reset += more.reset;
        self.unanswered += more.unanswered;
        self.requests += more.requests;
        self.responses += more.responses;
    }

    fn add(&mut self, step: &FlowStep, share: f64) {
        self.attempts += step.attempts as f64 * share;
        self.established += step.established as f64 * share;
        self.failed += step.failed as f64 * share;
        self.reset += step.reset as f64 * share;
        self.unanswered += step.unanswered as f64 * share;
        self.requests += step.requests as f64 * share;
        self.responses += step.responses as f64 * share;
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timeline {
    /// When it begins, `CLOCK_MONOTONIC` ns.
    pub from_ns: u64,
    /// When it ends: the last second may be cut short.
    pub to_ns: u64,
    /// The seconds, oldest first.
    pub seconds: Vec<Second>,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Timeline {
    /// The time in which a window counted events, with nothing in it yet.
    pub fn empty(window: &Window) -> Self {
        let (from_ns, to_ns) = (window.events.from_ns, window.events.to_ns);
        let seconds = to_ns.saturating_sub(from_ns).div_ceil(SECOND_NS) as usize;
        Timeline {
            from_ns,
            to_ns,
            seconds: vec![Second::default(); seconds],
        }
    }

    /// These flows together.
    pub fn of<'a>(window: &Window, flows: impl IntoIterator<Item = &'a FlowHistory>) -> Self {
        let mut timeline = Timeline::empty(window);
        for flow in flows {
            flow.steps.iter().for_each(|step| timeline.add(step));
        }
        timeline
    }

    fn add(&mut self, step: &FlowStep) {
        let length = step.to_ns.saturating_sub(step.from_ns);
        if length == 0 {
            return;
        }
        let first = step.from_ns.saturating_sub(self.from_ns) / SECOND_NS;
        let last = (step.to_ns - 1).saturating_sub(self.from_ns) / SECOND_NS;
        for at in first..=last {
            let begin = (self.from_ns + at * SECOND_NS).max(step.from_ns);
            let end = (self.from_ns + (at + 1) * SECOND_NS).min(step.to_ns);
            if let Some(second) = self.seconds.get_mut(at as usize) {
                second.add(step, end.saturating_sub(begin) as f64 / length as f64);
            }
        }
    }

    /// When a second begins.
    pub fn at_ns(&self, second: usize) -> u64 {
        self.from_ns + second as u64 * SECOND_NS
    }

    /// The second that holds a moment; the first for what was before it.
    pub fn second_of(&self, at_ns: u64) -> usize {
        (at_ns.saturating_sub(self.from_ns) / SECOND_NS) as usize
    }

    /// Length from the begin of a second to the end of the timeline, seconds.
    pub fn length_from(&self, second: usize) -> f64 {
        self.to_ns.saturating_sub(self.at_ns(second)) as f64 / 1e9
    }

    /// The sum of the seconds from one up to another, that one excluded.
    pub fn sum(&self, from: usize, to: usize) -> Second {
        let to = to.min(self.seconds.len());
        let mut sum = Second::default();
        for second in self.seconds.get(from..to).unwrap_or_default() {
            sum.add_second(second);
        }
        sum
    }

    /// Adds another timeline of the same window.
    pub fn add_all(&mut self, other: &Timeline) {
        for (sum, second) in self.seconds.iter_mut().zip(&other.seconds) {
            sum.add_second(second);
        }
    }

    /// The sum from a second to the end.
    pub fn sum_from(&self, from: usize) -> Second {
        self.sum(from, self.seconds.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(from_ns: u64, to_ns: u64, attempts: u64) -> FlowStep {
        FlowStep {
            from_ns,
            to_ns,
            attempts,
            failed: attempts / 2,
            ..FlowStep::default()
        }
    }

    #[test]
    fn a_step_is_spread_over_its_seconds_and_sums_stay() {
        let mut timeline = Timeline {
            from_ns: 10 * SECOND_NS,
            to_ns: 13 * SECOND_NS,
            seconds: vec![Second::default(); 3],
        };
        timeline.add(&step(10_500_000_000, 12_000_000_000, 30));
        timeline.add(&step(12_000_000_000, 12_000_000_000, 99));
        // What lies outside is not invented a place for.
        timeline.add(&step(14_000_000_000, 15_000_000_000, 7));
        let attempts: Vec<f64> = timeline.seconds.iter().map(|second| second.attempts).collect();
        assert_eq!(attempts, [10.0, 20.0, 0.0]);
        assert_eq!(timeline.sum_from(0).attempts, 30.0);
        assert_eq!(timeline.sum(1, 99).failed, 10.0);
        assert_eq!(timeline.sum(5, 2), Second::default());
        assert_eq!(timeline.length_from(1), 2.0);
        assert_eq!(timeline.second_of(11_900_000_000), 1);
    }

    #[test]
    fn a_reset_with_a_request_waiting_fails_once() {
        let second = Second {
            attempts: 10.0,
            requests: 4.0,
            failed: 2.0,
            reset: 3.0,
            unanswered: 2.0,
            ..Second::default()
        };
        assert_eq!(second.failing(), 5.0);
        assert_eq!(second.failing_share(), 0.5);
        assert_eq!(Second::default().failing_share(), 0.0);
    }
}
