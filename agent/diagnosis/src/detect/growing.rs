//! What the modes share that watch a process use ever more of something.

use super::Context;
use crate::growth::{TimeTo, Trend};
use crate::observation::{ProcessLimitsObservation, TaskObservation};
use crate::window::{ProcessHistory, UsageSample};

/// A process of which one figure grows steadily.
#[derive(Debug)]
pub(super) struct Growing<'a> {
    pub(super) pid: u32,
    pub(super) task: &'a TaskObservation,
    pub(super) history: &'a ProcessHistory,
    pub(super) last: UsageSample,
    pub(super) trend: Trend,
}

impl Growing<'_> {
    /// Its limits, if they were read.
    pub(super) fn limits(&self) -> Option<&ProcessLimitsObservation> {
        self.history.limits.as_ref()
    }

    /// Whether it began so short ago that this may be how it starts.
    pub(super) fn may_warm_up(&self, context: &Context<'_>) -> bool {
        let now_ns = context.picture.began_ns + context.picture.suspended_ns;
        let age_ns = now_ns.saturating_sub(self.task.start_ns);
        u128::from(age_ns) < context.settings.growth.warm_up.as_nanos()
    }

    /// When it will have grown by `room`, from now on.
    pub(super) fn time_to(&self, context: &Context<'_>, room: f64) -> Option<TimeTo> {
        let since_last = context.age(self.last.at_ns).as_secs_f64();
        Some(self.trend.time_to(room)?.after(since_last))
    }
}

/// The processes of which a figure rose steadily over the window, by at least `least`.
pub(super) fn growing<'a>(
    context: &'a Context<'_>,
    figure: impl Fn(&UsageSample) -> f64,
    least: f64,
) -> Vec<Growing<'a>> {
    let window = context.window;
    if u128::from(window.length_ns()) < context.settings.rate_window.as_nanos() {
        return Vec::new();
    }
    let mut found: Vec<Growing<'a>> = window
        .usage
        .living()
        .filter_map(|((pid, start_ns), history)| {
            let (first, last) = (history.samples.first()?, *history.samples.last()?);
            if figure(&last) - figure(first) < least {
                return None;
            }
            let task = context.index.process(pid)?;
            if task.start_ns != start_ns || !context.index.lives(pid) {
                return None;
            }
            let trend = Trend::of(&history.series(&figure))?;
            trend.is_steady().then_some(Growing {
                pid,
                task,
                history,
                last,
                trend,
            })
        })
        .collect();
    found.sort_unstable_by_key(|one| one.pid);
    found
}

/// "40 s", "25 min", "7 h", "3 days".
pub(super) fn in_words(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

/// "20.0 MiB".
pub(super) fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_their_own_size() {
        let told = [12.4, 600.0, 7300.0, 400_000.0].map(in_words);
        assert_eq!(told, ["12 s", "10 min", "2 h", "5 days"]);
        assert_eq!(mebibytes(20_971_520.0), "20.0 MiB");
    }
}
