//! Whether a figure grows, how fast, and how sure that is: one robust estimate for all modes that grow until something
//! breaks.
//!
//! The slope is that of Theil and Sen: the median of the slopes between all pairs of samples, which up to 29% of wild
//! samples do not move. Its interval comes from the same pairs: under no trend the count of rising less falling pairs
//! (Kendall's S) has the variance n(n-1)(2n+5)/18, which says how far from the middle of the sorted slopes the two ends
//! lie (P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau", 1968). With few samples the interval
//! is wide, with noise too.
//!
//! A slope alone does not tell a leak from a step or from a plateau that was just reached. So a [`Trend`] also says how
//! the rise was spread over the time: by quarters.

/// The interval holds the slope with 90% (two-sided), for noise that is independent from sample to sample.
const Z: f64 = 1.645;
/// With fewer samples there is no trend: three of them form an interval from the smallest to the largest slope only.
const SAMPLES_MIN: usize = 4;
/// A quarter takes part in the rise if it has this share of what it would have, were the rise even.
const EVEN_SHARE: f64 = 1.0 / 3.0;

/// How a figure changed over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Trend {
    /// Median slope, units a second.
    pub slope: f64,
    /// Ends of its interval, units a second: low <= slope <= high.
    pub low: f64,
    /// See `low`.
    pub high: f64,
    /// From the first sample to the last, units.
    pub rise: f64,
    /// The rise in each quarter of the time.
    pub quarters: [f64; 4],
    /// From the first sample to the last, seconds.
    pub seconds: f64,
}

impl Trend {
    /// Of samples in order of time: when, in nanoseconds, and how much. `None` with fewer than four of them, or without
    /// time between them.
    pub fn of(samples: &[(u64, f64)]) -> Option<Trend> {
        let (first, last) = (samples.first()?, samples.last()?);
        if samples.len() < SAMPLES_MIN || last.0 <= first.0 {
            return None;
        }
        let mut slopes = Vec::with_capacity(samples.len() * (samples.len() - 1) / 2);
        for (at, one) in samples.iter().enumerate() {
            let later = samples.get(at + 1..).unwrap_or_default();
            let apart = later.iter().filter(|other| other.0 > one.0);
            slopes.extend(apart.map(|other| (other.1 - one.1) / ((other.0 - one.0) as f64 / 1e9)));
        }
        slopes.sort_unstable_by(f64::total_cmp);
        let count = samples.len() as f64;
        let spread = Z * (count * (count - 1.0) * (2.0 * count + 5.0) / 18.0).sqrt();
        let pairs = slopes.len() as f64;
        let rank = |rank: f64| slopes.get(rank.clamp(0.0, pairs - 1.0) as usize).copied();
        Some(Trend {
            slope: median(&slopes)?,
            low: rank(((pairs - spread) / 2.0).floor())?,
            high: rank(((pairs + spread) / 2.0).ceil())?,
            rise: last.1 - first.1,
            quarters: quarters(samples, first.0, last.0),
            seconds: (last.0 - first.0) as f64 / 1e9,
        })
    }

    /// Whether it rises throughout: the interval is above zero, three of the quarters have their share of the rise, and
    /// the last one is among them. A step, a plateau, a warm-up that is over and a saw-tooth that leads nowhere do not.
    pub fn is_steady(&self) -> bool {
        let even = self.rise / 4.0 * EVEN_SHARE;
        let takes_part = |quarter: &&f64| **quarter >= even;
        self.rise > 0.0
            && self.low > 0.0
            && self.quarters[3] >= even
            && self.quarters.iter().filter(takes_part).count() >= 3
    }

    /// In how many seconds from its last sample it will have risen by `room`, at the estimated slope, and the earliest and
    /// the latest time that the interval admits. `None` if it does not rise for sure.
    pub fn time_to(&self, room: f64) -> Option<TimeTo> {
        (self.low > 0.0).then(|| TimeTo {
            seconds: room.max(0.0) / self.slope,
            earliest: room.max(0.0) / self.high,
            latest: room.max(0.0) / self.low,
        })
    }
}

/// When a figure will have risen by some amount, seconds from its last sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeTo {
    /// At the estimated slope.
    pub seconds: f64,
    /// At the steepest slope of the interval.
    pub earliest: f64,
    /// At the flattest one.
    pub latest: f64,
}

