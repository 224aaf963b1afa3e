//! Every text parses, is complete, fits the terminal, and refers only to what exists.

use std::collections::BTreeSet;

use super::*;

/// The widest command: 80 columns less an indentation of two.
const COMMAND_COLUMNS: usize = 78;
/// Drawings stay below this.
const DIAGRAM_COLUMNS: usize = 76;
/// The widest line of a file.
const FILE_COLUMNS: usize = 100;

fn modes_of(rung: Rung) -> BTreeSet<Mode> {
    Mode::ALL
        .iter()
        .copied()
        .filter(|mode| mode.rung() == rung)
        .collect()
}

/// Every text of the handbook, with a name for messages.
fn texts() -> Vec<(String, &'static str)> {
    let modes = Mode::ALL.iter().map(|&mode| (mode.to_string(), mode_text(mode)));
    let rungs = Rung::ALL.map(|rung| (format!("rung {}", rung.number()), rung_text(rung)));
    let others = [
        ("ladder", include_str!("../../handbook/ladder.toml")),
        ("quiz", include_str!("../../handbook/quiz.toml")),
        ("programs", include_str!("../../handbook/programs.toml")),
    ];
    let others = others.map(|(name, text)| (name.to_owned(), text));
    modes.chain(rungs).chain(others).collect()
}

#[track_caller]
fn assert_sentences(prose: &Prose, place: &str) {
    let text = prose.as_str();
    assert!(text.len() > 10, "{place}: {text:?} is too short");
    assert!(text.ends_with(['.', '?']), "{place}: {text:?} is no sentence");
}

#[track_caller]
fn assert_list(list: &[Prose], least: usize, place: &str) {
    assert!(
        list.len() >= least,
        "{place} has {} of {least} entries",
        list.len()
    );
    for prose in list {
        assert_sentences(prose, place);
    }
}

#[track_caller]
fn assert_diagram(diagram: &str, place: &str) {
    assert!(diagram.lines().count() > 3, "{place}: no drawing");
    assert!(diagram.is_ascii(), "{place}: the drawing is not ASCII");
    for line in diagram.lines() {
        assert!(line.len() < DIAGRAM_COLUMNS, "{place}: {line:?} is too wide");
    }
}

#[test]
fn lines_fit_and_have_no_tabs() {
    for (name, text) in texts() {
        assert!(text.ends_with('\n'), "{name}");
        assert!(!text.contains('\t'), "{name} has a tab");
        for line in text.lines() {
            assert!(line.chars().count() <= FILE_COLUMNS, "{name}: {line:?}");
            assert_eq!(line.trim_end(), line, "{name}: blanks at the end");
        }
    }
}

#[test]
fn every_mode_has_a_complete_page() {
    for &mode in Mode::ALL {
        let page = Handbook::mode(mode);
        assert_eq!(page.mode, mode, "the table maps {mode} to another page");
        assert_list(&page.meaning, 1, &format!("{mode}: meaning"));
        assert_list(&page.now, 2, &format!("{mode}: now"));
        assert_list(&page.for_good, 2, &format!("{mode}: for_good"));
        assert_list(&page.avoid, 1, &format!("{mode}: avoid"));
        assert!(page.confirm.len() >= 2, "{mode}: confirm");
        for confirm in &page.confirm {
            let command = &confirm.command;
            assert!(
                command.len() <= COMMAND_COLUMNS,
                "{mode}: {command:?} is too wide"
            );
            assert!(!command.contains(">&"), "{mode}: {command:?}");
            assert_sentences(&confirm.shows, &format!("{mode}: {command}"));
        }
        assert!(page.mistaken_for.len() >= 2, "{mode}: mistaken_for");
        for other in &page.mistaken_for {
            assert_ne!(other.name(), mode.id(), "{mode} is mistaken for itself");
            assert!(!other.name().is_empty(), "{mode}: mistaken for nothing");
            assert_sentences(other.tell_apart(), &format!("{mode}: mistaken_for"));
        }
    }
}

#[test]
fn every_rung_has_a_complete_page() {
    for rung in Rung::ALL {
        let page = Handbook::rung(rung);
        let place = format!("rung {}", rung.number());
        assert_eq!(page.rung, rung);
        assert_eq!(page.title.to_lowercase(), rung.title());
        for prose in [&page.adds, &page.model, &page.inherits] {
            assert_sentences(prose, &place);
        }
        assert_diagram(&page.diagram, &place);
        assert_list(&page.fixes, 3, &place);
        assert!(!page.primitives.is_empty() && !page.notes.is_empty() && !page.reading.is_empty());
        for primitive in &page.primitives {
            assert_sentences(&primitive.what, &place);
        }
        for failure in &page.failures {
            assert_sentences(&failure.text, &failure.name);
        }
        for note in &page.notes {
            assert_sentences(&note.text, &place);
        }
        for reading in &page.reading {
            assert!(!reading.title.is_empty(), "{place}");
            assert_sentences(&reading.why, &reading.title);
        }
    }
}

