//! The command line. Parsing reads and checks what was typed; it does no work.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rung_agent::engine::SourceChoice;
use rung_diagnosis::mode::Mode;

use crate::names::Topic;
use crate::{duration, names};

/// What `rung --help` says about exit statuses and the environment.
const AFTER_HELP: &str = "\
Examples:
  rung                      what is stuck now, and after 5 seconds what is slow
  rung --for 0s             a single picture, then exit
  rung --pid 4242 --for 1m  only what involves process 4242
  rung why nginx            what every thread of nginx waits for
  rung explain pipe-stall   the handbook's page
  rung --format json | jq .root_rung

Exit status:
  0  nothing of severity warning or above was found
  1  such findings
  2  rung could not do its work; the reason is on standard error

Environment:
  NO_COLOR  no colours, if it is set and not empty
  RUNG_LOG  log to standard error, as in RUNG_LOG=debug";

/// Tells who waits for whom on a misbehaving Linux host, and on which rung the cause stands.
///
/// Without a command it diagnoses: it follows every wait on the host to its end and names the root cause, the
/// culprit, the evidence and what to do now. It needs root to see the processes of others and the owners of locks;
/// `rung doctor` says what it can see here.
#[derive(Debug, Parser)]
#[command(name = "rung", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
#[command(max_term_width = 80)]
pub struct CommandLine {
    /// Options of `diagnose`, if there is no command.
    #[command(flatten)]
    pub diagnose: DiagnoseArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Say what is wrong on this host, and why (the default)
    ///
    /// Stuck things are printed at once, from the first picture; what needs rates follows after the window, which
    /// Ctrl-C ends early. The coverage at the end says what was not seen: about that, silence means nothing.
    #[command(
        after_help = "Examples:\n  rung diagnose --for 0s\n  rung diagnose --mode deadlock --mode pipe-stall --for 1m"
    )]
    Diagnose(DiagnoseArgs),
    /// Say what every thread of a process waits for, to the end of the chain
    ///
    /// Threads that wait alike are listed once. Exit status 1 means that some wait can never end.
    #[command(after_help = "Examples:\n  rung why 4242\n  rung why postgres")]
    Why(WhyArgs),
    /// Say what can be seen on this host, by which source, and what to do about the rest
    Doctor(FormatArgs),
    /// Show the six rungs and how to use them
    Ladder(FormatArgs),
    /// Show the handbook's page of a rung or a failure mode
    #[command(after_help = "Examples:\n  rung explain 3\n  rung explain deadlock")]
    Explain(ExplainArgs),
    /// Ask questions about the ladder, and explain the answers
    ///
    /// Answers are read from standard input, one number a line; `q` ends the quiz.
    #[command(after_help = "Examples:\n  rung quiz\n  rung quiz --seed 7\n  printf '4\\n4\\n' | rung quiz")]
    Quiz(QuizArgs),
    /// Print the JSON schema of the report of `rung diagnose --format json`
    Schema,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Text for people
    #[default]
    Human,
    /// One JSON object
    Json,
}

/// Options of commands that only print.
#[derive(Clone, Copy, Debug, Args)]
pub struct FormatArgs {
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Which source to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SourceArg {
    /// The best one that is to be had
    #[default]
    Auto,
    /// BPF iterators, or exit with status 2
    Bpf,
    /// The files of /proc
    Procfs,
}

impl From<SourceArg> for SourceChoice {
    fn from(source: SourceArg) -> Self {
        match source {
            SourceArg::Auto => SourceChoice::Auto,
            SourceArg::Bpf => SourceChoice::Bpf,
            SourceArg::Procfs => SourceChoice::Procfs,
        }
    }
}

/// Options of `rung diagnose`.
#[derive(Clone, Debug, Args)]
pub struct DiagnoseArgs {
    /// How long to look, such as 500ms, 5s or 2m; 0s takes a single picture [at most 1h]
    #[arg(long = "for", value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    pub window: Duration,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Only findings that involve this process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Only this failure mode (can be given several times); `rung ladder` lists them
    #[arg(long = "mode", value_name = "MODE", value_parser = names::mode)]
    pub modes: Vec<Mode>,
    /// Where to look
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    pub source: SourceArg,
}

/// Options of `rung why`.
#[derive(Clone, Debug, Args)]
pub struct WhyArgs {
    /// A process id, or the name of one or more processes
    #[arg(value_name = "PID|NAME")]
    pub target: String,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
    /// Where to look
    #[arg(long, value_enum, default_value_t, value_name = "SOURCE")]
    pub source: SourceArg,
}

/// Options of `rung explain`.
#[derive(Clone, Copy, Debug, Args)]
pub struct ExplainArgs {
    /// A rung (1 to 6, or rung-1 to rung-6) or a failure mode; `rung ladder` lists them
    #[arg(value_name = "RUNG|MODE", value_parser = names::topic)]
    pub topic: Topic,
    /// How to print
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

/// Options of `rung quiz`.
#[derive(Clone, Copy, Debug, Args)]
pub struct QuizArgs {
    /// Print the questions and ask nothing
    #[arg(long)]
    pub list: bool,
    /// Shuffle questions and choices in this way [default: another way each time on a terminal, else the book's order]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// How to print; json lists the questions with their answers and asks nothing
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub format: Format,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(std::iter::once("rung").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn lines_that_parse() {
        for line in [
            "",
            "diagnose",
            "--for 0s --format json --pid 1 --mode deadlock --mode zombie --source procfs",
            "diagnose --for 2m --format human --pid 4242 --mode pipe-stall --source bpf",
            "why 1",
            "why nginx --format json --source auto",
            "doctor --format json",
            "ladder",
            "explain 3",
            "explain rung-6 --format json",
            "explain deadlock",
            "quiz --list",
            "quiz --seed 7 --format json",
            "schema",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn lines_that_do_not() {
        for (line, part) in [
            ("--for 5", "write 5s for seconds"),
            ("--for 2h", "1h is the most"),
            ("--pid 0", "0 is not in"),
            ("--pid -1", "-1"),
            ("--pid x", "invalid digit"),
            ("--mode deadlok", "did you mean"),
            ("--format xml", "human"),
            ("--source ebpf", "bpf"),
            ("--for 1s why 1", "cannot be used with"),
            ("why", "PID|NAME"),
            ("explain", "RUNG|MODE"),
            ("explain 7", "1 to 6"),
            ("explain dedlock", "deadlock"),
            ("quiz --seed x", "invalid digit"),
            ("dignose", "diagnose"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.to_string().contains(part), "{line}: {error}");
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn options_at_the_top_level_are_those_of_diagnose() {
        let line = "--for 500ms --format json --pid 7 --mode orphan --source procfs";
        let top = parse(line).unwrap().diagnose;
        let Some(Command::Diagnose(below)) = parse(&format!("diagnose {line}")).unwrap().command else {
            panic!("diagnose is not a command");
        };
        assert_eq!(format!("{top:?}"), format!("{below:?}"));
        assert_eq!(top.window, Duration::from_millis(500));
        assert_eq!(top.modes, [Mode::Orphan]);
    }

    #[test]
    fn without_options_it_looks_for_five_seconds() {
        let args = parse("").unwrap().diagnose;
        assert_eq!(args.window, Duration::from_secs(5));
        assert_eq!(
            (args.format, args.source, args.pid),
            (Format::Human, SourceArg::Auto, None)
        );
    }
}
