//! The rhythm of a client's attempts: which mistake in its back-off the times at which they began give away.
//!
//! Only the times are known, not what the client meant. So the classes are what is to be seen: a fixed interval may be a
//! pause or a timeout of the attempt itself.

use std::fmt;
use std::time::Duration;

/// Fewer attempts than this show no rhythm.
const LEAST_STARTS: usize = 6;
/// Attempts that follow each other within this time wait for nothing but the answer.
const IMMEDIATE_NS: u64 = 20_000_000;
/// Intervals count as equal within this share.
const EQUAL: f64 = 0.15;
/// Share of the intervals that has to be equal for a fixed one.
const MOST: f64 = 0.75;
/// An interval of so many medians is the pause between two requests, not one between two tries.
const PAUSE: f64 = 3.0;
/// An interval that is at least so many times the one before has grown; the inverse, and it began anew.
const GROWN: f64 = 1.25;
/// Attempts of two clients coincide within this time, or a tenth of the own interval.
const COINCIDE_NS: u64 = 50_000_000;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RetryPattern {
    /// Too few attempts to tell.
    Unknown,
    /// The next attempt follows at once.
    NoBackOff,
    /// Always the same interval.
    Fixed(Duration),
    /// Intervals grow by a factor, exactly.
    Exponential(f64),
    /// Intervals grow, with a random share.
    ExponentialWithJitter,
    /// Intervals differ at random around one that does not grow.
    Jittered(Duration),
    /// None of these: several loops at once, or attempts that outer events cause.
    Irregular,
}

impl fmt::Display for RetryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |interval: &Duration| {
            if *interval < Duration::from_secs(1) {
                format!("{} ms", interval.as_millis())
            } else {
                format!("{:.1} s", interval.as_secs_f64())
            }
        };
        match self {
            RetryPattern::Unknown => f.write_str("too few attempts to tell"),
            RetryPattern::NoBackOff => f.write_str("no back-off"),
            RetryPattern::Fixed(interval) => write!(f, "fixed interval of {}", short(interval)),
            RetryPattern::Exponential(factor) => {
                write!(f, "exponential back-off without jitter, factor {factor:.1}")
            }
            RetryPattern::ExponentialWithJitter => f.write_str("exponential back-off with jitter"),
            RetryPattern::Jittered(interval) => {
                write!(f, "random interval around {}, not growing", short(interval))
            }
            RetryPattern::Irregular => f.write_str("irregular"),
        }
    }
}

/// Names the rhythm of attempts that began at these times, oldest first.
pub fn classify(starts_ns: &[u64]) -> RetryPattern {
    let all = intervals(starts_ns);
    if all.len() + 1 < LEAST_STARTS {
        return RetryPattern::Unknown;
    }
    let typical = median(&all);
    if typical <= IMMEDIATE_NS as f64 {
        return RetryPattern::NoBackOff;
    }
    let tries: Vec<f64> = all
        .iter()
        .copied()
        .filter(|interval| *interval <= PAUSE * typical)
        .collect();
    let equal = |values: &[f64], to: f64| {
        let equal = values.iter().filter(|value| (**value - to).abs() <= EQUAL * to);
        equal.count() as f64 / values.len().max(1) as f64
    };
    let center = median(&tries);
    if equal(&tries, center) >= MOST {
        return RetryPattern::Fixed(Duration::from_nanos(center as u64));
    }
    let ratios: Vec<f64> = all.windows(2).map(|pair| pair[1] / pair[0].max(1.0)).collect();
    let growths: Vec<f64> = ratios.iter().copied().filter(|ratio| *ratio >= GROWN).collect();
    let anew = ratios.iter().filter(|ratio| **ratio <= 1.0 / GROWN).count();
    if growths.len() >= 3 && growths.len() * 2 >= ratios.len() && anew * 3 <= ratios.len() {
        let factor = median(&growths);
        return if equal(&growths, factor) >= MOST {
            RetryPattern::Exponential(factor)
        } else {
            RetryPattern::ExponentialWithJitter
        };
    }
    // Random, but with bounds: a tenth of the median to three of them.
    if tries.len() == all.len() && all.iter().all(|interval| *interval * 10.0 >= typical) {
        return RetryPattern::Jittered(Duration::from_nanos(typical as u64));
    }
    RetryPattern::Irregular
}

