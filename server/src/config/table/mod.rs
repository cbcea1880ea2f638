//! The one definition of every setting: flag, environment variable and config-file key derive from
//! its name (contract 5.2).
//!
//! - 113 flags in the order of etcd's help text, then those that are registered but not listed.
//! - `aliases` are other spellings of a setting; they have no environment variable of their own.

mod aliases;
mod clustering;
mod member;
mod operations;
mod security;

pub use aliases::{Alias, alias};

/// A heading of the help text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The member itself.
    Member,
    /// Bootstrap, discovery, elections, compaction.
    Clustering,
    /// TLS and HTTP access.
    Security,
    /// Tokens and passwords.
    Auth,
    /// Profiling and monitoring.
    Monitoring,
    /// Logs.
    Logging,
    /// Distributed tracing.
    Tracing,
    /// Checks, compaction details.
    Features,
    /// What breaks guarantees.
    Unsafe,
    /// Registered, but not in the help text.
    Unlisted,
}

impl Group {
    /// In the order of the help text.
    const LISTED: [(Self, &'static str); 9] = [
        (Self::Member, "Member"),
        (Self::Clustering, "Clustering"),
        (Self::Security, "Security"),
        (Self::Auth, "Auth"),
        (Self::Monitoring, "Profiling and Monitoring"),
        (Self::Logging, "Logging"),
        (Self::Tracing, "Distributed tracing"),
        (Self::Features, "Features"),
        (Self::Unsafe, "Unsafe feature"),
    ];
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bare, `=true` or `=false`; never two words.
    Bool,
    /// Any text.
    Text,
    /// A signed 64-bit number.
    Int,
    /// An unsigned 64-bit number.
    Uint,
    /// An unsigned 32-bit number.
    Uint32,
    /// As Go writes durations; not negative.
    Duration,
    /// Comma-separated URLs with scheme http, https, unix or unixs.
    Urls,
    /// Comma-separated words.
    Words,
    /// `*`, or comma-separated URLs.
    Origins,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A phase of the v2 store's deprecation.
    V2Deprecation,
    /// Feature gates (contract 5.3).
    Gates,
}

/// What giving a value other than the default does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// What it says.
    Implemented,
    /// Nothing yet; ignoring it is harmless. One warning line says so.
    NotYet,
    /// Start fails: ignoring it would be unsafe or mislead.
    Refused,
    /// Nothing, for good: it concerns parts that Keelson does not have.
    Ignored,
    /// Nothing: it stands in the help alone, and 3.7.1 does not know it when it is given.
    HelpOnly,
}

/// One setting.
#[derive(Debug)]
pub struct Flag {
    /// The flag's name, and the config file's key.
    pub name: &'static str,
    /// Where the help text lists it.
    pub group: Group,
    /// What its value is.
    pub kind: Kind,
    /// Its default as it would be written; may be empty.
    pub default: &'static str,
    /// What it does.
    pub status: Status,
    /// etcd's description.
    pub help: &'static str,
}

const fn flag(
    group: Group,
    name: &'static str,
    kind: Kind,
    default: &'static str,
    status: Status,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        group,
        kind,
        default,
        status,
        help,
    }
}

const fn unlisted(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    flag(Group::Unlisted, name, kind, "", Status::Implemented, help)
}

/// Accepted so that old start scripts go on working (contract 5.1).
const fn obsolete(name: &'static str) -> Flag {
    flag(
        Group::Unlisted,
        name,
        Kind::Bool,
        "false",
        Status::Ignored,
        "Obsolete; has no effect.",
    )
}

