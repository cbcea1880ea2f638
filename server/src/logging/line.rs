//! One line, as JSON or in columns.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::time::write_timestamp;
use crate::config::LogFormat;

/// Field that replaces the level: `panic` or `fatal`.
pub const SEVERITY: &str = "log.severity";
/// A field whose name starts so holds JSON, written as it is.
pub const RAW_PREFIX: &str = "json:";

/// What a line begins with.
pub(super) struct Head<'a> {
    pub(super) level: &'a str,
    pub(super) time: SystemTime,
    pub(super) file: Option<&'a str>,
    pub(super) line: Option<u32>,
    pub(super) message: &'a str,
}

/// Writes a line with its newline; `fields` is the inside of a JSON object, with a leading comma.
pub(super) fn write_line(out: &mut String, format: LogFormat, head: &Head<'_>, fields: &str) {
    match format {
        LogFormat::Json => {
            out.push_str("{\"level\":\"");
            out.push_str(head.level);
            out.push_str("\",\"ts\":\"");
            write_timestamp(out, head.time);
            out.push_str("\",\"caller\":\"");
            write_caller(out, head);
            out.push_str("\",\"msg\":");
            write_string(out, head.message);
            out.push_str(fields);
            out.push_str("}\n");
        }
        LogFormat::Console => {
            write_timestamp(out, head.time);
            let _ = write!(out, "\t{}\t", head.level);
            write_caller(out, head);
            out.push('\t');
            // A message in columns stays on its line as well.
            out.extend(
                head.message
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c }),
            );
            if let Some(fields) = fields.strip_prefix(',') {
                let _ = write!(out, "\t{{{fields}}}");
            }
            out.push('\n');
        }
    }
}

/// `dir/file.rs:123`.
fn write_caller(out: &mut String, head: &Head<'_>) {
    let file = head.file.unwrap_or("unknown");
    let slashes = file.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
    let start = slashes
        .map(|(place, _)| place + 1)
        .rev()
        .nth(1)
        .unwrap_or(0);
    out.push_str(file.get(start..).unwrap_or(file));
    let _ = write!(out, ":{}", head.line.unwrap_or(0));
}

/// A text as a JSON string.
pub(super) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            // Some viewers break lines at the last two.
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A JSON list of texts, for a field whose name starts with [`RAW_PREFIX`].
#[must_use]
pub fn list<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut out = String::from("[");
    for item in items {
        if out.len() > 1 {
            out.push(',');
        }
        write_string(&mut out, &item.to_string());
    }
    out.push(']');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(message: &str) -> Head<'_> {
        Head {
            level: "info",
            time: SystemTime::UNIX_EPOCH,
            file: Some("server/src/node/propose.rs"),
            line: Some(7),
            message,
        }
    }

    #[test]
    fn shapes() {
        let mut out = String::new();
        write_line(&mut out, LogFormat::Json, &head("hello"), ",\"a\":1");
        assert_eq!(
            out,
            "{\"level\":\"info\",\"ts\":\"1970-01-01T00:00:00.000000Z\",\
             \"caller\":\"node/propose.rs:7\",\"msg\":\"hello\",\"a\":1}\n"
        );
        out.clear();
        write_line(&mut out, LogFormat::Console, &head("he\nllo"), ",\"a\":1");
        assert_eq!(
            out,
            "1970-01-01T00:00:00.000000Z\tinfo\tnode/propose.rs:7\the llo\t{\"a\":1}\n"
        );
        assert_eq!(list(["a", "b\""]), "[\"a\",\"b\\\"\"]");
        assert_eq!(list::<&str>([]), "[]");
    }

    proptest! {
        #[test]
        fn any_message_is_one_line_of_json(message in any::<String>()) {
            let mut out = String::new();
            write_line(&mut out, LogFormat::Json, &head(&message), "");
            prop_assert_eq!(out.matches('\n').count(), 1);
            let line: serde_json::Value = serde_json::from_str(&out).unwrap();
            prop_assert_eq!(line["msg"].as_str(), Some(message.as_str()));
        }
    }
}