#[test]
fn the_failures_of_a_rung_are_its_modes_each_once() {
    for rung in Rung::ALL {
        let listed: Vec<Mode> = Handbook::rung(rung)
            .failures
            .into_iter()
            .flat_map(|failure| failure.modes)
            .collect();
        let unique: BTreeSet<Mode> = listed.iter().copied().collect();
        assert_eq!(
            listed.len(),
            unique.len(),
            "rung {} lists a mode twice",
            rung.number()
        );
        assert_eq!(unique, modes_of(rung));
    }
}

#[test]
fn the_ladder_has_every_rung_once() {
    let ladder = Handbook::ladder();
    let rungs: Vec<Rung> = ladder.steps.iter().map(|step| step.rung).collect();
    assert_eq!(rungs, Rung::ALL);
    assert_diagram(&ladder.diagram, "ladder");
    assert_list(&ladder.method, 3, "ladder: method");
    for prose in [
        &ladder.summary,
        &ladder.superset,
        &ladder.no_skipping,
        &ladder.diagnose_first,
        &ladder.predict,
    ] {
        assert_sentences(prose, "ladder");
    }
    for step in &ladder.steps {
        assert_sentences(&step.adds, "ladder: adds");
        assert_sentences(&step.breaks, "ladder: breaks");
    }
}

#[test]
fn each_question_has_one_right_choice_and_a_tempting_wrong_one() {
    let mut ids = BTreeSet::new();
    for question in Handbook::quiz() {
        let id = &question.id;
        assert!(ids.insert(id.clone()), "{id} is there twice");
        let rungs: BTreeSet<Rung> = question.choices.iter().map(|choice| choice.rung).collect();
        assert_eq!(
            rungs.len(),
            question.choices.len(),
            "{id}: two choices on one rung"
        );
        assert!(question.choices.len() >= 3, "{id}: too few choices");
        let right = question.choices.iter().filter(|choice| question.is_right(choice));
        assert_eq!(right.count(), 1, "{id}");
        assert_ne!(
            question.tempting.rung, question.rung,
            "{id}: the right one tempts"
        );
        assert!(rungs.contains(&question.tempting.rung), "{id}: no such choice");
        let primitives = Handbook::rung(question.rung).primitives;
        assert!(
            primitives
                .iter()
                .any(|primitive| primitive.name == question.primitive),
            "{id}: {} is no primitive of its rung",
            question.primitive
        );
        for prose in [
            &question.question,
            &question.answer,
            &question.need_not,
            &question.explanation,
            &question.tempting.why_wrong,
        ] {
            assert_sentences(prose, id);
        }
    }
}

#[test]
fn each_rung_is_asked_about_twice() {
    let quiz = Handbook::quiz();
    for rung in Rung::ALL {
        let count = quiz.iter().filter(|question| question.rung == rung).count();
        assert!(count >= 2, "rung {} has {count} questions", rung.number());
    }
}

#[test]
fn the_list_of_programs_is_what_the_commands_start() {
    let known = Handbook::programs();
    let pages: Vec<ModePage> = Mode::ALL.iter().map(|&mode| Handbook::mode(mode)).collect();
    let started: BTreeSet<&str> = pages.iter().flat_map(ModePage::commands).collect();
    let listed: BTreeSet<&str> = known.programs.keys().map(String::as_str).collect();
    assert_eq!(started, listed);
    for (name, program) in &known.programs {
        let (Origin::Debian(origin) | Origin::Elsewhere(origin)) = &program.from;
        assert!(!origin.is_empty(), "{name}");
        let outside = matches!(program.from, Origin::Elsewhere(_));
        assert!(
            !outside || program.optional,
            "{name} is not in Debian, so it must be optional"
        );
    }
}

#[test]
fn every_placeholder_occurs_in_a_command() {
    let pages: Vec<ModePage> = Mode::ALL.iter().map(|&mode| Handbook::mode(mode)).collect();
    let words: BTreeSet<&str> = pages
        .iter()
        .flat_map(|page| &page.confirm)
        .flat_map(|confirm| confirm.command.split(|c: char| !c.is_ascii_uppercase()))
        .collect();
    for (placeholder, meaning) in Handbook::programs().placeholders {
        assert!(
            words.contains(placeholder.as_str()),
            "{placeholder} is in no command"
        );
        assert!(!meaning.is_empty(), "{placeholder}");
    }
}

/// Opening `/proc/PID/fd/N` adds an end to a pipe; listing the directory or reading fdinfo does not.
#[test]
fn no_command_opens_a_descriptor_of_another_process() {
    for &mode in Mode::ALL {
        for confirm in Handbook::mode(mode).confirm {
            assert!(!confirm.command.contains("/fd/"), "{mode}: {}", confirm.command);
        }
    }
}

/// Commands that stop or slow their target say so.
#[test]
fn costly_commands_carry_a_warning() {
    for &mode in Mode::ALL {
        for confirm in Handbook::mode(mode).confirm {
            let words: &[&str] = match programs_of_first(&confirm.command) {
                "strace" => &["slow"],
                "gdb" => &["stops"],
                _ => continue,
            };
            for word in words {
                assert!(
                    confirm.shows.as_str().contains(word),
                    "{mode}: {}",
                    confirm.command
                );
            }
        }
    }
}

fn programs_of_first(command: &str) -> &str {
    programs::programs_of(command)
        .first()
        .copied()
        .unwrap_or_default()
}
