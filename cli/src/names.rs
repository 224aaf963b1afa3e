//! Reads the names that people type: failure modes, rungs, and what they may have meant.

use rung_diagnosis::mode::{Mode, Rung};

/// A page of the handbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A rung's.
    Rung(Rung),
    /// A failure mode's.
    Mode(Mode),
}

/// Similarity (Jaro and Winkler) from which a name is worth suggesting.
const SIMILAR: f64 = 0.8;
/// Suggestions at most.
const SUGGESTIONS: usize = 3;

/// Reads the id of a failure mode.
///
/// # Errors
///
/// A message with close matches.
pub fn mode(given: &str) -> Result<Mode, String> {
    normal(given)
        .parse()
        .map_err(|_| format!("no failure mode is called {given:?}; {}", advice(given)))
}

/// Reads a rung (`3` or `rung-3`) or the id of a failure mode.
///
/// # Errors
///
/// A message with close matches.
pub fn topic(given: &str) -> Result<Topic, String> {
    let name = normal(given);
    let digits = name.trim_start_matches("rung").trim_start_matches('-');
    if let Ok(number) = digits.parse::<u8>() {
        return Rung::try_from(number)
            .map(Topic::Rung)
            .map_err(|_| format!("there is no rung {number}; rungs are 1 to 6, see `rung ladder`"));
    }
    name.parse().map(Topic::Mode).map_err(|_| {
        format!(
            "{given:?} is neither a rung (1 to 6) nor a failure mode; {}",
            advice(given)
        )
    })
}

fn normal(given: &str) -> String {
    given.trim().to_lowercase().replace(['_', ' '], "-")
}

/// What to do about an unknown name.
fn advice(given: &str) -> String {
    let close = close_matches(&normal(given));
    match close.as_slice() {
        [] => "`rung ladder` lists all".to_owned(),
        [one] => format!("did you mean {one}? `rung ladder` lists all"),
        several => format!(
            "did you mean one of {}? `rung ladder` lists all",
            several.join(", ")
        ),
    }
}

/// The ids that resemble a name or contain it, best first.
fn close_matches(name: &str) -> Vec<&'static str> {
    let mut scored: Vec<(f64, &'static str)> = Mode::ALL
        .iter()
        .map(|mode| {
            let id = mode.id();
            let within = name.len() >= 3 && (id.contains(name) || name.contains(id));
            let score = strsim::jaro_winkler(name, id);
            (if within { score.max(0.95) } else { score }, id)
        })
        .filter(|(score, _)| *score >= SIMILAR)
        .collect();
    scored.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    scored.into_iter().take(SUGGESTIONS).map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_rungs_and_modes() {
        for given in ["3", "rung-3", "rung3", "Rung 3", "RUNG_3"] {
            assert_eq!(topic(given), Ok(Topic::Rung(Rung::Processes)), "{given}");
        }
        for &known in Mode::ALL {
            assert_eq!(topic(known.id()), Ok(Topic::Mode(known)));
            assert_eq!(mode(known.id()), Ok(known));
        }
        assert_eq!(mode("Pipe_Stall"), Ok(Mode::PipeStall));
    }

    #[test]
    fn suggests_close_matches() {
        assert!(mode("deadlok").unwrap_err().contains("did you mean"));
        assert!(mode("deadlok").unwrap_err().contains("deadlock"));
        assert!(mode("lock").unwrap_err().contains("lock-contention"));
        assert!(topic("pipe").unwrap_err().contains("pipe-stall"));
        assert!(topic("7").unwrap_err().contains("1 to 6"));
        assert!(topic("0").unwrap_err().contains("1 to 6"));
        assert_eq!(
            mode("xyzzy").unwrap_err(),
            "no failure mode is called \"xyzzy\"; `rung ladder` lists all"
        );
        assert!(mode("").is_err() && topic("").is_err() && topic("-").is_err());
    }
}
