//! Every case of the lab starts, bites and leaves nothing behind.
//!
//! One test a case, one after another: the cases would see each other's load. What cannot run here is
//! reported as ignored, with the reason.

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rung_tests::lab::{self, Case, Kind, Workshop, network, sweep};

const LAB: &str = env!("CARGO_BIN_EXE_lab");

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let workshop = match Workshop::open(Path::new(LAB)) {
        Ok(workshop) => workshop,
        Err(error) => {
            eprintln!("no workshop: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials: Vec<Trial> = lab::cases()
        .map(|case| {
            let workshop = Arc::clone(&workshop);
            Trial::ignorable_test(case.name, move || bites_and_goes(case, &workshop))
        })
        .collect();
    trials.push(Trial::test("panic-clears-the-stage", {
        let workshop = Arc::clone(&workshop);
        move || panic_clears(&workshop)
    }));
    trials.push(Trial::test(
        "killed-runner-leaves-nothing",
        killed_runner_leaves_nothing,
    ));
    trials.push(Trial::ignorable_test(
        "killed-runner-leaves-no-network",
        killed_runner_leaves_no_network,
    ));
    trials.push(Trial::test("unknown-name-is-refused", unknown_name));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn bites_and_goes(case: &'static Case, workshop: &Arc<Workshop>) -> Result<Completion, Failed> {
    if let Some(why) = case.missing() {
        return Ok(Completion::ignored_with(why));
    }
    let start = Instant::now();
    let (stage, mut truth) = case.play(workshop).map_err(|error| format!("{error:#}"))?;
    truth.pull_trigger().map_err(|error| format!("{error:#}"))?;
    let named = truth.subjects.iter().chain(&truth.innocent);
    for pid in named.clone() {
        if !stage.cast().iter().any(|identity| identity.pid == *pid) {
            return Err(format!("the stage does not own {pid}").into());
        }
    }
    if named.count() == 0 || (case.kind == Kind::Fault) == truth.subjects.is_empty() {
        return Err("a fault has a subject, a twin has innocents".into());
    }
    let (mark, cast) = (stage.mark().to_owned(), stage.cast());
    drop(stage);
    // A zombie that init has adopted is init's to reap, in its own time.
    let is_ours = |identity: &sweep::Identity| {
        identity.runs()
            || identity.left()
                && lab::proc::stat(identity.pid)
                    .is_some_and(|stat| stat.ppid.cast_unsigned() == std::process::id())
    };
    let left: Vec<_> = cast.into_iter().filter(is_ours).collect();
    if !left.is_empty() || !sweep::marked(&mark).is_empty() {
        return Err(format!("left behind: {left:?} {:?}", sweep::marked(&mark)).into());
    }
    let named = network::marked(&mark);
    if !named.is_empty() {
        return Err(format!("left behind: {named:?}").into());
    }
    let took = start.elapsed();
    if took > case.bound {
        return Err(format!("took {:.1} s of {} s", took.as_secs_f64(), case.bound.as_secs()).into());
    }
    Ok(Completion::Completed)
}

/// A test that fails by panic must clear up as well.
fn panic_clears(workshop: &Arc<Workshop>) -> Result<(), Failed> {
    let case = lab::find("stopped-child").ok_or("no such case")?;
    let mut cast = Vec::new();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let played = case.play(workshop);
        if let Ok((stage, _truth)) = &played {
            cast = stage.cast();
        }
        // Unwinds past the stage as panic!() does, without the backtrace in the test's output.
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    if panicked.is_ok() || cast.is_empty() || cast.iter().any(|identity| identity.left()) {
        return Err(format!("left behind: {cast:?}").into());
    }
    Ok(())
}

/// kill -9 of the runner: the guard clears the stage, its stopped process included.
fn killed_runner_leaves_nothing() -> Result<(), Failed> {
    let stopped =
        |identity: &sweep::Identity| lab::proc::stat(identity.pid).is_some_and(|stat| stat.state == 'T');
    killed_runner("stopped-child", &stopped)
}

/// And its network namespaces.
fn killed_runner_leaves_no_network() -> Result<Completion, Failed> {
    let name = "connect-timeout-blocking";
    if let Some(why) = lab::find(name).ok_or("no such case")?.missing() {
        return Ok(Completion::ignored_with(why));
    }
    killed_runner(name, &|identity| {
        lab::proc::syscall(identity.pid, identity.pid).is_some_and(|call| call.number == libc::SYS_connect)
    })?;
    Ok(Completion::Completed)
}

/// Kills the runner of a case once a process of it is as it should be, and waits until nothing is left.
fn killed_runner(case: &str, started: &dyn Fn(&sweep::Identity) -> bool) -> Result<(), Failed> {
    let mut runner = Command::new(LAB)
        .args(["run", case])
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = i32::try_from(runner.id())?;
    let mut mark = None;
    let end = Instant::now() + Duration::from_secs(10);
    // The stage's mark begins with its runner.
    let start_ticks = sweep::Identity::of(pid).ok_or("the runner is gone")?.start_ticks;
    while mark.is_none() && Instant::now() < end {
        let first = format!("{pid}-{start_ticks}-0");
        mark = sweep::marked(&first).iter().any(started).then_some(first);
        std::thread::sleep(Duration::from_millis(20));
    }
    runner.kill()?;
    runner.wait()?;
    let mark = mark.ok_or("the case never started")?;
    let dir = std::env::temp_dir().join(format!("rung-lab-{pid}-{start_ticks}"));
    let left = || (sweep::marked(&mark), network::marked(&mark), dir.exists());
    let end = Instant::now() + Duration::from_secs(10);
    while left() != (Vec::new(), Vec::new(), false) {
        if Instant::now() > end {
            return Err(format!("left behind: {:?}", left()).into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn unknown_name() -> Result<(), Failed> {
    let output = Command::new(LAB).args(["run", "no-such-case"]).output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() != Some(2) || !words.contains("lab list") {
        return Err(format!("{}: {words}", output.status).into());
    }
    Ok(())
}
