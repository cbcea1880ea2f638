//! What was given, by name, before it becomes a [`Config`](super::Config).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::gates::Gates;
use super::table::{Alias, Flag, alias};
use super::url::Url;
use super::value::Value;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The config file.
    File,
}

/// Given values; what is not given has the table's default.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, (Value, Source)>,
    /// Old names that were used, in order.
    aliases: Vec<String>,
    by_new_name: BTreeSet<&'static str>,
    gate_aliases: Vec<(String, &'static str, bool)>,
}

impl Settings {
    /// Sets a value under its name or an old one; the last wins.
    ///
    /// # Errors
    /// With the reason if the value is malformed or the name unknown.
    pub fn set(&mut self, name: &str, text: &str, source: Source) -> Result<(), String> {
        let flag = match Flag::named(name) {
            Some(flag) => flag,
            None => match alias(name).ok_or("unknown setting")? {
                Alias::Gate(gate) => {
                    let on = super::value::parse_bool(text).ok_or("parse error")?;
                    self.gate_aliases.push((name.to_owned(), gate, on));
                    return Ok(());
                }
                Alias::Flag(flag) => {
                    let value = Value::parse(flag.kind, text)?;
                    self.aliases.push(name.to_owned());
                    self.given.insert(flag.name, (value, source));
                    return Ok(());
                }
            },
        };
        let value = Value::parse(flag.kind, text)?;
        self.given.insert(flag.name, (value, source));
        self.by_new_name.insert(flag.name);
        Ok(())
    }

    /// Whether a value was given, and where.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<Source> {
        self.given.get(name).map(|(_, source)| *source)
    }

    /// Names that were given.
    pub fn given(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.given.keys().copied()
    }

    /// Old names that were used, each with the new one as it is to be written.
    #[must_use]
    pub fn used_aliases(&self) -> Vec<(String, String)> {
        let flags = self.aliases.iter().map(|old| {
            (
                old.clone(),
                format!("--{}", old.trim_start_matches("experimental-")),
            )
        });
        let gates = self
            .gate_aliases
            .iter()
            .map(|(old, gate, on)| (old.clone(), format!("--feature-gates={gate}={on}")));
        flags.chain(gates).collect()
    }

    /// The value of a setting: as given, else the default.
    #[must_use]
    pub fn value(&self, name: &str) -> Value {
        if let Some((value, _)) = self.given.get(name) {
            return value.clone();
        }
        let flag = Flag::named(name);
        debug_assert!(flag.is_some(), "no such setting: {name}");
        flag.and_then(|flag| Value::parse(flag.kind, flag.default).ok())
            .unwrap_or(Value::Text(String::new()))
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        let value = self.value(name);
        debug_assert!(matches!(value, Value::Bool(_)), "{name} is no bool");
        matches!(value, Value::Bool(true))
    }

    pub(super) fn text(&self, name: &str) -> String {
        let value = self.value(name);
        debug_assert!(matches!(value, Value::Text(_)), "{name} is no text");
        if let Value::Text(text) = value {
            text
        } else {
            String::new()
        }
    }

    pub(super) fn int(&self, name: &str) -> i64 {
        let value = self.value(name);
        debug_assert!(matches!(value, Value::Int(_)), "{name} is no signed number");
        if let Value::Int(value) = value {
            value
        } else {
            0
        }
    }

    pub(super) fn uint(&self, name: &str) -> u64 {
        let value = self.value(name);
        debug_assert!(
            matches!(value, Value::Uint(_)),
            "{name} is no unsigned number"
        );
        if let Value::Uint(value) = value {
            value
        } else {
            0
        }
    }

    pub(super) fn duration(&self, name: &str) -> Duration {
        let value = self.value(name);
        debug_assert!(matches!(value, Value::Duration(_)), "{name} is no duration");
        if let Value::Duration(duration) = value {
            duration
        } else {
            Duration::ZERO
        }
    }

    pub(super) fn urls(&self, name: &str) -> Vec<Url> {
        let value = self.value(name);
        debug_assert!(matches!(value, Value::Urls(_)), "{name} is no list of URLs");
        if let Value::Urls(urls) = value {
            urls
        } else {
            Vec::new()
        }
    }

    pub(super) fn words(&self, name: &str) -> Vec<String> {
        let value = self.value(name);
        debug_assert!(matches!(value, Value::Words(_)), "{name} is no list");
        if let Value::Words(words) = value {
            words
        } else {
            Vec::new()
        }
    }

    /// The gates, old flags included.
    pub(super) fn gates(&self) -> Gates {
        let mut gates = match self.value("feature-gates") {
            Value::Gates(gates) => gates,
            _ => Gates::default(),
        };
        for (_, gate, on) in &self.gate_aliases {
            gates.set(gate, *on);
        }
        gates
    }

    /// Settings given under both their names.
    pub(super) fn conflicts(&self) -> Vec<String> {
        let given = match self.value("feature-gates") {
            Value::Gates(gates) => gates,
            _ => Gates::default(),
        };
        let flags = self.aliases.iter().filter_map(|old| match alias(old) {
            Some(Alias::Flag(flag)) if self.by_new_name.contains(flag.name) => Some(format!(
                "cannot set --{old} and --{0} at the same time, please use --{0} only",
                flag.name
            )),
            _ => None,
        });
        let clashing = self
            .gate_aliases
            .iter()
            .filter(|(_, gate, _)| given.is_given(gate));
        let gates = clashing.map(|(old, gate, on)| {
            format!(
                "cannot specify both flags: --{old}={on} and --feature-gates={gate}={} at the \
                 same time, please just use --feature-gates={gate}={on}",
                given.is_on(gate)
            )
        });
        flags.chain(gates).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_set_the_new_setting() {
        let mut settings = Settings::default();
        settings
            .set("experimental-corrupt-check-time", "5s", Source::Flag)
            .unwrap();
        settings
            .set("experimental-initial-corrupt-check", "true", Source::Flag)
            .unwrap();
        assert_eq!(
            settings.duration("corrupt-check-time"),
            Duration::from_secs(5)
        );
        assert!(settings.gates().is_on("InitialCorruptCheck"));
        assert_eq!(
            settings.used_aliases(),
            [
                (
                    "experimental-corrupt-check-time".to_owned(),
                    "--corrupt-check-time".to_owned()
                ),
                (
                    "experimental-initial-corrupt-check".to_owned(),
                    "--feature-gates=InitialCorruptCheck=true".to_owned()
                ),
            ]
        );
        assert!(settings.conflicts().is_empty());
    }

    #[test]
    fn both_names_at_once_are_refused() {
        for names in [
            ["max-learners", "corrupt-check-time"],
            ["experimental-corrupt-check-time", "corrupt-check-time"],
            ["corrupt-check-time", "experimental-corrupt-check-time"],
        ] {
            let mut settings = Settings::default();
            for name in names {
                settings.set(name, "0", Source::Flag).unwrap();
            }
            let refused = names.iter().any(|name| name.starts_with("experimental"));
            assert_eq!(
                settings.conflicts().len(),
                usize::from(refused),
                "{names:?}"
            );
        }
    }
}