const UNLISTED: &[Flag] = &[
    unlisted(
        "config-file",
        Kind::Text,
        "Path to the server configuration file.",
    ),
    flag(
        Group::Unlisted,
        "version",
        Kind::Bool,
        "false",
        Status::Implemented,
        "Print the version and exit.",
    ),
    obsolete("cluster-active-size"),
    obsolete("cluster-remove-delay"),
    obsolete("cluster-sync-interval"),
    obsolete("config"),
    obsolete("force"),
    obsolete("max-result-buffer"),
    obsolete("max-retry-attempts"),
    obsolete("peer-heartbeat-interval"),
    obsolete("peer-election-timeout"),
    obsolete("retry-interval"),
    obsolete("snapshot"),
    obsolete("v"),
    obsolete("vv"),
];

impl Flag {
    /// Every setting.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        let listed = [
            member::FLAGS,
            clustering::FLAGS,
            security::FLAGS,
            operations::FLAGS,
        ];
        listed.into_iter().flatten().chain(UNLISTED)
    }

    /// The setting of this name, if it can be given.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        let mut given = Self::all().filter(|flag| flag.status != Status::HelpOnly);
        given.find(|flag| flag.name == name)
    }

    /// Its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("ETCD_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// The synopsis: what follows an error on stderr.
pub const USAGE: &str = "Usage:

  etcd [flags]
    Start an etcd server.

  etcd --version
    Show the version of etcd.

  etcd -h | --help
    Show the help information about etcd.

  etcd --config-file
    Path to the server configuration file. Note that if a configuration file is provided, other \
command line flags and environment variables will be ignored.
    Durations in the file are integers in nanoseconds or texts such as \"10m\".
";

/// The list of flags: what `--help` prints on stdout.
#[must_use]
pub fn help() -> String {
    let mut text = String::new();
    for (group, heading) in Group::LISTED {
        text.push_str(&format!("\n{heading}:\n"));
        for flag in Flag::all().filter(|flag| flag.group == group) {
            let default = match flag.name {
                "data-dir" => "${name}.etcd",
                "initial-cluster" => "default=http://localhost:2380",
                _ => flag.default,
            };
            text.push_str(&format!(
                "  --{} '{default}'\n    {}\n",
                flag.name, flag.help
            ));
            if flag.kind == Kind::Gates {
                text.push_str(&super::gates::help());
            }
            match flag.status {
                Status::Implemented => {}
                Status::NotYet => text.push_str("    (Accepted; has no effect yet.)\n"),
                Status::Refused => text.push_str("    (Not supported yet: refused.)\n"),
                Status::Ignored => text.push_str("    (Accepted; has no effect.)\n"),
                Status::HelpOnly => text.push_str("    (Not accepted any more.)\n"),
            }
        }
    }
    text.push_str(
        "\nCAUTIOUS with unsafe flag! It may break the guarantees given by the consensus \
         protocol!\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Contract 5.2, group by group.
    #[test]
    fn all_113_flags_are_there_once() {
        let listed = Flag::all().filter(|flag| flag.group != Group::Unlisted);
        assert_eq!(listed.count(), 113);
        let counts = [29, 28, 25, 3, 3, 7, 5, 11, 2];
        for ((group, heading), count) in Group::LISTED.into_iter().zip(counts) {
            let found = Flag::all().filter(|flag| flag.group == group).count();
            assert_eq!(found, count, "{heading}");
        }
        let names: HashSet<_> = Flag::all().map(|flag| flag.name).collect();
        assert_eq!(names.len(), Flag::all().count());
    }

    #[test]
    fn defaults_are_valid_values() {
        for flag in Flag::all().filter(|flag| !flag.default.is_empty()) {
            let parsed = crate::config::value::Value::parse(flag.kind, flag.default);
            assert!(parsed.is_ok(), "{}: {parsed:?}", flag.name);
        }
    }

    #[test]
    fn help_names_every_listed_flag() {
        let help = help();
        for flag in Flag::all() {
            let listed = help.contains(&format!("\n  --{} '", flag.name));
            assert_eq!(listed, flag.group != Group::Unlisted, "{}", flag.name);
        }
        assert!(help.contains("AllAlpha=true|false (ALPHA - default=false)"));
    }
}
