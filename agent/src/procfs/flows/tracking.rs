//! How well connections can be followed from picture to picture.
//!
//! Scope: compares what was seen with the namespace's own counts, and notices connections that are busy whenever they are
//! looked at.
//!
//! Degradation policy: lower bounds mislead where shares are built of them, for what fails lasts longer and is missed
//! less. Once too much must have been missed, [`Tracking`] says that nothing is to be told.

/// Nothing is told if at least so many connections were missed, and one in so many.
const MISSED_LEAST: u64 = 10;
const MISSED_SHARE: u64 = 5;
/// Turns are not told if at least so many looks found a connection busy, and more than this share of them once more:
/// requests at random times are then undercounted by a sixth or more (1 - e^-r are seen of r in each interval).
const BUSY_LEAST: u64 = 20;
const BUSY_PERCENT: u64 = 30;

/// Counts of the own network namespace (/proc/net/snmp).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opens {
    /// Connections opened from within (ActiveOpens), and
    pub(crate) active: u64,
    /// accepted (PassiveOpens).
    pub(crate) passive: u64,
}

/// How well connections were followed so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tracking {
    /// Connects that were missed, and all.
    pub(crate) missed: u64,
    pub(crate) connects: u64,
    /// Flows are left out, for too many connects were missed.
    pub(crate) too_short: bool,
    /// Turns are left out: too many accepted connections were missed, or
    pub(crate) too_short_inbound: bool,
    /// connections are busy from picture to picture.
    pub(crate) too_busy: bool,
}

/// Connections of one direction, as they were seen and as the namespace counts them.
#[derive(Clone, Copy, Debug, Default)]
struct Opened {
    /// The count at the first picture.
    before: Option<u64>,
    seen: u64,
    missed: u64,
}

impl Opened {
    /// Compares with the namespace's own count; returns how many more were missed.
    fn compare(&mut self, count: Option<u64>) -> u64 {
        let Some(count) = count else { return 0 };
        let before = *self.before.get_or_insert(count);
        let missed = count.saturating_sub(before).saturating_sub(self.seen);
        let more = missed.saturating_sub(self.missed);
        self.missed += more;
        more
    }

    fn mostly_missed(&self) -> bool {
        self.missed >= MISSED_LEAST && self.missed * MISSED_SHARE >= self.missed + self.seen
    }
}

/// Keeps count.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tracker {
    connects: Opened,
    accepts: Opened,
    busy_looks: u64,
    busy_again: u64,
}

impl Tracker {
    /// A connection was seen that was not there before.
    pub(super) fn saw(&mut self, inbound: bool) {
        let opened = if inbound {
            &mut self.accepts
        } else {
            &mut self.connects
        };
        opened.seen += 1;
    }

    /// A connection had exchanged something since the last look, and perhaps before that one too.
    pub(super) fn was_busy(&mut self, again: bool) {
        self.busy_looks += 1;
        self.busy_again += u64::from(again);
    }

    /// Compares with the namespace's counts; returns how many more connects were missed.
    pub(super) fn compare(&mut self, opens: Option<Opens>) -> u64 {
        self.accepts.compare(opens.map(|opens| opens.passive));
        self.connects.compare(opens.map(|opens| opens.active))
    }

    pub(super) fn tracking(&self) -> Tracking {
        Tracking {
            missed: self.connects.missed,
            connects: self.connects.missed + self.connects.seen,
            too_short: self.connects.mostly_missed(),
            too_short_inbound: self.accepts.mostly_missed(),
            too_busy: self.busy_looks >= BUSY_LEAST && self.busy_again * 100 > self.busy_looks * BUSY_PERCENT,
        }
    }
}
