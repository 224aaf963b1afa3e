//! `rung ladder`: the six rungs, their failure modes, and how to use them.

use rung_diagnosis::handbook::{Handbook, Ladder};
use rung_diagnosis::mode::Mode;
use serde_json::json;

use crate::args::Format;
use crate::console::{Console, Status};
use crate::page::Page;
use crate::screen::Screen;

/// Runs the command.
pub(crate) fn run(format: Format, console: &mut Console<'_>) -> anyhow::Result<Status> {
    let ladder = Handbook::ladder();
    match format {
        Format::Human => console.print(&render(&ladder, &console.screen.clone()))?,
        Format::Json => {
            let modes: Vec<_> = Mode::ALL
                .iter()
                .map(|mode| json!({"mode": mode, "rung": mode.rung(), "title": mode.title()}))
                .collect();
            console.print_json(&json!({"schema": "rung.ladder/1", "ladder": ladder, "modes": modes}))?;
        }
    }
    Ok(Status::Quiet)
}

fn render(ladder: &Ladder, screen: &Screen) -> String {
    let mut page = Page::new(screen);
    page.heading(&ladder.title);
    page.blank();
    page.paragraph(0, ladder.summary.as_str());
    page.blank();
    page.verbatim(0, &ladder.diagram);
    for prose in [&ladder.superset, &ladder.no_skipping, &ladder.diagnose_first] {
        page.blank();
        page.paragraph(0, prose.as_str());
    }
    page.heading("RUNGS AND THEIR FAILURE MODES");
    for step in &ladder.steps {
        let rung = step.rung;
        page.blank();
        page.term(2, &format!("{}  {}", rung.number(), rung.title()), "");
        page.paragraph(5, &format!("{} {}", step.adds, step.breaks));
        for mode in Mode::ALL.iter().filter(|mode| mode.rung() == rung) {
            page.item(5, &format!("{:<21}", mode.id()), mode.title());
        }
    }
    page.heading("HOW TO FIND THE RUNG OF A FAULT");
    page.numbered(2, &ladder.method);
    page.heading("HOW TO READ A DESIGN");
    page.paragraph(2, ladder.predict.as_str());
    page.blank();
    page.paragraph(
        0,
        "more: `rung explain RUNG` or `rung explain MODE`; test yourself: `rung quiz`",
    );
    page.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::columns;

    #[test]
    fn shows_every_mode_within_the_width() {
        for width in [60, 80, 120] {
            let text = render(
                &Handbook::ladder(),
                &Screen {
                    width,
                    ..Screen::plain()
                },
            );
            for mode in Mode::ALL {
                assert!(text.contains(mode.id()), "{mode}");
            }
            // Drawings are as wide as they are, below 76 columns.
            for line in text.lines() {
                assert!(columns(line) <= width.max(76), "{line}");
            }
        }
    }
}
