//! `rung quiz`: the self-test, asked on a terminal or answered from a file, one number a line.

use std::hash::{BuildHasher, Hasher, RandomState};

use rung_diagnosis::handbook::{Handbook, Question};
use serde_json::json;

use crate::args::{Format, QuizArgs};
use crate::console::{Console, Status};
use crate::page::Page;
use crate::screen::{Screen, Style};

/// Runs the command.
///
/// # Errors
///
/// If input cannot be read or output cannot be written.
pub fn run(args: &QuizArgs, console: &mut Console<'_>) -> anyhow::Result<Status> {
    let mut questions = Handbook::quiz();
    let asks = !args.list && args.format == Format::Human;
    let seed = match args.seed {
        None if asks && console.input_is_terminal => {
            Some(RandomState::new().build_hasher().finish() % 10_000)
        }
        given => given,
    };
    if let Some(seed) = seed {
        let mut dice = Dice(seed);
        dice.shuffle(&mut questions);
        for question in &mut questions {
            dice.shuffle(&mut question.choices);
        }
    }
    match args.format {
        Format::Json => console.print_json(&json!({"schema": "rung.quiz/1", "questions": questions}))?,
        Format::Human if args.list => {
            let mut page = Page::new(&console.screen);
            for (index, question) in questions.iter().enumerate() {
                write_question(&mut page, index + 1, questions.len(), question);
            }
            let text = page.finish();
            console.print(&text)?;
        }
        Format::Human => ask(&questions, seed, console)?,
    }
    Ok(Status::Quiet)
}

fn ask(questions: &[Question], seed: Option<u64>, console: &mut Console<'_>) -> anyhow::Result<()> {
    let screen = console.screen.clone();
    let (mut asked, mut right) = (0_usize, 0_usize);
    for (index, question) in questions.iter().enumerate() {
        if index > 0 {
            console.print("\n")?;
        }
        let mut page = Page::new(&screen);
        write_question(&mut page, index + 1, questions.len(), question);
        console.print(&page.finish())?;
        let Some(choice) = read_choice(question.choices.len(), console)? else {
            break;
        };
        asked += 1;
        let is_right = question
            .choices
            .get(choice)
            .is_some_and(|choice| question.is_right(choice));
        right += usize::from(is_right);
        console.print(&explain(question, choice, is_right, &screen))?;
    }
    let again = seed.map_or(String::new(), |seed| {
        format!("; the same again: `rung quiz --seed {seed}`")
    });
    console.print(&format!(
        "\n{right} of {asked} right, of {} questions{again}\n",
        questions.len()
    ))?;
    Ok(())
}

fn write_question(page: &mut Page<'_>, number: usize, count: usize, question: &Question) {
    page.heading(&format!("Question {number} of {count}"));
    page.paragraph(0, question.question.as_str());
    let texts: Vec<&str> = question
        .choices
        .iter()
        .map(|choice| choice.text.as_str())
        .collect();
    page.numbered(2, &texts);
}

/// The index of the choice; `None` at the end of the input or if the person has had enough.
fn read_choice(count: usize, console: &mut Console<'_>) -> anyhow::Result<Option<usize>> {
    loop {
        if console.input_is_terminal {
            console.print(&format!("Your answer, 1 to {count} (q to stop): "))?;
        }
        let mut line = String::new();
        if console.input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match line.trim() {
            "q" | "Q" => return Ok(None),
            "" => {}
            answer => match answer.parse::<usize>() {
                Ok(number) if (1..=count).contains(&number) => return Ok(Some(number - 1)),
                _ => console.print(&format!("{:?} is not a number from 1 to {count}\n", answer))?,
            },
        }
    }
}

fn explain(question: &Question, choice: usize, is_right: bool, screen: &Screen) -> String {
    let mut page = Page::new(screen);
    let correct = question
        .choices
        .iter()
        .position(|choice| question.is_right(choice));
    let number = correct.unwrap_or_default() + 1;
    if is_right {
        page.styled(0, Style::Good, "Right.");
    } else {
        page.styled(0, Style::Warning, &format!("No: it is {number}."));
        let chosen = question.choices.get(choice).map(|choice| choice.rung);
        if chosen == Some(question.tempting.rung) {
            page.paragraph(2, question.tempting.why_wrong.as_str());
        }
    }
    page.paragraph(2, question.answer.as_str());
    page.paragraph(2, question.explanation.as_str());
    page.paragraph(2, &format!("What you need not do: {}", question.need_not));
    page.paragraph(2, &format!("more: `rung explain {}`", question.rung.number()));
    page.finish()
}

/// A small generator of numbers (SplitMix64), so that a seed means the same order everywhere and for ever.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Fisher and Yates. The bias of the remainder does not matter for so few items.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.next() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_order() {
        let shuffled = |seed| {
            let mut items: Vec<u32> = (0..20).collect();
            Dice(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(7), shuffled(7));
        assert_ne!(shuffled(7), shuffled(8));
        let mut sorted = shuffled(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
