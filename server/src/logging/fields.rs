//! The fields of an event as JSON.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};

use super::line::{RAW_PREFIX, SEVERITY, write_string};

/// Collects message, severity and fields; kept by a thread, so that a line allocates nothing.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) severity: Option<&'static str>,
    /// The inside of an object, each field with a leading comma.
    pub(super) json: String,
    scratch: String,
}

impl Fields {
    pub(super) fn clear(&mut self) {
        self.message.clear();
        self.severity = None;
        self.json.clear();
    }

    /// A message without fields.
    pub(super) fn message(&mut self, message: &fmt::Arguments<'_>) {
        let _ = self.message.write_fmt(*message);
    }

    fn name(&mut self, name: &str) {
        self.json.push(',');
        write_string(&mut self.json, name);
        self.json.push(':');
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field.name());
        if value.is_finite() {
            let _ = write!(self.json, "{value}");
        } else {
            let _ = write!(self.json, "\"{value}\"");
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field.name());
        let _ = write!(self.json, "{value}");
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field.name());
        let _ = write!(self.json, "{value}");
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.name(field.name());
        let _ = write!(self.json, "{value}");
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.name(field.name());
        let _ = write!(self.json, "{value}");
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field.name());
        let _ = write!(self.json, "{value}");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message.push_str(value),
            SEVERITY => self.severity = Some(if value == "panic" { "panic" } else { "fatal" }),
            name => {
                self.name(name);
                write_string(&mut self.json, value);
            }
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
            return;
        }
        if let Some(name) = field.name().strip_prefix(RAW_PREFIX) {
            self.name(name);
            let _ = write!(self.json, "{value:?}");
            return;
        }
        let mut text = std::mem::take(&mut self.scratch);
        text.clear();
        let _ = write!(text, "{value:?}");
        self.name(field.name());
        write_string(&mut self.json, &text);
        self.scratch = text;
    }
}
