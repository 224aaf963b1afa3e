//! A page of text for people: headings, paragraphs, labelled rows, numbered lists and commands, fitted to a screen.
//!
//! Everything that came from the observed host passes through here, so it is here that it is made harmless.

use crate::screen::{Screen, Style};
use crate::wrap::{columns, visible, wrap, wrap_command};

/// The column at which the values of labelled rows start.
pub(crate) const VALUES: usize = 14;

/// A page being written.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    screen: &'a Screen,
    text: String,
}

impl<'a> Page<'a> {
    /// An empty page.
    pub(crate) fn new(screen: &'a Screen) -> Self {
        Page {
            screen,
            text: String::new(),
        }
    }

    /// The screen it is for.
    pub(crate) fn screen(&self) -> &'a Screen {
        self.screen
    }

    /// The text so far, with a line break at the end of every line.
    pub(crate) fn finish(mut self) -> String {
        if self.text.ends_with("\n\n") {
            self.text.pop();
        }
        self.text
    }

    /// An empty line, unless the page is empty or there is one already.
    pub(crate) fn blank(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// A heading on a line of its own, after an empty line.
    pub(crate) fn heading(&mut self, text: &str) {
        self.blank();
        self.hanging(0, "", 0, text, Style::Heading, Style::Heading);
    }

    /// Text on the left and, if it fits, on the right margin of the same line; otherwise below.
    pub(crate) fn margins(&mut self, left: (Style, &str), middle: &str, right: (Style, &str)) {
        let right_text = visible(right.1);
        let head = visible(left.1);
        let middle = visible(middle);
        let used = columns(&head) + 2 + columns(&middle);
        let gap = self.screen.width.saturating_sub(used + columns(&right_text));
        self.text.push_str(&self.screen.paint(left.0, &head));
        self.text.push_str("  ");
        self.text.push_str(&middle);
        if gap >= 2 {
            self.text.extend(std::iter::repeat_n(' ', gap));
        } else {
            self.text.push_str("\n  ");
        }
        self.text.push_str(&self.screen.paint(right.0, &right_text));
        self.text.push('\n');
    }

    /// A wrapped paragraph.
    pub(crate) fn paragraph(&mut self, indent: usize, text: &str) {
        self.hanging(indent, "", indent, text, Style::Plain, Style::Plain);
    }

    /// A wrapped paragraph in a style.
    pub(crate) fn styled(&mut self, indent: usize, style: Style, text: &str) {
        self.hanging(indent, "", indent, text, style, style);
    }

    /// A label and, in the column of values, its wrapped value.
    pub(crate) fn row(&mut self, label: &str, text: &str) {
        self.hanging(2, label, VALUES, text, Style::Faint, Style::Plain);
    }

    /// More of the value of the row above.
    pub(crate) fn more(&mut self, text: &str) {
        self.hanging(VALUES, "", VALUES, text, Style::Plain, Style::Plain);
    }

    /// A mark and a wrapped paragraph beside it.
    pub(crate) fn item(&mut self, indent: usize, mark: &str, text: &str) {
        let hang = indent + columns(mark) + 1;
        self.hanging(indent, mark, hang, text, Style::Plain, Style::Plain);
    }

    /// A term, and its wrapped explanation on the same line and, further in, below.
    pub(crate) fn term(&mut self, indent: usize, term: &str, text: &str) {
        // A term of three letters would stand too close to its explanation.
        let hang = indent + if columns(term) == 3 { 5 } else { 4 };
        self.hanging(indent, term, hang, text, Style::Heading, Style::Plain);
    }

    /// A numbered list.
    pub(crate) fn numbered<T: AsRef<str>>(&mut self, indent: usize, items: &[T]) {
        for (index, text) in items.iter().enumerate() {
            self.item(indent, &format!("{}.", index + 1), text.as_ref());
        }
    }

    /// A list with dashes.
    pub(crate) fn dashed<T: AsRef<str>>(&mut self, indent: usize, items: &[T]) {
        for text in items {
            self.item(indent, "-", text.as_ref());
        }
    }

    /// Lines as they are, such as a drawing.
    pub(crate) fn verbatim(&mut self, indent: usize, text: &str) {
        for line in text.trim_matches('\n').lines() {
            let line = visible(line);
            if !line.is_empty() {
                self.text.extend(std::iter::repeat_n(' ', indent));
                self.text.push_str(&line);
            }
            self.text.push('\n');
        }
    }

    /// A shell command after a `$`, which can be pasted even where it takes several lines.
    pub(crate) fn command(&mut self, indent: usize, command: &str) {
        let command = visible(command);
        let room = self.screen.width.saturating_sub(indent + 2);
        for (index, line) in wrap_command(&command, room).iter().enumerate() {
            self.text.extend(std::iter::repeat_n(' ', indent));
            self.text.push_str(if index == 0 { "$ " } else { "  " });
            self.text.push_str(&self.screen.paint(Style::Command, line));
            self.text.push('\n');
        }
    }

    /// A prefix, and a text that continues in column `hang`. A prefix that reaches beyond it is followed by two blanks.
    fn hanging(
        &mut self,
        indent: usize,
        prefix: &str,
        hang: usize,
        text: &str,
        of_prefix: Style,
        of_text: Style,
    ) {
        let prefix = visible(prefix);
        let text = visible(text);
        let end = indent + columns(&prefix);
        let start = match prefix.is_empty() {
            true => hang.max(indent),
            false if end < hang => hang,
            false => end + 2,
        };
        let width = self.screen.width;
        let lines = wrap(&text, width.saturating_sub(start), width.saturating_sub(hang));
        for (index, line) in lines.iter().enumerate() {
            if index == 0 {
                self.text.extend(std::iter::repeat_n(' ', indent));
                self.text.push_str(&self.screen.paint(of_prefix, &prefix));
                if !line.is_empty() {
                    self.text.extend(std::iter::repeat_n(' ', start - end));
                }
            } else {
                self.text.extend(std::iter::repeat_n(' ', hang));
            }
            self.text.push_str(&self.screen.paint(of_text, line));
            self.text.push('\n');
        }
    }
}
