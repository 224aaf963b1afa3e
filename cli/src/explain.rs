//! `rung explain`: the handbook's page of a rung or a failure mode.

use std::collections::BTreeMap;

use rung_diagnosis::handbook::{Handbook, MistakenFor, ModePage, NoteKind, ReadingKind, RungPage};
use serde_json::json;

use crate::args::{ExplainArgs, Format};
use crate::console::{Console, Status};
use crate::names::Topic;
use crate::page::Page;
use crate::report::placeholders_in;
use crate::screen::Screen;

/// Runs the command.
///
/// # Errors
///
/// If the output cannot be written.
pub fn run(args: &ExplainArgs, console: &mut Console<'_>) -> anyhow::Result<Status> {
    match (args.format, args.topic) {
        (Format::Human, topic) => console.print(&render(topic, &console.screen.clone()))?,
        (Format::Json, Topic::Rung(rung)) => {
            console.print_json(&json!({"schema": "rung.page/1", "rung": Handbook::rung(rung)}))?;
        }
        (Format::Json, Topic::Mode(mode)) => {
            console.print_json(&json!({"schema": "rung.page/1", "mode": Handbook::mode(mode)}))?;
        }
    }
    Ok(Status::Quiet)
}

/// A page as text.
pub fn render(topic: Topic, screen: &Screen) -> String {
    let mut page = Page::new(screen);
    match topic {
        Topic::Rung(rung) => write_rung(&mut page, &Handbook::rung(rung)),
        Topic::Mode(mode) => write_mode(&mut page, &Handbook::mode(mode)),
    }
    page.finish()
}

fn write_mode(page: &mut Page<'_>, text: &ModePage) {
    let mode = text.mode;
    let dot = page.screen().dot();
    page.heading(&format!(
        "{mode}  rung {} {dot} {}",
        mode.rung().number(),
        mode.rung().title()
    ));
    page.paragraph(0, mode.title());
    page.heading("WHAT IT MEANS");
    for (index, prose) in text.meaning.iter().enumerate() {
        if index > 0 {
            page.blank();
        }
        page.paragraph(2, prose.as_str());
    }
    page.heading("CONFIRM BY HAND");
    let meanings = Handbook::programs().placeholders;
    let mut used = BTreeMap::new();
    for confirm in &text.confirm {
        page.command(2, &confirm.command);
        page.paragraph(6, confirm.shows.as_str());
        used.extend(placeholders_in(&confirm.command, &meanings));
    }
    if !used.is_empty() {
        page.blank();
        page.paragraph(2, "In these commands");
        for (placeholder, meaning) in used {
            page.item(4, &format!("{placeholder}:"), meaning);
        }
    }
    page.heading("WHAT TO DO NOW");
    page.numbered(2, &text.now);
    page.heading("WHAT TO CHANGE FOR GOOD");
    page.dashed(2, &text.for_good);
    page.heading("WHAT NOT TO DO");
    page.dashed(2, &text.avoid);
    page.heading("OFTEN MISTAKEN FOR");
    for other in &text.mistaken_for {
        let name = match other {
            MistakenFor::Mode { mode, .. } => format!("{mode} (rung {})", mode.rung().number()),
            MistakenFor::Other { other, .. } => other.as_str().to_owned(),
        };
        page.item(2, "-", &format!("{name}: {}", other.tell_apart()));
    }
    page.blank();
    page.paragraph(0, &format!("more: `rung explain {}`", mode.rung().number()));
}

fn write_rung(page: &mut Page<'_>, text: &RungPage) {
    let dot = page.screen().dot();
    page.heading(&format!("rung {} {dot} {}", text.rung.number(), text.title));
    page.paragraph(0, text.adds.as_str());
    page.blank();
    page.verbatim(0, &text.diagram);
    page.heading("THE MODEL TO HOLD IN MIND");
    page.paragraph(2, text.model.as_str());
    page.heading("WHAT IT ADDS");
    for primitive in &text.primitives {
        page.term(2, &primitive.name, primitive.what.as_str());
    }
    page.heading("HOW IT FAILS");
    for failure in &text.failures {
        page.term(2, &failure.name, failure.text.as_str());
        let ids: Vec<&str> = failure.modes.iter().map(|mode| mode.id()).collect();
        page.paragraph(6, &format!("modes: {}", ids.join(", ")));
    }
    page.heading("WHAT IT INHERITS");
    page.paragraph(2, text.inherits.as_str());
    page.heading("REMEDIES TO CHOOSE FROM");
    page.dashed(2, &text.fixes);
    page.heading("TAKE NOTE");
    for note in &text.notes {
        let kind = match note.kind {
            NoteKind::Warning => "warning",
            NoteKind::Caution => "caution",
            NoteKind::Tip => "tip",
        };
        page.term(2, kind, note.text.as_str());
    }
    page.heading("WHAT TO READ, WATCH OR DO NEXT");
    for reading in &text.reading {
        let kind = match reading.kind {
            ReadingKind::Book => "book",
            ReadingKind::Paper => "paper",
            ReadingKind::Talk => "talk",
            ReadingKind::Article => "article",
            ReadingKind::Exercise => "exercise",
        };
        let by = reading
            .by
            .as_ref()
            .map_or(String::new(), |by| format!(", by {by}"));
        page.term(2, &reading.title, &format!("({kind}{by}) {}", reading.why));
    }
    page.blank();
    page.paragraph(
        0,
        "more: `rung explain MODE`; all rungs: `rung ladder`; test yourself: `rung quiz`",
    );
}

#[cfg(test)]
mod tests {
    use rung_diagnosis::mode::{Mode, Rung};

    use super::*;
    use crate::wrap::columns;

    #[test]
    fn every_page_fits() {
        let modes = Mode::ALL.iter().map(|&mode| Topic::Mode(mode));
        let rungs = Rung::ALL.into_iter().map(Topic::Rung);
        for topic in modes.chain(rungs) {
            for width in [80, 120] {
                let text = render(
                    topic,
                    &Screen {
                        width,
                        ..Screen::plain()
                    },
                );
                assert!(text.lines().count() > 20, "{topic:?}");
                assert!(!text.contains('\x1b'));
                for line in text.lines() {
                    assert!(columns(line) <= width, "{topic:?}: {line}");
                    assert_eq!(line, line.trim_end(), "{topic:?}");
                }
            }
        }
    }
}
