//! `process-churn`: runaway trees of processes, always bounded, and busy but bounded work.

use anyhow::Result;
use rung_diagnosis::mode::Mode::ProcessChurn;

use super::bite;
use super::case::{Case, Need};
use super::proc;
use super::stage::Stage;
use super::truth::Truth;

pub(crate) const CASES: &[Case] = &[
    Case::fault(
        "churn-fork-bomb",
        ProcessChurn,
        "a fork bomb in a control group of at most 20 processes",
        bomb,
    )
    .needs(&[Need::Program("cc"), Need::Root, Need::PidsCgroup])
    .window(),
    Case::fault(
        "churn-growing-tree",
        ProcessChurn,
        "a parent starts 60 children a second, up to 600",
        tree,
    )
    .needs(&[Need::Program("cc")])
    .window(),
    Case::twin(
        "churn-twin-shell-loop",
        ProcessChurn,
        "a shell script runs /bin/true over and over",
        shell,
    )
    .window(),
    Case::twin(
        "churn-twin-make",
        ProcessChurn,
        "two short jobs at a time, as make -j2 does",
        make,
    )
    .window(),
];

fn bomb(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["bomb"]);
    let root = stage.start(play)?;
    root.get("ready")?;
    let group = stage.pids_group(20)?;
    group.admit(root.pid)?;
    let limits = (group.refused()?, group.current()?);
    anyhow::ensure!(
        limits == (0, 1),
        "the group is not as new: refused and current are {limits:?}"
    );
    stage.cue("go")?;
    let group = stage.group()?;
    let since = bite::until("the limit refuses forks", || {
        group.refused().is_ok_and(|refused| refused > 20)
    })?;
    anyhow::ensure!(group.current()? <= 20, "the limit does not hold");
    Ok(Truth::fault(ProcessChurn, root.pid, since)
        .age_unknown()
        .case("forks fail at the limit"))
}

fn tree(stage: &mut Stage) -> Result<Truth> {
    let play = stage.c("fork.c")?.args(["tree", "60", "600"]);
    let root = stage.start(play)?.pid;
    let since = bite::until("the tree grows", || proc::children(root).len() >= 30)?;
    Ok(Truth::fault(ProcessChurn, root, since)
        .age_unknown()
        .case("the tree grows"))
}

fn turnover(stage: &mut Stage, script: &str) -> Result<Truth> {
    let play = stage.sh(&format!("end=$(($(date +%s) + RUNG_LAB_SECONDS)); {script}"))?;
    let shell = stage.start(play)?.pid;
    let mut seen = std::collections::BTreeSet::new();
    bite::until("children come and go", || {
        seen.extend(proc::children(shell));
        seen.len() >= 10
    })?;
    anyhow::ensure!(proc::children(shell).len() < 10, "the tree grows");
    Ok(Truth::twin(ProcessChurn, [shell]))
}

fn shell(stage: &mut Stage) -> Result<Truth> {
    turnover(
        stage,
        "while [ $(date +%s) -lt $end ]; do /bin/true; /bin/true; /bin/true; done",
    )
}

fn make(stage: &mut Stage) -> Result<Truth> {
    turnover(
        stage,
        "while [ $(date +%s) -lt $end ]; do sleep 0.02 & sleep 0.03 & wait; done",
    )
}