/// Whether the attempts of a client coincide with those of others far more often than by chance: they were started by one
/// event, and back off in step.
pub fn synchronised(own_ns: &[u64], others_ns: &[&[u64]]) -> bool {
    let own = intervals(own_ns);
    if own.len() + 1 < LEAST_STARTS {
        return false;
    }
    let within = COINCIDE_NS.min(median(&own) as u64 / 10);
    others_ns.iter().any(|other| {
        let (Some(first), Some(last)) = (other.first(), other.last()) else {
            return false;
        };
        // Both remember only the last few attempts: only the time that both cover can be compared.
        let common: Vec<u64> = own_ns
            .iter()
            .copied()
            .filter(|at| (first.saturating_sub(within)..=last.saturating_add(within)).contains(at))
            .collect();
        let length = last.saturating_sub(*first) as f64;
        if common.len() + 1 < LEAST_STARTS || length <= 0.0 {
            return false;
        }
        let met = common
            .iter()
            .filter(|at| other.iter().any(|theirs| theirs.abs_diff(**at) <= within))
            .count() as f64
            / common.len() as f64;
        let by_chance = (other.len() as f64 * 2.0 * within as f64 / length).min(1.0);
        met >= 0.8 && by_chance <= 0.4
    })
}

/// Attempts that a retry budget allows for so many requests: each once, and of all of them this share again (Google SRE
/// Book, "Handling Overload").
pub fn within_budget(requests: f64, share: f64) -> f64 {
    requests * (1.0 + share)
}

/// The name under which evidence gives what a budget of this share would have allowed.
pub fn budget_signal(share: f64) -> String {
    format!("allowed_by_{:.0}%_retry_budget", share * 100.0)
}

