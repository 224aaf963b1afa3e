//! Which names say that their value is secret.

/// Words that make a name secret wherever they stand in it.
const WITHIN: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "secret",
    "apikey",
    "credential",
    "authorization",
    "privatekey",
    "accesskey",
    "connectionstring",
];
/// Words that make a name secret as a word of their own.
const WORDS: &[&str] = &[
    "pass",
    "passin",
    "passout",
    "pwd",
    "pw",
    "token",
    "tokens",
    "auth",
    "bearer",
    "cookie",
    "jwt",
    "sig",
    "signature",
    "creds",
    "pin",
    "otp",
    "dsn",
    "requirepass",
    "masterauth",
    "userpass",
    "authtoken",
    "accesstoken",
];
/// `key` is secret after one of these.
const KEYS: &[&str] = &[
    "api",
    "access",
    "private",
    "secret",
    "encryption",
    "master",
    "account",
    "shared",
    "signing",
    "auth",
    "license",
    "storage",
    "session",
    "app",
    "service",
    "admin",
    "root",
];
/// A name that ends or begins so tells where a secret is, or of what kind, not what it is.
const HARMLESS_ENDS: &[&str] = &[
    "file",
    "files",
    "path",
    "dir",
    "directory",
    "policy",
    "length",
    "len",
    "ttl",
    "type",
    "url",
    "uri",
    "endpoint",
    "method",
    "mode",
    "provider",
    "name",
    "id",
    "expiry",
    "expiration",
    "timeout",
    "store",
    "server",
    "host",
    "plugin",
    "plugins",
    "enabled",
    "stdin",
    "prompt",
    "limit",
    "count",
    "size",
    "hash",
    "algorithm",
    "level",
];
const HARMLESS_BEGINS: &[&str] = &[
    "no", "ask", "prompt", "public", "max", "min", "disable", "enable", "without", "skip",
];
/// Schemes of HTTP authentication: the secret follows them (RFC 9110, section 11).
const SCHEMES: &[&str] = &["bearer", "basic", "digest", "token", "negotiate"];

/// Whether the value of an option, variable, header or key of this name is to be redacted.
pub(super) fn is_secret(name: &str) -> bool {
    let words = words(name);
    let (Some(first), Some(last)) = (words.first(), words.last()) else {
        return false;
    };
    if HARMLESS_ENDS.contains(&last.as_str())
        || (words.len() > 1 && HARMLESS_BEGINS.contains(&first.as_str()))
    {
        return false;
    }
    let within = |word: &String| WITHIN.iter().any(|secret| word.contains(secret)) || word.ends_with("token");
    let key = |pair: &[String]| pair[1] == "key" && KEYS.contains(&pair[0].as_str());
    words
        .iter()
        .any(|word| within(word) || WORDS.contains(&word.as_str()))
        || words.windows(2).any(key)
}

/// Whether a word is a scheme that stands before the secret.
pub(super) fn is_scheme(word: &str) -> bool {
    SCHEMES.contains(&word.to_ascii_lowercase().as_str())
}

/// The words of `--db-password`, `DB_PASSWORD`, `dbPassword` and the like, in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut before_was_lower = false;
    for c in name.chars() {
        let boundary = c.is_uppercase() && before_was_lower;
        if (!c.is_alphanumeric() || boundary) && !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if c.is_alphanumeric() {
            word.extend(c.to_lowercase());
        }
        before_was_lower = c.is_lowercase();
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}
