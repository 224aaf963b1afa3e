//! What the output goes to: its width, and whether colours and characters beyond ASCII may be used.

use std::io::IsTerminal;

/// Emphasis of a piece of text. It never carries meaning that the words do not carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// A heading.
    Heading,
    /// Critical.
    Critical,
    /// A warning.
    Warning,
    /// Worth knowing.
    Notice,
    /// Something good.
    Good,
    /// A command to type.
    Command,
    /// Less important.
    Faint,
}

impl Style {
    /// The parameters of the escape sequence "Select Graphic Rendition" (ECMA-48).
    fn parameters(self) -> Option<&'static str> {
        match self {
            Style::Plain => None,
            Style::Heading => Some("1"),
            Style::Critical => Some("1;31"),
            Style::Warning => Some("1;33"),
            Style::Notice => Some("36"),
            Style::Good => Some("1;32"),
            Style::Command => Some("36"),
            Style::Faint => Some("2"),
        }
    }
}

/// Narrower terminals get lines of this length and wrap them themselves.
const NARROWEST: usize = 60;
/// Wider terminals get lines of this length, because longer ones are hard to read.
const WIDEST: usize = 120;
/// Where there is no terminal.
const USUAL: usize = 80;

/// What the output goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Columns to use.
    pub width: usize,
    /// Whether to use colours.
    pub colour: bool,
    /// Whether characters beyond ASCII can be shown.
    pub unicode: bool,
}

impl Screen {
    /// A file or pipe: 80 columns, no colours.
    pub fn plain() -> Self {
        Screen {
            width: USUAL,
            colour: false,
            unicode: true,
        }
    }

    /// The standard output of this process.
    pub fn of_stdout() -> Self {
        let stdout = std::io::stdout();
        let columns = rustix::termios::tcgetwinsize(&stdout)
            .ok()
            .map(|size| size.ws_col);
        Screen::detect(stdout.is_terminal(), columns, &|name| std::env::var(name).ok())
    }

    /// Decides by the facts: whether it is a terminal, how wide that says it is, and the environment
    /// (`NO_COLOR`, see no-color.org; `TERM`; the locale).
    pub fn detect(terminal: bool, columns: Option<u16>, variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| set(name));
        let charset = locale.unwrap_or_default().to_lowercase().replace('-', "");
        let dumb = set("TERM").is_none_or(|term| term == "dumb");
        let width = match columns {
            Some(columns) if terminal && columns > 0 => usize::from(columns).clamp(NARROWEST, WIDEST),
            _ => USUAL,
        };
        Screen {
            width,
            colour: terminal && !dumb && set("NO_COLOR").is_none(),
            // A file is read by somebody else, later, and UTF-8 is the safe guess there.
            unicode: !terminal || charset.contains("utf8"),
        }
    }

    /// The text with the escape sequences of a style around it, if colours are on.
    pub fn paint(&self, style: Style, text: &str) -> String {
        match style.parameters() {
            Some(parameters) if self.colour && !text.is_empty() => format!("\x1b[{parameters}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// What separates parts of a heading.
    pub fn dot(&self) -> &'static str {
        if self.unicode { "·" } else { "-" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(terminal: bool, columns: u16, variables: &[(&str, &str)]) -> Screen {
        Screen::detect(terminal, Some(columns), &|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn colours_need_a_terminal_that_wants_them() {
        let term = ("TERM", "xterm");
        assert!(detect(true, 80, &[term]).colour);
        assert!(!detect(false, 80, &[term]).colour);
        assert!(!detect(true, 80, &[term, ("NO_COLOR", "1")]).colour);
        assert!(detect(true, 80, &[term, ("NO_COLOR", "")]).colour);
        assert!(!detect(true, 80, &[("TERM", "dumb")]).colour);
        assert!(!detect(true, 80, &[]).colour);
    }

    #[test]
    fn the_width_is_the_terminals_within_reason() {
        assert_eq!(detect(true, 0, &[]).width, 80);
        assert_eq!(detect(true, 20, &[]).width, 60);
        assert_eq!(detect(true, 100, &[]).width, 100);
        assert_eq!(detect(true, 300, &[]).width, 120);
        assert_eq!(detect(false, 300, &[]).width, 80);
    }

    #[test]
    fn a_terminal_without_utf8_gets_ascii() {
        assert_eq!(detect(true, 80, &[("LANG", "C")]).dot(), "-");
        assert_eq!(
            detect(true, 80, &[("LANG", "C"), ("LC_ALL", "de_DE.UTF-8")]).dot(),
            "·"
        );
        assert_eq!(detect(false, 80, &[("LANG", "C")]).dot(), "·");
    }

    #[test]
    fn paints_only_if_colours_are_on() {
        assert_eq!(Screen::plain().paint(Style::Critical, "x"), "x");
        let screen = Screen {
            colour: true,
            ..Screen::plain()
        };
        assert_eq!(screen.paint(Style::Critical, "x"), "\x1b[1;31mx\x1b[0m");
        assert_eq!(screen.paint(Style::Plain, "x"), "x");
    }
}