fn intervals(starts_ns: &[u64]) -> Vec<f64> {
    let pairs = starts_ns.windows(2);
    pairs.map(|pair| pair[1].saturating_sub(pair[0]) as f64).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn starts(intervals_ms: &[f64]) -> Vec<u64> {
        let mut at = 5_000_000_000.0;
        let mut starts = vec![at as u64];
        for interval in intervals_ms {
            at += interval * 1e6;
            starts.push(at as u64);
        }
        starts
    }

    #[test]
    fn a_budget_allows_each_request_once_and_a_share_of_them_again() {
        assert!((within_budget(200.0, 0.1) - 220.0).abs() < 1e-9);
        assert_eq!(within_budget(0.0, 0.1), 0.0);
        assert_eq!(budget_signal(0.2), "allowed_by_20%_retry_budget");
    }

    #[test]
    fn few_attempts_show_no_rhythm() {
        assert_eq!(classify(&[]), RetryPattern::Unknown);
        assert_eq!(classify(&[7]), RetryPattern::Unknown);
        assert_eq!(classify(&starts(&[100.0; 4])), RetryPattern::Unknown);
        assert_eq!(
            classify(&starts(&[100.0; 5])),
            RetryPattern::Fixed(Duration::from_millis(100))
        );
    }

    #[test]
    fn three_tries_and_a_pause_are_a_fixed_interval() {
        let rhythm: Vec<f64> = [200.0, 200.0, 1500.0].repeat(4);
        assert_eq!(
            classify(&starts(&rhythm)),
            RetryPattern::Fixed(Duration::from_millis(200))
        );
    }

    #[test]
    fn doubling_that_begins_anew_or_ends_at_a_bound_is_exponential() {
        let anew = [100.0, 200.0, 400.0, 800.0, 1600.0].repeat(2);
        assert_eq!(classify(&starts(&anew)), RetryPattern::Exponential(2.0));
        let bounded = [100.0, 200.0, 400.0, 800.0, 800.0, 800.0];
        assert_eq!(classify(&starts(&bounded)), RetryPattern::Exponential(2.0));
        let random = [100.0, 260.0, 380.0, 1300.0, 1700.0, 5000.0];
        assert_eq!(classify(&starts(&random)), RetryPattern::ExponentialWithJitter);
    }

    #[test]
    fn clock_steps_and_equal_times_do_no_harm() {
        assert_eq!(classify(&[9; 12]), RetryPattern::NoBackOff);
        assert_eq!(classify(&[9, 8, 7, 6, 5, 4, 3]), RetryPattern::NoBackOff);
        assert!(!synchronised(&[9; 12], &[&[9; 12], &[]]));
    }

    #[test]
    fn clients_that_start_together_are_synchronised_and_others_are_not() {
        let one = starts(&[1000.0; 12]);
        let shifted = |by: u64| one.iter().map(|at| at + by).collect::<Vec<u64>>();
        assert!(synchronised(&one, &[&shifted(400_000_000), &shifted(20_000_000)]));
        assert!(!synchronised(&one, &[&shifted(400_000_000)]));
        assert!(!synchronised(&one, &[]));
        // Somebody who is there all the time meets everybody, by chance.
        let busy: Vec<u64> = (0..2000).map(|n| 5_000_000_000 + n * 6_000_000).collect();
        assert!(!synchronised(&one, &[&busy]));
    }

    proptest! {
        #[test]
        fn a_fixed_interval_survives_noise(
            interval in 40.0..5000.0_f64,
            noise in prop::collection::vec(-0.05..0.05_f64, 6..16),
        ) {
            let rhythm: Vec<f64> = noise.iter().map(|noise| interval * (1.0 + noise)).collect();
            let RetryPattern::Fixed(found) = classify(&starts(&rhythm)) else {
                panic!("{:?}", classify(&starts(&rhythm)));
            };
            prop_assert!((found.as_secs_f64() * 1e3 / interval - 1.0).abs() < 0.06);
        }

        #[test]
        fn an_exponential_back_off_survives_noise(
            first in 40.0..500.0_f64,
            factor in 1.6..3.0_f64,
            noise in prop::collection::vec(-0.02..0.02_f64, 6..9),
        ) {
            let rhythm: Vec<f64> = (0..)
                .zip(&noise)
                .map(|(n, noise)| first * factor.powi(n) * (1.0 + noise))
                .collect();
            let RetryPattern::Exponential(found) = classify(&starts(&rhythm)) else {
                panic!("{:?}", classify(&starts(&rhythm)));
            };
            prop_assert!((found / factor - 1.0).abs() < 0.1);
        }

        #[test]
        fn loops_without_a_pause_have_no_back_off(gaps in prop::collection::vec(0.0..15.0_f64, 6..16)) {
            prop_assert_eq!(classify(&starts(&gaps)), RetryPattern::NoBackOff);
        }

        #[test]
        fn full_jitter_is_never_taken_for_a_fixed_interval_or_for_missing_jitter(
            shares in prop::array::uniform14(0_u32..1000),
        ) {
            // One of each of fourteen classes of length, in random order: spread for sure.
            let mut order: Vec<usize> = (0..14).collect();
            order.sort_by_key(|at| shares[*at]);
            let rhythm: Vec<f64> = order.iter().map(|at| 100.0 * 1.2_f64.powi(*at as i32)).collect();
            let pattern = classify(&starts(&rhythm));
            let allowed = !matches!(pattern, RetryPattern::Fixed(_) | RetryPattern::NoBackOff | RetryPattern::Unknown);
            prop_assert!(allowed, "{pattern:?}");
        }

        #[test]
        fn nothing_panics(times in prop::collection::vec(any::<u64>(), 0..20)) {
            let _ = classify(&times).to_string();
            let _ = synchronised(&times, &[&times]);
        }
    }
}