impl TimeTo {
    /// As seen some seconds after the last sample.
    pub fn after(self, seconds: f64) -> TimeTo {
        TimeTo {
            seconds: (self.seconds - seconds).max(0.0),
            earliest: (self.earliest - seconds).max(0.0),
            latest: (self.latest - seconds).max(0.0),
        }
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    Some((sorted.get(middle - 1)? + upper) / 2.0)
}

/// The rise in each quarter, between levels at its ends. The level at a moment is the median of the samples within an
/// eighth of the time around it, or, where they are fewer than three, on the line between the two beside it.
fn quarters(samples: &[(u64, f64)], from_ns: u64, to_ns: u64) -> [f64; 4] {
    let length = to_ns - from_ns;
    let level = |quarter: u64| {
        let at = from_ns + length / 4 * quarter + length % 4 * quarter / 4;
        let near = samples
            .iter()
            .filter(|sample| sample.0.abs_diff(at) <= length / 8);
        let mut near: Vec<f64> = near.map(|sample| sample.1).collect();
        if near.len() < 3 {
            return between(samples, at);
        }
        near.sort_unstable_by(f64::total_cmp);
        median(&near).unwrap_or_default()
    };
    let levels = [level(0), level(1), level(2), level(3), level(4)];
    [
        levels[1] - levels[0],
        levels[2] - levels[1],
        levels[3] - levels[2],
        levels[4] - levels[3],
    ]
}

fn between(samples: &[(u64, f64)], at: u64) -> f64 {
    let after = samples.partition_point(|sample| sample.0 < at);
    match (samples.get(after.wrapping_sub(1)), samples.get(after)) {
        (Some(before), Some(after)) => {
            let share = (at - before.0) as f64 / (after.0 - before.0).max(1) as f64;
            before.1 + (after.1 - before.1) * share
        }
        (Some(only), None) | (None, Some(only)) => only.1,
        (None, None) => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// One sample a second.
    fn series(values: impl IntoIterator<Item = f64>) -> Vec<(u64, f64)> {
        let times = (0..).map(|second| 1_000_000_000_000 + second * 1_000_000_000);
        times.zip(values).collect()
    }

    fn trend(values: impl IntoIterator<Item = f64>) -> Trend {
        Trend::of(&series(values)).unwrap()
    }

    #[test]
    fn a_line_is_its_slope_and_nothing_else() {
        let trend = trend((0..5).map(|second| 100.0 + 20.0 * f64::from(second)));
        assert_eq!((trend.slope, trend.low, trend.high), (20.0, 20.0, 20.0));
        assert_eq!(trend.quarters, [20.0; 4]);
        assert!(trend.is_steady());
        let time = trend.time_to(250.0).unwrap();
        assert_eq!((time.seconds, time.earliest, time.latest), (12.5, 12.5, 12.5));
        assert_eq!(time.after(2.5).seconds, 10.0);
    }

    #[test]
    fn few_samples_are_no_trend() {
        assert_eq!(Trend::of(&series([1.0, 2.0, 3.0])), None);
        assert_eq!(Trend::of(&[(7, 1.0), (7, 2.0), (7, 3.0), (7, 4.0)]), None);
        assert_eq!(Trend::of(&[]), None);
    }

    #[test]
    fn wild_samples_do_not_move_the_slope() {
        let wild = |second: i32| if second % 10 == 3 { 5000.0 } else { 0.0 };
        let trend = trend((0..40).map(|second| 3.0 * f64::from(second) + wild(second)));
        assert!((trend.slope - 3.0).abs() < 0.3, "{trend:?}");
        assert!(trend.is_steady());
    }

    #[test]
    fn steps_and_plateaus_are_not_steady() {
        for at in 1..11 {
            let step = trend((0..12).map(|second| if second < at { 10.0 } else { 500.0 }));
            assert!(!step.is_steady(), "at {at}: {step:?}");
        }
        // A heap that grows to its cap, and stays there.
        for cap in 3..9 {
            let heap = trend((0..12).map(|second| f64::from(second.min(cap)) * 20.0));
            assert!(!heap.is_steady(), "capped after {cap}: {heap:?}");
        }
        // One that has begun to grow just now.
        let late = trend((0..12).map(|second| f64::from((second - 9).max(0)) * 20.0));
        assert!(!late.is_steady());
        assert!(!trend([5.0; 6]).is_steady());
        assert!(!trend((0..6).map(|second| -f64::from(second))).is_steady());
    }

    #[test]
    fn saw_teeth_are_steady_only_if_they_climb() {
        let teeth =
            |climb: f64| (0..60).map(move |second| f64::from(second % 6) * 30.0 + climb * f64::from(second));
        assert!(!trend(teeth(0.0)).is_steady());
        let climbing = trend(teeth(10.0));
        assert!(climbing.is_steady(), "{climbing:?}");
        assert!((climbing.slope - 10.0).abs() < 1.0, "{climbing:?}");
    }

    #[test]
    fn noise_widens_the_interval() {
        let noise = [3.0, -7.0, 5.0, 1.0, -4.0, 6.0, -2.0, 0.0, 7.0, -6.0];
        let noisy = |share: f64| {
            let values = noise.into_iter().zip(0..10);
            trend(values.map(move |(noise, second)| 20.0 * f64::from(second) + share * noise))
        };
        let (quiet, loud) = (noisy(0.1), noisy(2.0));
        assert!(quiet.is_steady() && loud.is_steady());
        assert!(loud.high - loud.low > quiet.high - quiet.low);
        assert!(loud.low <= 20.0 && 20.0 <= loud.high, "{loud:?}");
    }

    proptest! {
        #[test]
        fn the_slope_lies_in_its_interval(values in prop::collection::vec(-1e9..1e9f64, 4..64)) {
            let trend = trend(values);
            prop_assert!(trend.low <= trend.slope && trend.slope <= trend.high);
            prop_assert!(trend.seconds > 0.0);
        }

        #[test]
        fn a_line_with_a_little_noise_is_steady(noise in prop::collection::vec(-2.0..2.0f64, 5..64)) {
            let values = noise.iter().enumerate().map(|(second, noise)| 20.0 * second as f64 + noise);
            let trend = trend(values);
            prop_assert!(trend.is_steady(), "{:?}", trend);
            prop_assert!((trend.slope - 20.0).abs() < 4.1);
        }
    }
}
