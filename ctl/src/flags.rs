//! Values of flags as Go's flag package reads them, with its texts (contract 8.1).

use std::num::{IntErrorKind, ParseIntError};
use std::time::Duration;

use clap::{Arg, ArgAction, Command};

/// Gives every flag of a command and its subcommands the habits of Go's flags: `--flag=false`, the last
/// of several counts, a value may begin with a hyphen.
pub(crate) fn like_go(command: Command) -> Command {
    command
        .args_override_self(true)
        .mut_args(arg_like_go)
        .mut_subcommands(like_go)
}

fn arg_like_go(arg: Arg) -> Arg {
    if arg.is_positional() {
        return arg;
    }
    match arg.get_action() {
        ArgAction::SetTrue => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .hide_default_value(true)
            .hide_possible_values(true)
            .value_parser(bool),
        ArgAction::Set | ArgAction::Append => arg.allow_hyphen_values(true),
        _ => arg,
    }
}

/// `strconv.ParseBool`.
pub(crate) fn bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(go_error("ParseBool", text, "invalid syntax")),
    }
}

/// `strconv.ParseInt` of a flag: with the prefix of another base, if it has one.
pub(crate) fn int64(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (digits, base) = base(digits);
    i64::from_str_radix(&format!("{sign}{digits}"), base)
        .map_err(|error| int_error("ParseInt", text, &error))
}

/// `strconv.ParseUint` of a flag.
pub(crate) fn uint64(text: &str) -> Result<u64, String> {
    let (digits, base) = base(text);
    u64::from_str_radix(digits, base).map_err(|error| int_error("ParseUint", text, &error))
}

fn base(digits: &str) -> (&str, u32) {
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let rest = digits.get(2..).unwrap_or_default();
    match lower.as_deref() {
        Some("0x") => (rest, 16),
        Some("0b") => (rest, 2),
        Some("0o") => (rest, 8),
        Some(other) if other.starts_with('0') => (digits.get(1..).unwrap_or_default(), 8),
        _ => (digits, 10),
    }
}

/// `strconv.ParseInt(text, 10, 64)` of an argument.
pub(crate) fn decimal(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|error| int_error("ParseInt", text, &error))
}

/// `strconv.ParseInt(text, 16, 64)` of an argument: a lease's id.
pub(crate) fn hex_i64(text: &str) -> Result<i64, String> {
    i64::from_str_radix(text, 16).map_err(|error| int_error("ParseInt", text, &error))
}

/// `strconv.ParseUint(text, 16, 64)` of an argument: a member's id.
pub(crate) fn hex_u64(text: &str) -> Result<u64, String> {
    let unsigned = !text.starts_with('+');
    match u64::from_str_radix(text, 16) {
        Ok(number) if unsigned => Ok(number),
        Ok(_) => Err(go_error("ParseUint", text, "invalid syntax")),
        Err(error) => Err(int_error("ParseUint", text, &error)),
    }
}

/// `time.ParseDuration`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    keelson::config::parse_duration(text).map_err(|_| format!("time: invalid duration {text:?}"))
}

fn int_error(function: &str, text: &str, error: &ParseIntError) -> String {
    let reason = match error.kind() {
        IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    go_error(function, text, reason)
}

fn go_error(function: &str, text: &str, reason: &str) -> String {
    format!("strconv.{function}: parsing {text:?}: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_does() {
        assert_eq!(int64("-0x10"), Ok(-16));
        assert_eq!(int64("010"), Ok(8));
        assert_eq!(int64("0"), Ok(0));
        assert_eq!(
            int64("x"),
            Err("strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())
        );
        assert_eq!(
            hex_i64("ffffffffffffffff"),
            Err("strconv.ParseInt: parsing \"ffffffffffffffff\": value out of range".to_owned())
        );
        assert_eq!(hex_u64("ffffffffffffffff"), Ok(u64::MAX));
        assert!(hex_u64("+1").is_err());
        assert_eq!(bool("T"), Ok(true));
        assert!(bool("maybe").is_err());
    }
}
