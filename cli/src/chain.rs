//! Wait chains as text: `cat 4241 --write, pipe full--> sleep 4242 --nanosleep--> the clock`.

use std::collections::BTreeMap;

use rung_diagnosis::finding::ChainLink;

use crate::wrap::{columns, visible};

/// Chains of more steps are shown without their middle.
const STEPS: usize = 12;
/// Steps shown before the gap.
const BEFORE_GAP: usize = 8;
/// Steps shown behind the gap.
const BEHIND_GAP: usize = 3;

/// A run of links each of which starts where the one before ends.
struct Run {
    start: String,
    steps: Vec<String>,
}

/// A chain as lines of at most `width` columns where that can be had: a run on one line if it fits, else a step a
/// line. `names` are further threads known by name; `start` replaces the name of the first thread.
pub(crate) fn lines(
    chain: &[ChainLink],
    names: &BTreeMap<u32, &str>,
    start: Option<&str>,
    width: usize,
) -> Vec<String> {
    let mut lines = Vec::new();
    for run in runs(chain, names, start) {
        let whole = format!("{} {}", run.start, run.steps.join(" "));
        if columns(&whole) <= width {
            lines.push(whole);
            continue;
        }
        lines.push(run.start);
        let count = run.steps.len();
        for (index, step) in run.steps.into_iter().enumerate() {
            if count <= STEPS || index < BEFORE_GAP || index >= count - BEHIND_GAP {
                lines.push(step);
            } else if index == BEFORE_GAP {
                lines.push(format!("... {} more steps ...", count - BEFORE_GAP - BEHIND_GAP));
            }
        }
    }
    lines
}

fn runs(chain: &[ChainLink], names: &BTreeMap<u32, &str>, start: Option<&str>) -> Vec<Run> {
    let mut known = names.clone();
    known.extend(chain.iter().map(|link| (link.thread, link.comm.as_str())));
    let name = |thread: u32| match known.get(&thread) {
        Some(comm) if !comm.is_empty() => format!("{} {thread}", visible(comm)),
        _ => format!("thread {thread}"),
    };
    let mut runs: Vec<Run> = Vec::new();
    let mut seen = Vec::new();
    let mut next = None;
    for (index, link) in chain.iter().enumerate() {
        if next != Some(link.thread) || runs.is_empty() {
            let own = start.filter(|_| index == 0);
            runs.push(Run {
                start: own.map_or_else(|| name(link.thread), str::to_owned),
                steps: Vec::new(),
            });
            seen.clear();
        }
        seen.push(link.thread);
        let target = match (link.on, link.ends.as_deref()) {
            (Some(on), _) if seen.contains(&on) => format!("{} (the ring closes)", name(on)),
            (Some(on), Some(end)) => format!("{} ({})", name(on), visible(end)),
            (Some(on), None) => name(on),
            (None, Some(end)) => visible(end).into_owned(),
            (None, None) => "somebody unknown".to_owned(),
        };
        if let Some(run) = runs.last_mut() {
            run.steps.push(format!("--{}--> {target}", visible(&link.waits)));
        }
        next = link.on;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(thread: u32, comm: &str, waits: &str, on: Option<u32>, ends: Option<&str>) -> ChainLink {
        ChainLink {
            thread,
            comm: comm.into(),
            waits: waits.into(),
            on,
            ends: ends.map(str::to_owned),
        }
    }

    fn all(chain: &[ChainLink], width: usize) -> Vec<String> {
        lines(chain, &BTreeMap::new(), None, width)
    }

    #[test]
    fn a_short_chain_is_one_line() {
        let chain = [
            link(4241, "cat", "write, pipe full", Some(4242), None),
            link(4242, "sleep", "nanosleep", None, Some("the clock")),
        ];
        assert_eq!(
            all(&chain, 66),
            ["cat 4241 --write, pipe full--> sleep 4242 --nanosleep--> the clock"]
        );
        assert_eq!(
            all(&chain, 60),
            [
                "cat 4241",
                "--write, pipe full--> sleep 4242",
                "--nanosleep--> the clock"
            ]
        );
    }

    #[test]
    fn a_ring_says_where_it_closes() {
        let chain = [
            link(1, "a", "mutex", Some(2), None),
            link(2, "b", "mutex", Some(1), None),
        ];
        assert_eq!(
            all(&chain, 66),
            ["a 1 --mutex--> b 2 --mutex--> a 1 (the ring closes)"]
        );
    }

    #[test]
    fn branches_are_runs_of_their_own() {
        let chain = [
            link(1, "a", "mutex", Some(9), None),
            link(2, "b", "join", None, None),
        ];
        assert_eq!(
            all(&chain, 66),
            ["a 1 --mutex--> thread 9", "b 2 --join--> somebody unknown"]
        );
        let names = BTreeMap::from([(9, "owner")]);
        assert_eq!(
            lines(&chain[..1], &names, Some("each"), 66),
            ["each --mutex--> owner 9"]
        );
    }

    #[test]
    fn a_long_chain_loses_its_middle() {
        let chain: Vec<ChainLink> = (1..=100)
            .map(|thread| link(thread, "t", "mutex", Some(thread + 1), None))
            .collect();
        let lines = all(&chain, 66);
        assert_eq!(lines.len(), 1 + BEFORE_GAP + 1 + BEHIND_GAP);
        assert_eq!(lines[9], "... 89 more steps ...");
    }
}
