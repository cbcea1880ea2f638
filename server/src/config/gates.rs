//! Feature gates (contract 5.3).

/// How settled a feature is; part of the metric `etcd_server_feature_enabled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Off by default.
    Alpha,
    /// On by default.
    Beta,
}

impl Stage {
    /// As metrics and the help text show it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alpha => "ALPHA",
            Self::Beta => "BETA",
        }
    }
}

/// Every gate in alphabetical order; a beta gate is on by default, except `AllBeta`.
const GATES: [(&str, Stage); 11] = [
    ("AllAlpha", Stage::Alpha),
    ("AllBeta", Stage::Beta),
    ("CompactHashCheck", Stage::Alpha),
    ("FastLeaseKeepAlive", Stage::Beta),
    ("InitialCorruptCheck", Stage::Alpha),
    ("LeaseCheckpoint", Stage::Alpha),
    ("LeaseCheckpointPersist", Stage::Alpha),
    ("PriorityRequest", Stage::Alpha),
    ("SetMemberLocalAddr", Stage::Alpha),
    ("StopGRPCServiceOnDefrag", Stage::Alpha),
    ("TxnModeWriteWithSharedBuffer", Stage::Beta),
];

/// Which gates were set, and to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gates {
    given: std::collections::BTreeMap<&'static str, bool>,
}

impl Gates {
    /// Reads `A=true,B=false`.
    ///
    /// # Errors
    /// With etcd's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut gates = Self::default();
        for pair in text
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let (name, value) = match pair.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim())),
                None => (pair, None),
            };
            let Some(value) = value else {
                return Err(format!("missing bool value for {name}"));
            };
            let value = super::value::parse_bool(value).ok_or_else(|| {
                format!(
                    "invalid value of {name}={value}, err: strconv.ParseBool: parsing \
                     {value:?}: invalid syntax"
                )
            })?;
            if !gates.set(name, value) {
                return Err(format!("unrecognized feature gate: {name}"));
            }
        }
        Ok(gates)
    }

    /// Sets a gate; false if there is none of this name.
    pub fn set(&mut self, name: &str, on: bool) -> bool {
        let known = GATES.iter().find(|(known, _)| *known == name);
        if let Some((known, _)) = known {
            self.given.insert(known, on);
        }
        known.is_some()
    }

    /// Whether the gate was set by name.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Whether a gate is on: as given, else as its group was given, else by its stage.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        let given = |name: &str| self.given.get(name).copied();
        let Some((_, stage)) = GATES.iter().find(|(known, _)| *known == name) else {
            return false;
        };
        match (name, stage) {
            ("AllAlpha" | "AllBeta", _) => given(name).unwrap_or(false),
            (_, Stage::Alpha) => given(name).or_else(|| given("AllAlpha")).unwrap_or(false),
            (_, Stage::Beta) => given(name).or_else(|| given("AllBeta")).unwrap_or(true),
        }
    }

    /// Name, stage and value of every gate: what `etcd_server_feature_enabled` shows.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> + '_ {
        GATES
            .iter()
            .map(|(name, stage)| (*name, *stage, self.is_on(name)))
    }
}

impl std::fmt::Display for Gates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (name, on)) in self.given.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{name}={on}")?;
        }
        Ok(())
    }
}

/// The gates' part of the help text.
pub(super) fn help() -> String {
    let defaults = Gates::default();
    let line = |(name, stage, on): (&str, Stage, bool)| {
        format!(
            "    {name}=true|false ({} - default={on})\n",
            stage.as_str()
        )
    };
    defaults.all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_gate_beats_its_group() {
        let gates = Gates::parse("AllAlpha=true, LeaseCheckpoint=false,AllBeta=0").unwrap();
        assert!(gates.is_on("InitialCorruptCheck") && !gates.is_on("LeaseCheckpoint"));
        assert!(!gates.is_on("FastLeaseKeepAlive"));
        assert!(Gates::default().is_on("FastLeaseKeepAlive"));
        assert!(!Gates::default().is_on("AllBeta"));
        assert_eq!(
            gates.to_string(),
            "AllAlpha=true,AllBeta=false,LeaseCheckpoint=false"
        );
    }

    /// As genuine etcd 3.7.1 prints them.
    #[test]
    fn texts_of_malformed_gates() {
        for (text, error) in [
            ("Foo=true", "unrecognized feature gate: Foo"),
            ("Foo", "missing bool value for Foo"),
            (
                "InitialCorruptCheck=bad",
                "invalid value of InitialCorruptCheck=bad, err: strconv.ParseBool: parsing \
                 \"bad\": invalid syntax",
            ),
        ] {
            assert_eq!(Gates::parse(text).unwrap_err(), error);
        }
    }
}
