//! `rung why`: what every thread of a process waits for, to the end of the chain, in words.

use std::collections::BTreeMap;

use rung_agent::engine::Engine;
use rung_diagnosis::finding::ChainLink;
use rung_diagnosis::why::{Prospect, ThreadWait};
use serde_json::json;

use crate::args::{Format, WhyArgs};
use crate::chain;
use crate::console::{Console, Status};
use crate::duration;
use crate::grouping::grouped;
use crate::page::Page;
use crate::report::{counted, list, who};
use crate::screen::{Screen, Style};
use crate::wrap::shorten;

/// Processes of one name shown; the others are counted.
const PROCESSES: usize = 50;
/// Kinds of waits of one process shown; the threads of the others are counted.
const GROUPS: usize = 40;
/// Threads named in a group; the others are counted.
const NAMED: usize = 5;
/// Columns of a command line.
const COMMAND: usize = 200;

/// Runs the command.
///
/// # Errors
///
/// If there is no such process, the host cannot be looked at, or the output cannot be written.
pub fn run(args: &WhyArgs, console: &mut Console<'_>) -> anyhow::Result<Status> {
    let waits = Engine::open(args.source.into())?.why(&args.target)?;
    match args.format {
        Format::Human => console.print(&render(&waits, &console.screen.clone()))?,
        Format::Json => console.print_json(&json!({"schema": "rung.why/1", "threads": waits}))?,
    }
    Ok(status(&waits))
}

/// A wait that nothing can end is alarming.
pub fn status(waits: &[ThreadWait]) -> Status {
    Status::alarming(waits.iter().any(|wait| wait.prospect == Prospect::Dead))
}

/// The answer as text: one paragraph for each process, one entry for threads that wait alike, the worst first.
pub fn render(waits: &[ThreadWait], screen: &Screen) -> String {
    let processes = grouped(waits, |wait| (wait.thread.pid, wait.thread.start_ticks));
    let mut page = Page::new(screen);
    if processes.is_empty() {
        page.paragraph(0, "No thread was seen: the process ended while it was looked at.");
    }
    for threads in processes.iter().take(PROCESSES) {
        page.blank();
        write_process(&mut page, threads);
    }
    if processes.len() > PROCESSES {
        page.blank();
        let more = processes.len() - PROCESSES;
        page.paragraph(0, &format!("and {more} more processes; `--format json` has all"));
    }
    page.finish()
}

/// What makes waits alike: everything but the waiting thread itself and its age.
type Likeness<'a> = (
    Prospect,
    &'a str,
    Vec<(Option<u32>, &'a str, Option<u32>, Option<&'a str>)>,
);

fn likeness(wait: &ThreadWait) -> Likeness<'_> {
    let links = wait.chain.iter().enumerate();
    let links = links.map(|(index, link)| {
        let thread = (index > 0).then_some(link.thread);
        (thread, link.waits.as_str(), link.on, link.ends.as_deref())
    });
    (wait.prospect, wait.state.as_str(), links.collect())
}

fn write_process(page: &mut Page<'_>, threads: &[&ThreadWait]) {
    let Some(first) = threads.first() else { return };
    let leader = threads
        .iter()
        .find(|wait| wait.thread.tid.is_none_or(|tid| tid == wait.thread.pid))
        .unwrap_or(first);
    let mut process = leader.thread.clone();
    process.tid = None;
    page.styled(0, Style::Heading, &who(&process));
    if let Some(command) = &process.command {
        page.paragraph(2, &shorten(command, COMMAND));
    }
    write_verdict(page, threads);
    let mut groups = grouped(threads.iter().copied(), |wait| likeness(wait));
    groups.sort_by_key(|alike| std::cmp::Reverse(alike.first().map(|wait| wait.prospect)));
    let names: BTreeMap<u32, &str> = threads
        .iter()
        .map(|wait| {
            (
                wait.thread.tid.unwrap_or(wait.thread.pid),
                wait.thread.comm.as_str(),
            )
        })
        .collect();
    for alike in groups.iter().take(GROUPS) {
        write_group(page, alike, &names);
    }
    if groups.len() > GROUPS {
        let more: usize = groups[GROUPS..].iter().map(Vec::len).sum();
        page.blank();
        page.paragraph(2, &format!("and {more} more threads; `--format json` has all"));
    }
}

