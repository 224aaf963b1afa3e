//! End to end: every case of the lab against the `rung` binary, faults named rightly, twins in silence.
//!
//! One test a case, several at a time: most cases stand still, and each is judged by its own processes. Those that
//! load the machine run alone. A case in a picture is looked at by each source on one stage; rates and events get a
//! new stage for each source. What cannot run here is ignored, with the reason. A stage that could
//! not be set gets a second try, a finding that is wrong or missing does not. Each case must clear away what it brought.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rung_tests::lab::{self, Case, Kind, Look, Stage, Truth, Workshop};
use rung_tests::rung::{Rung, Source};
use rung_tests::verdict::judge;

/// Cases at a time, unless --test-threads says otherwise.
const CASES_AT_A_TIME: usize = 6;
/// Shared by cases that stand still, held alone by those that do not.
static MACHINE: RwLock<()> = RwLock::new(());

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(CASES_AT_A_TIME);
    let workshop = match Workshop::open(Path::new(env!("CARGO_BIN_EXE_lab"))) {
        Ok(workshop) => workshop,
        Err(error) => {
            eprintln!("no workshop: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let trials = lab::cases()
        .map(|case| {
            let workshop = Arc::clone(&workshop);
            Trial::ignorable_test(case.name, move || test(case, &workshop))
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn test(case: &'static Case, workshop: &Arc<Workshop>) -> Result<Completion, Failed> {
    if let Some(why) = case.missing() {
        return Ok(Completion::ignored_with(why));
    }
    let chosen = chosen_sources().map_err(|error| format!("{error:#}"))?;
    let can_show = |source: &Source| *source == Source::Best || case.procfs;
    let sources: Vec<Source> = chosen.iter().copied().filter(can_show).collect();
    if sources.is_empty() {
        return Ok(Completion::ignored_with("/proc alone does not show it"));
    }
    let (_alone, _shared);
    if case.alone {
        _alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
    } else {
        _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
    }
    match problems(case, &sources, workshop) {
        Ok(problems) if problems.is_empty() => Ok(Completion::Completed),
        Ok(problems) => Err(problems.join("\n\n").into()),
        Err(error) => Err(format!("{error:#}").into()),
    }
}

fn problems(case: &Case, sources: &[Source], workshop: &Arc<Workshop>) -> Result<Vec<String>> {
    let rung = Rung::find()?;
    let mut problems = Vec::new();
    let mut standing: Option<(Stage, Truth)> = None;
    for &source in sources {
        let (stage, mut truth) = match standing.take() {
            Some(standing) => standing,
            None => play(case, workshop)?,
        };
        problems.extend(look(case, &rung, source, &stage, &mut truth)?);
        if case.look == Look::Picture {
            standing = Some((stage, truth));
        } else {
            lab::clear(stage)?;
        }
    }
    if let Some((stage, _truth)) = standing {
        lab::clear(stage)?;
    }
    Ok(problems)
}

/// Sets the stage of a case, and a second time if that failed: the machine may have been too busy for it.
fn play(case: &Case, workshop: &Arc<Workshop>) -> Result<(Stage, Truth)> {
    let played = set_stage(case, workshop).or_else(|error| {
        eprintln!("{}: once more, for {error:#}", case.name);
        set_stage(case, workshop)
    });
    let (stage, truth) = played?;
    let named = truth.subjects.iter().chain(&truth.innocent);
    for pid in named.clone() {
        let owned = stage.cast().iter().any(|identity| identity.pid == *pid);
        ensure!(owned, "the stage does not own {pid}");
    }
    ensure!(
        named.count() > 0 && (case.kind == Kind::Fault) != truth.subjects.is_empty(),
        "a fault has a subject, a twin has innocents"
    );
    Ok((stage, truth))
}

/// Starts a case and has it bite, within its bound.
fn set_stage(case: &Case, workshop: &Arc<Workshop>) -> Result<(Stage, Truth)> {
    let started = Instant::now();
    let played = case.play(workshop)?;
    let took = started.elapsed();
    ensure!(
        took <= case.bound,
        "it took {:.1} s of {} s until it bit",
        took.as_secs_f64(),
        case.bound.as_secs()
    );
    Ok(played)
}

/// By both sources, unless RUNG_LAB_SOURCE names one.
fn chosen_sources() -> Result<&'static [Source]> {
    match std::env::var("RUNG_LAB_SOURCE").as_deref() {
        Err(_) => Ok(&[Source::Best, Source::Procfs]),
        Ok("best") => Ok(&[Source::Best]),
        Ok("procfs") => Ok(&[Source::Procfs]),
        Ok(other) => anyhow::bail!("RUNG_LAB_SOURCE is {other:?}, neither best nor procfs"),
    }
}

/// Looks when the mode's threshold has passed, and says all that is wrong, with the truth and the report.
fn look(
    case: &Case,
    rung: &Rung,
    source: Source,
    stage: &Stage,
    truth: &mut Truth,
) -> Result<Option<String>> {
    let late = truth.trigger.is_some();
    if !late {
        let due = truth.since + truth.threshold + Duration::from_millis(100);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let window = match (case.look, source) {
        // /proc has no date for the start of a wait: it must be watched for as long.
        (_, Source::Procfs) => (truth.threshold + Duration::from_secs(1)).max(case.window),
        (Look::Picture, Source::Best) => Duration::ZERO,
        (Look::Window, Source::Best) if late => truth.threshold + case.window,
        (Look::Window, Source::Best) => case.window,
    };
    let report = rung.diagnose(source, window, stage.dir(), || truth.pull_trigger())?;
    let cast: Vec<i32> = stage.cast().iter().map(|identity| identity.pid).collect();
    let problems = judge(truth, &cast, source, &report);
    Ok((!problems.is_empty()).then(|| {
        format!(
            "by {}: {}\nthe truth:\n{truth}\nthe report:\n{}",
            source.id(),
            problems.join("\n  "),
            report.in_short()
        )
    }))
}
