//! Command lines without their secrets.
//!
//! Whoever reads a report may not be allowed to know a password that somebody put on a command line. Redacted are: the
//! values of options, variables, headers and keys whose names say that they are secret, in whatever way they are written
//! (`--name value`, `--name=value`, `NAME=value`, `name: value`, `"name":"value"`), also inside scripts given to `sh -c`;
//! the passwords of URLs; the short options of well-known programs that take a password ([`programs`]); and tokens of
//! well-known shapes. When in doubt, a word too many is redacted.

mod names;
mod programs;

use self::programs::Form;

/// Stands for what was redacted.
const REDACTED: &str = "[redacted]";

/// Tokens that give themselves away by how they begin, with the least length of a real one.
const TOKEN_PREFIXES: &[(&str, usize)] = &[
    ("AKIA", 20),
    ("ASIA", 20),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghs_", 20),
    ("github_pat_", 20),
    ("glpat-", 20),
    ("xoxb-", 15),
    ("xoxp-", 15),
    ("sk_live_", 16),
    ("sk-", 24),
    ("eyJ", 30),
    ("-----BEGIN", 10),
];

/// One line for a command: the arguments joined by blanks, redacted, control characters escaped, at most `limit`
/// characters long (then it ends with `…`).
pub(crate) fn command_line(arguments: &[Vec<u8>], limit: usize) -> String {
    let texts: Vec<String> = arguments
        .iter()
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    let words: Vec<&str> = texts.iter().map(String::as_str).collect();
    let line = arguments_redacted(&words).join(" ");
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if out.chars().count() > limit {
        out = out.chars().take(limit.saturating_sub(1)).collect();
        out.push('…');
    }
    out
}

/// What the next word is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Ordinary,
    /// A secret as a whole.
    Secret,
    /// `user:password`, of which the second part is secret.
    Credentials,
}

/// The arguments, redacted. Each stays one, so that a secret with blanks in it is seen whole.
fn arguments_redacted(arguments: &[&str]) -> Vec<String> {
    let mut program = "";
    let mut next = Next::Ordinary;
    let mut out = Vec::with_capacity(arguments.len());
    for (position, argument) in arguments.iter().enumerate() {
        if position == 0 || is_wrapped(program, argument) {
            program = base_name(argument);
        }
        let (text, then) = if next == Next::Ordinary && argument.contains(char::is_whitespace) {
            (phrase(argument), Next::Ordinary)
        } else {
            word(program, argument, next)
        };
        out.push(text);
        next = then;
    }
    out
}

/// Whether `argument` is the program that another one runs (`sudo mysql`, `env A=b mysql`).
fn is_wrapped(program: &str, argument: &str) -> bool {
    programs::WRAPPERS.contains(&program) && !argument.starts_with('-') && !argument.contains('=')
}

/// A script, a header, a title set by the process itself: several words in one argument.
fn phrase(text: &str) -> String {
    // A header is one name and one value, whatever blanks the value has.
    if let Some((name, value)) = text.split_once(':')
        && !value.starts_with("//")
        && names::is_secret(name)
        && !name.contains(char::is_whitespace)
    {
        return format!("{name}: {REDACTED}");
    }
    let mut program = "";
    let mut next = Next::Ordinary;
    let mut out: Vec<String> = Vec::new();
    let mut rest = text;
    let mut begins_command = true;
    while let Some((token, after)) = token(rest) {
        rest = after;
        if begins_command || is_wrapped(program, token) {
            program = base_name(token);
        }
        begins_command = token.ends_with([';', '|', '&', '(']);
        let (redacted, then) = word(program, token, next);
        // `Authorization: Bearer abc` within a phrase: the scheme is not the secret.
        next = if redacted == REDACTED && names::is_scheme(token) {
            Next::Secret
        } else {
            then
        };
        out.push(redacted);
    }
    out.join(" ")
}

/// The next word of a phrase, with everything up to the quote that ends what it opens, and what is left.
fn token(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    if text.is_empty() {
        return None;
    }
    let mut quote = None;
    let mut end = text.len();
    for (at, c) in text.char_indices() {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_whitespace() => {
                end = at;
                break;
            }
            None => {}
        }
    }
    Some(text.split_at(end))
}

