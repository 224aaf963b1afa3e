//! `rung doctor`: what can be seen on this host, by which source, and what to do about the rest.

use rung_agent::engine::{Checkup, Engine};
use rung_diagnosis::observation::View;
use rung_diagnosis::report::Status as Seen;

use crate::args::Format;
use crate::console::{Console, Status};
use crate::page::Page;
use crate::report::gaps;
use crate::screen::{Screen, Style};

/// Runs the command.
pub(crate) fn run(format: Format, console: &mut Console<'_>) -> anyhow::Result<Status> {
    let checkup = Engine::checkup();
    match format {
        Format::Human => console.print(&render(&checkup, &console.screen.clone()))?,
        Format::Json => console.print_json(&checkup)?,
    }
    Ok(status(&checkup))
}

/// Not being able to see anything is the failure of this tool.
fn status(checkup: &Checkup) -> Status {
    if checkup.tiers.iter().any(|tier| tier.usable) {
        Status::Quiet
    } else {
        Status::Failed
    }
}

fn render(checkup: &Checkup, screen: &Screen) -> String {
    let mut page = Page::new(screen);
    write_verdict(&mut page, checkup);
    page.heading("SOURCES, best first");
    for tier in &checkup.tiers {
        let state = match (tier.chosen, tier.usable) {
            (true, _) => "in use",
            (false, true) => "can be used",
            (false, false) => "cannot be used",
        };
        page.item(2, "-", &format!("{}: {state}", tier.title));
        reasons(&mut page, tier.why.as_deref(), tier.remedy.as_deref());
    }
    write_signals(&mut page, checkup);
    write_modes(&mut page, checkup);
    page.finish()
}

fn write_verdict(page: &mut Page<'_>, checkup: &Checkup) {
    let seen = checkup.modes.iter().filter(|mode| is_seen(mode.status)).count();
    let source = checkup.tiers.iter().find(|tier| tier.chosen);
    let text = match source {
        Some(tier) => format!(
            "{seen} of {} failure modes can be seen, by {}.",
            checkup.modes.len(),
            tier.title
        ),
        None => "Nothing can be seen on this host.".to_owned(),
    };
    let style = if source.is_some() {
        Style::Heading
    } else {
        Style::Critical
    };
    page.styled(0, style, &text);
    if !checkup.host.name.is_empty() {
        page.paragraph(
            0,
            &format!("host {}, kernel {}", checkup.host.name, checkup.host.kernel),
        );
    }
}

fn is_seen(status: Seen) -> bool {
    match status {
        Seen::Observed | Seen::Clear | Seen::NeedsLonger => true,
        Seen::CouldNotObserve => false,
    }
}

fn reasons(page: &mut Page<'_>, why: Option<&str>, remedy: Option<&str>) {
    if let Some(why) = why {
        page.item(6, "why:", why);
    }
    if let Some(remedy) = remedy {
        page.item(6, "remedy:", remedy);
    }
}

fn write_signals(page: &mut Page<'_>, checkup: &Checkup) {
    if checkup.signals.is_empty() {
        return;
    }
    page.heading("SIGNALS of the source in use");
    for signal in &checkup.signals {
        let (state, reason) = match &signal.view {
            View::Full => ("seen", None),
            View::Partial { why, remedy } => ("seen in part", Some((why, remedy))),
            View::Blind { why, remedy } => ("not seen", Some((why, remedy))),
        };
        page.item(2, "-", &format!("{}: {state}", signal.signal));
        if let Some((why, remedy)) = reason {
            reasons(page, Some(why), Some(remedy));
        }
    }
}

