//! The `rung` command: arguments, rendering, exit statuses. Everything it knows about the host comes from
//! [`rung_agent::engine`]; it reads neither /proc nor the kernel.
//!
//! Every command is a function of its arguments and a [`console::Console`], so tests run them without a terminal.

pub mod args;
mod chain;
pub mod console;
pub mod diagnose;
mod doctor;
pub mod duration;
pub mod explain;
mod grouping;
mod ladder;
pub mod names;
mod page;
pub mod quiz;
pub mod report;
pub mod screen;
pub mod why;
pub mod wrap;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use rung_diagnosis::report::json_schema;
use tracing_subscriber::EnvFilter;

use args::{Command, CommandLine};
use console::{Console, Status, UntilClosed};
use screen::Screen;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let mut input = io::stdin().lock();
    let mut output = UntilClosed::new(io::stdout().lock());
    let mut errors = UntilClosed::new(io::stderr());
    let mut console = Console {
        input_is_terminal: io::stdin().is_terminal(),
        input: &mut input,
        output: &mut output,
        errors: &mut errors,
        errors_are_watched: io::stderr().is_terminal(),
        screen: Screen::of_stdout(),
    };
    if let Err(message) = start_log() {
        let _ = writeln!(console.errors, "rung: {message}");
        return Status::Failed.into();
    }
    run(std::env::args_os(), &mut console).into()
}

/// Runs a command line, whose first word is the program's name.
pub fn run(words: impl IntoIterator<Item = OsString>, console: &mut Console<'_>) -> Status {
    let line = match CommandLine::try_parse_from(words) {
        Ok(line) => line,
        Err(error) => return usage(&error, console),
    };
    match dispatch(line, console) {
        Ok(status) => status,
        Err(error) => {
            // Nothing is left to tell if standard error cannot be written either.
            let _ = writeln!(console.errors, "rung: {}", wrap::visible(&format!("{error:#}")));
            Status::Failed
        }
    }
}

fn dispatch(line: CommandLine, console: &mut Console<'_>) -> anyhow::Result<Status> {
    tracing::debug!(?line, "parsed");
    match line.command.unwrap_or(Command::Diagnose(line.diagnose)) {
        Command::Diagnose(args) => diagnose::run(&args, console),
        Command::Why(args) => why::run(&args, console),
        Command::Doctor(args) => doctor::run(args.format, console),
        Command::Ladder(args) => ladder::run(args.format, console),
        Command::Explain(args) => explain::run(&args, console),
        Command::Quiz(args) => quiz::run(&args, console),
        Command::Schema => {
            console.print_json(&json_schema())?;
            Ok(Status::Quiet)
        }
    }
}

/// Help and version go to standard output; a value that was refused is told as every other error is.
fn usage(error: &clap::Error, console: &mut Console<'_>) -> Status {
    let rendered = error.render();
    if !error.use_stderr() {
        let text = if console.screen.colour {
            rendered.ansi().to_string()
        } else {
            rendered.to_string()
        };
        return match console.print(&text) {
            Ok(()) => Status::Quiet,
            Err(_) => Status::Failed,
        };
    }
    let refused = std::error::Error::source(error).filter(|_| error.kind() == ErrorKind::ValueValidation);
    let text = match (refused, error.get(ContextKind::InvalidArg)) {
        (Some(cause), Some(ContextValue::String(argument))) => format!("rung: {argument}: {cause}\n"),
        _ => rendered.to_string(),
    };
    let _ = console.errors.write_all(text.as_bytes());
    Status::Failed
}

/// Logs to standard error what `RUNG_LOG` asks for; nothing by default.
fn start_log() -> Result<(), String> {
    let Some(directives) = std::env::var_os("RUNG_LOG").filter(|value| !value.is_empty()) else {
        return Ok(());
    };
    let filter = EnvFilter::builder()
        .parse(directives.to_string_lossy())
        .map_err(|error| format!("RUNG_LOG is not understood: {error}; write it as in RUNG_LOG=debug"))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .log_internal_errors(false)
        .init();
    Ok(())
}