fn write_verdict(page: &mut Page<'_>, threads: &[&ThreadWait]) {
    let count = |prospect| threads.iter().filter(|wait| wait.prospect == prospect).count();
    let all = counted(threads.len() as u64, "thread");
    let parts: Vec<String> = [
        (Prospect::Dead, "can never go on"),
        (
            Prospect::Doubtful,
            "can go on only after a signal from outside",
        ),
        (Prospect::HeldByStopped, "held by something stopped or traced"),
        (Prospect::Alive, "alive"),
    ]
    .into_iter()
    .map(|(prospect, words)| (count(prospect), words))
    .filter(|(count, _)| *count > 0)
    .map(|(count, words)| format!("{count} {words}"))
    .collect();
    let style = if count(Prospect::Dead) > 0 {
        Style::Critical
    } else {
        Style::Plain
    };
    page.styled(2, style, &format!("{all}: {}", parts.join(", ")));
}

fn write_group(page: &mut Page<'_>, alike: &[&ThreadWait], names: &BTreeMap<u32, &str>) {
    let Some(first) = alike.first() else { return };
    let id = |wait: &ThreadWait| wait.thread.tid.unwrap_or(wait.thread.pid);
    let age = ages(alike).map_or(String::new(), |age| format!(" for {age}"));
    page.blank();
    let start = if alike.len() == 1 {
        page.paragraph(
            2,
            &format!("thread {} {}, {}{age}", id(first), first.thread.comm, first.state),
        );
        None
    } else {
        let named: Vec<String> = alike
            .iter()
            .map(|wait| format!("{} {}", id(wait), wait.thread.comm))
            .collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let verb = if first.chain.is_empty() { "are" } else { "wait" };
        let count = alike.len();
        page.paragraph(
            2,
            &format!(
                "{count} threads {verb} alike, {}{age}: {}",
                first.state,
                list(&named, NAMED)
            ),
        );
        Some("each")
    };
    let width = page.screen().width.saturating_sub(4);
    for line in chain::lines(&first.chain, names, start, width) {
        page.paragraph(4, &line);
    }
    let (style, verdict) = verdict(first);
    page.styled(4, style, &verdict);
}

/// How long they have been off the CPU: one figure or the range.
fn ages(alike: &[&ThreadWait]) -> Option<String> {
    let mut known = alike.iter().filter_map(|wait| wait.age_seconds);
    let one = known.next()?;
    let (least, most) = known.fold((one, one), |(least, most), age| (least.min(age), most.max(age)));
    let (least, most) = (duration::words(least), duration::words(most));
    Some(if least == most {
        least
    } else {
        format!("{least} to {most}")
    })
}

fn verdict(wait: &ThreadWait) -> (Style, String) {
    match wait.prospect {
        Prospect::Dead => (Style::Critical, "nothing can end this wait".to_owned()),
        Prospect::Doubtful => (
            Style::Warning,
            "only a signal from outside could end this wait".to_owned(),
        ),
        Prospect::HeldByStopped => {
            let text = "it goes on only when what is stopped or traced is continued";
            (Style::Warning, text.to_owned())
        }
        Prospect::Alive => (Style::Good, alive(wait.chain.last())),
    }
}

fn alive(last: Option<&ChainLink>) -> String {
    match last.map(|link| (link.ends.as_deref(), link.on)) {
        None => "alive: it does not wait for anybody".to_owned(),
        Some((Some(end), _)) => format!("alive: ends with {end}"),
        Some((None, Some(on))) => format!("alive: thread {on} can end it"),
        Some((None, None)) => "alive: somebody can end it".to_owned(),
    }
}
