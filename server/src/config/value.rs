//! Values by kind, with the texts of Go's flag package for malformed ones.

use std::time::Duration;

use super::duration;
use super::gates::Gates;
use super::table::Kind;
use super::url::Url;

/// A parsed value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of [`Kind::Bool`].
    Bool(bool),
    /// Of [`Kind::Text`] and the choices.
    Text(String),
    /// Of [`Kind::Int`].
    Int(i64),
    /// Of [`Kind::Uint`] and [`Kind::Uint32`].
    Uint(u64),
    /// Of [`Kind::Duration`].
    Duration(Duration),
    /// Of [`Kind::Urls`].
    Urls(Vec<Url>),
    /// Of [`Kind::Words`] and [`Kind::Origins`].
    Words(Vec<String>),
    /// Of [`Kind::Gates`].
    Gates(Gates),
}

/// Phases of the v2 store's deprecation that are still accepted (contract 5.2).
const V2_PHASES: [&str; 4] = [
    "write-only",
    "write-only-skip-check",
    "write-only-drop-data",
    "gone",
];

impl Value {
    /// Reads a value of this kind.
    ///
    /// # Errors
    /// With the reason as Go's flag package or etcd words it.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        Ok(match kind {
            Kind::Bool => Self::Bool(parse_bool(text).ok_or("parse error")?),
            Kind::Text => Self::Text(text.to_owned()),
            Kind::Int => Self::Int(parse_int(text)?),
            Kind::Uint => Self::Uint(parse_uint(text)?),
            Kind::Uint32 => {
                let failed =
                    |reason: &str| format!("strconv.ParseUint: parsing {text:?}: {reason}");
                let value = parse_uint(text).map_err(|error| match error {
                    PARSE_ERROR => failed("invalid syntax"),
                    other => failed(other),
                })?;
                Self::Uint(
                    u32::try_from(value)
                        .map_err(|_| failed(OUT_OF_RANGE))?
                        .into(),
                )
            }
            Kind::Duration => Self::Duration(duration::parse(text).map_err(|error| {
                if text.starts_with('-') {
                    error
                } else {
                    PARSE_ERROR.to_owned()
                }
            })?),
            Kind::Urls => Self::Urls(Url::parse_list(text)?),
            Kind::Words => Self::Words(words(text)),
            Kind::Origins => {
                let origins = words(text);
                for origin in origins.iter().filter(|origin| *origin != "*") {
                    Url::parse(origin)?;
                }
                Self::Words(origins)
            }
            Kind::Choice(choices) => {
                if !choices.contains(&text) {
                    return Err("invalid value".to_owned());
                }
                Self::Text(text.to_owned())
            }
            Kind::V2Deprecation => {
                if !V2_PHASES.contains(&text) {
                    return Err(format!("invalid value {text:?}"));
                }
                Self::Text(text.to_owned())
            }
            Kind::Gates => Self::Gates(Gates::parse(text)?),
        })
    }
}

/// The forms of a bool that Go accepts.
#[must_use]
pub(super) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

const PARSE_ERROR: &str = "parse error";
const OUT_OF_RANGE: &str = "value out of range";

/// A number as in Go source: `0x`, `0o`, `0b`, a leading 0 for octal, `_` between digits.
fn parse_uint(text: &str) -> Result<u64, &'static str> {
    let prefixed = [
        ("0x", 16),
        ("0X", 16),
        ("0o", 8),
        ("0O", 8),
        ("0b", 2),
        ("0B", 2),
    ]
    .into_iter()
    .find_map(|(prefix, radix)| text.strip_prefix(prefix).map(|digits| (digits, radix)));
    let (digits, radix) = match prefixed {
        Some(found) => found,
        None if text.len() > 1 && text.starts_with('0') => (text.get(1..).unwrap_or(""), 8),
        None => (text, 10),
    };
    let separated = radix != 10 || text.starts_with('0');
    if digits.contains('_') && (!separated || digits.ends_with('_') || digits.contains("__")) {
        return Err(PARSE_ERROR);
    }
    let digits = digits.replace('_', "");
    if digits.is_empty() || digits.starts_with('+') {
        return Err(PARSE_ERROR);
    }
    u64::from_str_radix(&digits, radix).map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => OUT_OF_RANGE,
        _ => PARSE_ERROR,
    })
}

fn parse_int(text: &str) -> Result<i64, &'static str> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let magnitude = i128::from(parse_uint(digits)?);
    let value = if negative { -magnitude } else { magnitude };
    i64::try_from(value).map_err(|_| OUT_OF_RANGE)
}

fn words(text: &str) -> Vec<String> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_go_reads_them() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("0x1F", 31),
            ("017", 15),
            ("0b101", 5),
            ("0o7", 7),
            ("0x1_0", 16),
        ] {
            assert_eq!(parse_uint(text), Ok(value), "{text}");
        }
        for text in ["", "x", "-1", "+1", "1_0", "0x", "09", "0x1_", " 1"] {
            assert_eq!(parse_uint(text), Err(PARSE_ERROR), "{text}");
        }
        assert_eq!(parse_uint("99999999999999999999"), Err(OUT_OF_RANGE));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_int("9223372036854775808"), Err(OUT_OF_RANGE));
        assert_eq!(parse_int("+5"), Ok(5));
    }

    #[test]
    fn origins_are_urls_or_a_star() {
        assert!(Value::parse(Kind::Origins, "*").is_ok());
        assert!(Value::parse(Kind::Origins, "http://a:1,https://b:2").is_ok());
        assert_eq!(
            Value::parse(Kind::Origins, "foo").unwrap_err(),
            "URL scheme must be http, https, unix, or unixs: foo"
        );
    }

    #[test]
    fn the_text_of_an_unsigned_32_bit_number() {
        assert_eq!(
            Value::parse(Kind::Uint32, "4294967296").unwrap_err(),
            "strconv.ParseUint: parsing \"4294967296\": value out of range"
        );
        assert_eq!(
            Value::parse(Kind::Uint32, "4294967295"),
            Ok(Value::Uint(u32::MAX.into()))
        );
    }
}
