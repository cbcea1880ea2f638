//! Durations as Go reads and writes them: `300ms`, `1.5h`, `1h15m30.918s`.

use std::fmt;
use std::time::Duration;

const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a duration; negative ones are refused, as no setting has a meaning for them.
///
/// # Errors
/// With Go's text for a malformed duration.
pub fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    if text == "0" || text == "+0" || text == "-0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.starts_with('-') {
        return Err(format!("duration must not be negative: {text}"));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total_ns = 0_u64;
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_len);
        if number.is_empty() {
            return Err(invalid());
        }
        let unit_len = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {text:?}"));
        }
        let Some((_, unit_ns)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
        };
        let part_ns = part_nanoseconds(number, *unit_ns).ok_or_else(invalid)?;
        total_ns = total_ns.checked_add(part_ns).ok_or_else(invalid)?;
        rest = after;
    }
    if i64::try_from(total_ns).is_err() {
        return Err(invalid());
    }
    Ok(Duration::from_nanos(total_ns))
}

/// `number` units; digits beyond a nanosecond are dropped, as Go does.
fn part_nanoseconds(number: &str, unit_ns: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mut total_ns = match whole {
        "" => 0,
        _ => whole.parse::<u64>().ok()?.checked_mul(unit_ns)?,
    };
    let mut scale = u128::from(unit_ns);
    let mut fraction_ns = 0_u128;
    // Eighteen digits are finer than a nanosecond of an hour.
    let mut divisor = 1_u128;
    for digit in fraction.bytes().take(18) {
        divisor *= 10;
        fraction_ns = fraction_ns * 10 + u128::from(digit - b'0');
    }
    scale *= fraction_ns;
    total_ns = total_ns.checked_add(u64::try_from(scale / divisor).ok()?)?;
    Some(total_ns)
}

/// Writes a duration as Go does: `1m30s`, `1.5ms`, `0s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total_ns = self.0.as_nanos();
        if total_ns == 0 {
            return f.write_str("0s");
        }
        if total_ns < 1_000_000_000 {
            let (unit_ns, unit) = match total_ns {
                0..1_000 => (1, "ns"),
                1_000..1_000_000 => (1_000, "µs"),
                _ => (1_000_000, "ms"),
            };
            write_decimal(f, total_ns, unit_ns)?;
            return f.write_str(unit);
        }
        let minutes = total_ns / 60_000_000_000;
        if minutes >= 60 {
            write!(f, "{}h", minutes / 60)?;
        }
        if minutes > 0 {
            write!(f, "{}m", minutes % 60)?;
        }
        write_decimal(f, total_ns % 60_000_000_000, 1_000_000_000)?;
        f.write_str("s")
    }
}

/// `value / unit` without trailing zeros; `unit` is a power of ten.
fn write_decimal(f: &mut fmt::Formatter<'_>, value: u128, unit: u128) -> fmt::Result {
    write!(f, "{}", value / unit)?;
    let (mut fraction, mut digits) = (value % unit, unit.ilog10() as usize);
    if fraction == 0 {
        return Ok(());
    }
    while fraction % 10 == 0 {
        fraction /= 10;
        digits -= 1;
    }
    write!(f, ".{fraction:0digits$}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, ns) in [
            ("0", 0),
            ("5s", 5_000_000_000),
            ("1h2m3s", 3_723_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("+1us", 1_000),
            ("1µs2ns", 1_002),
            ("0.3333333333333333333h", 1_200_000_000_000 - 1),
        ] {
            let parsed = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(parsed, Duration::from_nanos(ns), "{text}");
        }
        for text in [
            "", "5", "-1s", "x", "1x", ".s", "1..5s", "1s5", "9999999h", " 1s", "1 s",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_as_go_does() {
        for (ns, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (1_500_000, "1.5ms"),
            (3_278_473, "3.278473ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (1_020_000_000, "1.02s"),
        ] {
            assert_eq!(GoDuration(Duration::from_nanos(ns)).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn written_durations_read_back(ns in 0..i64::MAX as u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse(&GoDuration(duration).to_string()), Ok(duration));
        }

        #[test]
        fn any_text_is_answered(text in "[-+]?[0-9.]{0,30}[a-zµ]{0,3}[0-9.]{0,5}[a-z]{0,3}") {
            let _ = parse(&text);
        }
    }
}
