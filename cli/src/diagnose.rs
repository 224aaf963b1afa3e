//! `rung diagnose`: looks at the host, prints what is stuck at once, and what has shown after the window.

use std::io::{self, Write};
use std::time::Duration;

use anyhow::Context;
use rung_agent::engine::{Engine, EngineError, Progress, Request};
use rung_diagnosis::report::Report;

use crate::args::{DiagnoseArgs, Format};
use crate::console::{Console, Status};
use crate::{duration, report};

/// Runs the command.
///
/// # Errors
///
/// If the host cannot be looked at, or the output cannot be written.
pub fn run(args: &DiagnoseArgs, console: &mut Console<'_>) -> anyhow::Result<Status> {
    let mut engine = Engine::open(args.source.into())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the timer; raise the limit on open files")?;
    present(args, console, |request, progress| {
        runtime.block_on(engine.diagnose(request, progress))
    })
}

/// Prints what a look at the host brings, while it lasts and at its end.
///
/// # Errors
///
/// If the look fails, or the output cannot be written.
pub fn present(
    args: &DiagnoseArgs,
    console: &mut Console<'_>,
    look: impl FnOnce(&Request, &mut dyn FnMut(Progress<'_>)) -> Result<Report, EngineError>,
) -> anyhow::Result<Status> {
    let request = Request {
        window: args.window,
        pid: args.pid,
        modes: args.modes.clone(),
    };
    let screen = console.screen.clone();
    let prints_first = args.format == Format::Human && !args.window.is_zero();
    let watched = console.errors_are_watched && !args.window.is_zero();
    let mut printed: Option<Report> = None;
    let mut failed: io::Result<()> = Ok(());
    let mut meter = Meter::default();
    let mut progress = |event: Progress<'_>| match event {
        Progress::First(first) if prints_first && printed.is_none() && !first.findings.is_empty() => {
            meter.wipe(console.errors);
            failed = console.print(&report::first(first, &request, &screen));
            printed = Some(first.clone());
        }
        Progress::First(first) => meter.calm = first.findings.is_empty(),
        Progress::Elapsed { elapsed, window } => {
            if watched {
                meter.show(console.errors, elapsed, window);
            }
        }
    };
    let looked = look(&request, &mut progress);
    meter.wipe(console.errors);
    let last = looked?;
    failed?;
    match (args.format, &printed) {
        (Format::Json, _) => console.print_json(&last)?,
        (Format::Human, Some(first)) => console.print(&report::rest(first, &last, &request, &screen))?,
        (Format::Human, None) => console.print(&report::whole(&last, &request, &screen))?,
    }
    Ok(Status::alarming(last.is_alarming()))
}

/// The line on standard error that says how long it will take.
#[derive(Default)]
struct Meter {
    /// Columns that it takes now.
    columns: usize,
    /// Whether the first picture showed nothing, which is not printed before the end.
    calm: bool,
}

impl Meter {
    fn show(&mut self, errors: &mut dyn Write, elapsed: Duration, window: Duration) {
        let left = window.saturating_sub(elapsed).as_secs_f64();
        let so_far = if self.calm { "nothing stuck so far; " } else { "" };
        let text = format!(
            "{so_far}watching {} for rates: {left:.1} s left",
            duration::words(window.as_secs_f64())
        );
        let padding = self.columns.saturating_sub(text.len());
        // Progress that cannot be shown is no reason to stop.
        let _ = write!(errors, "\r{text}{:padding$}", "").and_then(|()| errors.flush());
        self.columns = text.len();
    }

    fn wipe(&mut self, errors: &mut dyn Write) {
        if self.columns > 0 {
            let _ = write!(errors, "\r{:1$}\r", "", self.columns).and_then(|()| errors.flush());
            self.columns = 0;
        }
    }
}
