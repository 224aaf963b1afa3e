//! Spans of time as people write and read them.

use std::time::Duration;

/// The longest window that `--for` takes.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// Reads `0s`, `500ms`, `5s`, `2m` or `1h`.
///
/// # Errors
///
/// A message with cause and remedy.
pub fn parse(given: &str) -> Result<Duration, String> {
    const HOW: &str = "write a number and a unit, as in 500ms, 5s or 2m";
    let digits = given.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = given.split_at(digits);
    if number.is_empty() {
        return Err(format!("{given:?} is not a duration; {HOW}"));
    }
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => {
            return Err(format!(
                "{given:?} has no unit; write {given}s for seconds, or {given}m for minutes"
            ));
        }
        _ => return Err(format!("{given:?} is not a duration; {HOW}")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(millis))
        .map(Duration::from_millis)
        .filter(|&duration| duration <= LONGEST)
        .ok_or_else(|| format!("{given:?} is longer than a look may take; 1h is the most"))
}

/// A span of time in words, such as `350 ms`, `5.2 s`, `12 min` or `1 h 3 min`.
pub fn words(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds.round() as u64;
    if seconds < 0.9995 {
        format!("{:.0} ms", seconds * 1000.0)
    } else if seconds < 9.95 {
        format!("{} s", decimal(seconds))
    } else if whole < 120 {
        format!("{whole} s")
    } else if whole < 3600 {
        format!("{} min", whole / 60)
    } else if whole < 86_400 {
        two(whole / 3600, "h", whole % 3600 / 60, "min")
    } else {
        two(whole / 86_400, "d", whole % 86_400 / 3600, "h")
    }
}

/// A span of time as an argument of `--for`, rounded up to seconds.
pub fn argument(seconds: f64) -> String {
    let whole = seconds.max(0.0).ceil() as u64;
    if whole >= 120 && whole.is_multiple_of(60) {
        format!("{}m", whole / 60)
    } else {
        format!("{whole}s")
    }
}

/// A time stamp of RFC 3339 in UTC as people read it, to the second; anything else as it is.
pub fn stamp(rfc3339: &str) -> String {
    match rfc3339.strip_suffix('Z').and_then(|utc| utc.split_once('T')) {
        Some((date, time)) => {
            let time = time.split_once('.').map_or(time, |(seconds, _)| seconds);
            format!("{date} {time} UTC")
        }
        None => rfc3339.to_owned(),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

/// One decimal, and none if it is zero.
fn decimal(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_with_units() {
        for (given, millis) in [
            ("0s", 0),
            ("500ms", 500),
            ("5s", 5000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse(given), Ok(Duration::from_millis(millis)), "{given}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_what_to_write() {
        for (given, part) in [
            ("5", "write 5s for seconds"),
            ("", "is not a duration"),
            ("s", "is not a duration"),
            ("-5s", "is not a duration"),
            ("5 s", "is not a duration"),
            ("1.5s", "is not a duration"),
            ("5d", "is not a duration"),
            ("61m", "1h is the most"),
            ("99999999999999999999s", "1h is the most"),
            ("9999999999999999999h", "1h is the most"),
        ] {
            let message = parse(given).unwrap_err();
            assert!(message.contains(part), "{given:?}: {message}");
        }
    }

    #[test]
    fn says_spans_in_words() {
        for (seconds, text) in [
            (0.0, "0 ms"),
            (0.35, "350 ms"),
            (0.9999, "1 s"),
            (5.0, "5 s"),
            (5.24, "5.2 s"),
            (9.96, "10 s"),
            (119.0, "119 s"),
            (720.4, "12 min"),
            (3600.2, "1 h"),
            (3780.0, "1 h 3 min"),
            (90_000.0, "1 d 1 h"),
            (-3.0, "0 ms"),
        ] {
            assert_eq!(words(seconds), text);
        }
    }

    #[test]
    fn says_arguments_and_stamps() {
        assert_eq!(argument(29.2), "30s");
        assert_eq!(argument(300.0), "5m");
        assert_eq!(stamp("2026-11-24T03:10:05Z"), "2026-11-24 03:10:05 UTC");
        assert_eq!(stamp("2026-11-24T03:10:05.123Z"), "2026-11-24 03:10:05 UTC");
        assert_eq!(stamp("then"), "then");
    }
}
