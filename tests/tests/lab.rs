//! The lab clears its stages, however its runner ends. That each case does is seen by the end-to-end tests (faults.rs).

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rung_tests::lab::{self, Workshop, network, sweep};

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
    let trials = vec![
        Trial::test("panic-clears-the-stage", move || panic_clears(&workshop)),
        Trial::test("killed-runner-leaves-nothing", killed_runner_leaves_nothing),
        Trial::ignorable_test("killed-runner-leaves-no-network", killed_runner_leaves_no_network),
        Trial::test("unknown-name-is-refused", unknown_name),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
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
