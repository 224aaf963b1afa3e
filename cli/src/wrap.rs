//! Fits text into columns: measures it, breaks it, and makes hostile characters visible.
//!
//! Scope: pure functions on strings. Nothing here knows about colours or terminals.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The number of terminal columns that a text takes.
pub fn columns(text: &str) -> usize {
    text.width()
}

/// Whether a character could move the cursor, hide text or turn its direction.
fn is_treacherous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Writes characters that could play tricks on a terminal as `\u{..}`. Names arrive here escaped already; this is
/// the second line of defence, and the one for characters that are printable by the letter and not in spirit.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_treacherous) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_treacherous(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Breaks a text into lines: at most `first` columns for the first and `rest` for the others. Breaks at blanks;
/// a word that is longer than a line is cut. Runs of blanks stay as they are within a line.
pub fn wrap(text: &str, first: usize, rest: usize) -> Vec<String> {
    let (first, rest) = (first.max(1), rest.max(1));
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for (blanks, word) in words(text) {
        let room = if lines.is_empty() { first } else { rest };
        let gap = if line.is_empty() { 0 } else { blanks };
        let wide = columns(&word);
        if used + gap + wide <= room {
            line.extend(std::iter::repeat_n(' ', gap));
            line.push_str(&word);
            used += gap + wide;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        for c in word.chars() {
            let room = if lines.is_empty() { first } else { rest };
            let wide = c.width().unwrap_or(0);
            if used + wide > room && !line.is_empty() {
                lines.push(std::mem::take(&mut line));
                used = 0;
            }
            line.push(c);
            used += wide;
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Columns of a quoted command that is not broken.
const QUOTED: usize = 44;

/// The words of a text with the number of blanks before each. A short command in backquotes is one word, and so are
/// a number and its unit: nobody should have to put those together again.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut blanks = 0;
    let mut quoted = false;
    for word in text.split(' ') {
        if word.is_empty() {
            blanks += 1;
            continue;
        }
        let quotes = word.matches('`').count() % 2 == 1;
        match words.last_mut() {
            Some((_, last))
                if (quoted && columns(last) + columns(word) < QUOTED)
                    || (blanks == 1 && is_unit_of(last, word)) =>
            {
                last.extend(std::iter::repeat_n(' ', blanks));
                last.push_str(word);
                quoted ^= quotes;
            }
            _ => {
                words.push((blanks, word.to_owned()));
                quoted = quotes;
            }
        }
        blanks = 1;
    }
    words
}

fn is_unit_of(number: &str, word: &str) -> bool {
    let unit = word.trim_end_matches([',', ';', '.', ':', ')']);
    number.ends_with(|c: char| c.is_ascii_digit())
        && number.len() <= 12
        && matches!(unit, "ms" | "s" | "min" | "h" | "d")
}

/// Cuts a text to at most so many columns, with `...` at the end if something was cut.
pub fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if columns(text) <= most {
        return Cow::Borrowed(text);
    }
    let mut kept = String::new();
    let mut used = 3;
    for c in text.chars() {
        used += c.width().unwrap_or(0);
        if used > most {
            break;
        }
        kept.push(c);
    }
    kept.push_str("...");
    Cow::Owned(kept)
}

/// Breaks a shell command so that it can still be pasted: at blanks outside of quotes, with `\` at the end of the
/// line. A quoted part that is too long for a line stays whole, because a break would change what it means.
pub fn wrap_command(command: &str, width: usize) -> Vec<String> {
    const HANG: &str = "    ";
    let mut lines = Vec::new();
    let mut rest = command;
    let mut indent = "";
    while columns(rest) + indent.len() > width {
        let room = width.saturating_sub(indent.len() + 2);
        let breaks = blanks_outside_quotes(rest);
        let fitting = breaks.iter().rev().find(|&&at| columns(&rest[..at]) <= room);
        let Some(&at) = fitting.or(breaks.first()) else {
            break;
        };
        lines.push(format!("{indent}{} \\", rest[..at].trim_end()));
        rest = rest[at..].trim_start();
        indent = HANG;
    }
    lines.push(format!("{indent}{rest}"));
    lines
}

/// The byte positions of blanks at which a shell would split words.
fn blanks_outside_quotes(command: &str) -> Vec<usize> {
    let mut found = Vec::new();
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in command.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('"') | None, '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(c),
            (None, ' ') if at > 0 => found.push(at),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_at_blanks_and_cuts_long_words() {
        assert_eq!(wrap("one two three", 7, 7), ["one two", "three"]);
        assert_eq!(wrap("one two", 3, 5), ["one", "two"]);
        assert_eq!(wrap("abcdefgh ij", 4, 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("a   b", 10, 10), ["a   b"]);
        assert_eq!(wrap("", 10, 10), [""]);
        assert_eq!(
            wrap("run `rung --for 5s` now", 16, 16),
            ["run", "`rung --for 5s`", "now"]
        );
        assert_eq!(wrap("an odd ` is", 6, 6), ["an odd", "` is"]);
        assert_eq!(wrap("within 5 s", 8, 8), ["within", "5 s"]);
        assert_eq!(wrap("日本語", 4, 4), ["日本", "語"]);
    }

    #[test]
    fn shows_what_would_move_the_cursor() {
        assert_eq!(visible("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(visible("evil\u{202e}gpj"), "evil\\u{202e}gpj");
        assert_eq!(visible("naïve"), "naïve");
    }

    #[test]
    fn shortens_with_dots() {
        assert_eq!(shorten("abcdef", 6), "abcdef");
        assert_eq!(shorten("abcdefg", 6), "abc...");
    }

    #[test]
    fn commands_break_outside_of_quotes_only() {
        let lines = wrap_command("ps -eo pid,args | awk '{ print $1 $2 }' | sort", 24);
        assert_eq!(
            lines,
            [
                "ps -eo pid,args | awk \\",
                "    '{ print $1 $2 }' \\",
                "    | sort"
            ]
        );
        assert_eq!(wrap_command("ls", 24), ["ls"]);
    }
}