/// One word, given what the one before said of it, and what it says of the next.
fn word(program: &str, word: &str, is: Next) -> (String, Next) {
    match is {
        Next::Secret => return (REDACTED.to_owned(), Next::Ordinary),
        Next::Credentials => return (credentials_redacted(word), Next::Ordinary),
        Next::Ordinary => {}
    }
    for (names, option, form) in programs::OPTIONS {
        if !names.contains(&program) {
            continue;
        }
        match (form, word.strip_prefix(option)) {
            (Form::Attached, Some(value)) if !value.is_empty() => {
                return (format!("{option}{REDACTED}"), Next::Ordinary);
            }
            (Form::Separate, Some("")) => return (word.to_owned(), Next::Secret),
            (Form::Separate, Some(_)) if option.len() == 2 && !option.starts_with("--") => {
                return (format!("{option}{REDACTED}"), Next::Ordinary);
            }
            (Form::Credentials, Some("")) => return (word.to_owned(), Next::Credentials),
            (Form::Credentials, Some(value)) => {
                return (format!("{option}{}", credentials_redacted(value)), Next::Ordinary);
            }
            _ => {}
        }
    }
    if let Some((name, rest)) = assignment(word)
        && names::is_secret(name)
    {
        let (separator, value) = rest.split_at(1);
        if value.is_empty() {
            return (word.to_owned(), Next::Secret);
        }
        let quote = word
            .chars()
            .next()
            .filter(|first| "'\"".contains(*first) && value.ends_with(*first));
        let quote = quote.map(String::from).unwrap_or_default();
        return (format!("{name}{separator}{REDACTED}{quote}"), Next::Ordinary);
    }
    if word.len() > 2 && word.starts_with('-') && !word.contains(['=', ':', '/']) && names::is_secret(word) {
        return (word.to_owned(), Next::Secret);
    }
    (value_redacted(word), Next::Ordinary)
}

/// A word of the shape NAME=REST or NAME:REST (not of a URL), parted before the separator.
fn assignment(word: &str) -> Option<(&str, &str)> {
    let at = word.find(['=', ':'])?;
    let (name, rest) = word.split_at(at);
    (!rest.starts_with("://") && !name.is_empty() && !name.contains(['?', '&', '{', ',']))
        .then_some((name, rest))
}

/// What may hide inside an ordinary word: URLs, query strings, JSON, tokens.
fn value_redacted(word: &str) -> String {
    let mut text = url_redacted(word);
    text = pairs_redacted(&text);
    for (prefix, least) in TOKEN_PREFIXES {
        let Some(at) = text.find(prefix) else {
            continue;
        };
        let begins = text[..at]
            .chars()
            .next_back()
            .is_none_or(|c| !c.is_alphanumeric());
        let length = text[at..]
            .find(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
            .unwrap_or(text.len() - at);
        if begins && length >= *least {
            text.replace_range(at..at + length, REDACTED);
        }
    }
    text
}

/// The password of every `scheme://user:password@host`; a lone user name is shown unless it looks like a token, for many
/// services take one there.
fn url_redacted(word: &str) -> String {
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority = after.find(['/', '?', '#', '"', '\'', ',']).unwrap_or(after.len());
        // A password may hold a slash that should have been encoded: the last @ before a query decides, though it may
        // be one of a path.
        let user_info = after
            .rfind('@')
            .filter(|at| *at < authority || !after[..*at].contains('?'));
        match user_info {
            Some(end) if after[..end].contains(':') => {
                let user = after.split(':').next().unwrap_or_default();
                out.push_str(user);
                out.push(':');
                out.push_str(REDACTED);
                rest = &after[end..];
            }
            Some(end) if end >= 20 => {
                out.push_str(REDACTED);
                rest = &after[end..];
            }
            _ => rest = after,
        }
    }
    out.push_str(rest);
    out
}

/// The values of secret names in query strings (`?token=x&a=b`), lists (`user=a,password=b`) and JSON (`"token":"x"`).
fn pairs_redacted(word: &str) -> String {
    const ENDS: [char; 7] = ['&', ',', ';', '}', ')', '"', '\''];
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find(['=', ':']) {
        let (name, after) = rest.split_at(at);
        let begins = name
            .trim_end_matches(['"', '\''])
            .rfind(|c: char| !c.is_alphanumeric() && !"-_.".contains(c));
        let name_itself = &name[begins.map_or(0, |begins| {
            begins + name[begins..].chars().next().map_or(1, char::len_utf8)
        })..];
        out.push_str(name);
        let (separator, value) = after.split_at(1);
        out.push_str(separator);
        rest = value;
        if names::is_secret(name_itself) && !value.is_empty() && !value.starts_with(REDACTED) {
            let quote = value.chars().next().filter(|c| *c == '"' || *c == '\'');
            let (skip, end) = match quote {
                Some(quote) => (1, value[1..].find(quote).map_or(value.len(), |end| end + 1)),
                None => (0, value.find(ENDS).unwrap_or(value.len())),
            };
            out.push_str(&value[..skip]);
            out.push_str(REDACTED);
            rest = &value[end..];
        }
    }
    out.push_str(rest);
    out
}

/// `user:password` (also `user%password`) without the password.
fn credentials_redacted(text: &str) -> String {
    match text.find([':', '%']) {
        Some(at) => format!("{}{REDACTED}", &text[..=at]),
        None => text.to_owned(),
    }
}

fn base_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

#[cfg(test)]
mod tests;