fn write_modes(page: &mut Page<'_>, checkup: &Checkup) {
    if checkup.modes.is_empty() {
        return;
    }
    page.heading("FAILURE MODES");
    let whole: Vec<&str> = checkup
        .modes
        .iter()
        .filter(|mode| is_seen(mode.status) && mode.why.is_none())
        .map(|mode| mode.mode.id())
        .collect();
    if !whole.is_empty() {
        page.item(
            2,
            "-",
            &format!("can be seen ({}): {}", whole.len(), whole.join(", ")),
        );
    }
    let partly = gaps(&checkup.modes, |mode| is_seen(mode.status) && mode.why.is_some());
    let blind = gaps(&checkup.modes, |mode| !is_seen(mode.status));
    for (label, gaps) in [("seen in part", partly), ("cannot be seen", blind)] {
        for gap in gaps {
            page.item(
                2,
                "-",
                &format!("{label} ({}): {}", gap.modes.len(), gap.modes.join(", ")),
            );
            reasons(page, Some(&gap.why), gap.remedy.as_deref());
        }
    }
}

#[cfg(test)]
mod tests {
    use rung_agent::engine::{SignalView, Tier};
    use rung_diagnosis::mode::Mode;
    use rung_diagnosis::observation::Source;
    use rung_diagnosis::report::{Coverage, HostFacts};

    use super::*;
    use crate::wrap::columns;

    fn tier(source: Source, title: &'static str, usable: bool, chosen: bool) -> Tier {
        let reason = |text: &str| (!usable).then(|| text.to_owned());
        Tier {
            source,
            title,
            usable,
            chosen,
            why: reason("CAP_BPF is missing"),
            remedy: reason("run it as root"),
        }
    }

    fn mode(mode: Mode, status: Seen, why: Option<&str>) -> Coverage {
        Coverage {
            mode,
            status,
            why: why.map(str::to_owned),
            remedy: why.map(|_| "run it as root".to_owned()),
            needs_seconds: None,
        }
    }

    fn checkup() -> Checkup {
        Checkup {
            schema: "rung.doctor/1",
            host: HostFacts {
                name: "web-1".into(),
                kernel: "6.18.44".into(),
                boot_id: String::new(),
            },
            tiers: vec![
                tier(Source::BpfIter, "BPF iterators", false, false),
                tier(Source::Procfs, "/proc", true, true),
            ],
            signals: vec![
                SignalView {
                    signal: "threads and their states",
                    view: View::Full,
                },
                SignalView {
                    signal: "fill of pipes",
                    view: View::Blind {
                        why: "/proc does not say how full a pipe is".into(),
                        remedy: "run it as root, so that BPF can be used".into(),
                    },
                },
            ],
            modes: vec![
                mode(Mode::Zombie, Seen::Clear, None),
                mode(Mode::Deadlock, Seen::Clear, Some("lock owners are not seen")),
                mode(Mode::PipeStall, Seen::CouldNotObserve, Some("pipes are not seen")),
                mode(
                    Mode::UnixSocketStall,
                    Seen::CouldNotObserve,
                    Some("pipes are not seen"),
                ),
            ],
        }
    }

    #[test]
    fn says_what_is_seen_and_what_would_help() {
        let text = render(&checkup(), &Screen::plain());
        for part in [
            "2 of 4 failure modes can be seen, by /proc.",
            "- BPF iterators: cannot be used\n      why: CAP_BPF is missing\n      remedy: run it as root",
            "- /proc: in use",
            "- fill of pipes: not seen",
            "- can be seen (1): zombie",
            "- seen in part (1): deadlock",
            "- cannot be seen (2): pipe-stall, unix-socket-stall",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        assert!(text.lines().all(|line| columns(line) <= 80));
        assert_eq!(status(&checkup()), Status::Quiet);
    }

    #[test]
    fn seeing_nothing_is_a_failure() {
        let nothing = Checkup {
            tiers: vec![tier(Source::BpfIter, "BPF iterators", false, false)],
            ..checkup()
        };
        assert_eq!(status(&nothing), Status::Failed);
        assert!(render(&nothing, &Screen::plain()).starts_with("Nothing can be seen on this host.\n"));
    }
}
