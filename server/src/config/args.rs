//! Go's flag syntax (contract 5.1).

use super::load::LoadError;
use super::settings::{Settings, Source};
use super::table::{Alias, Flag, Kind, alias};

/// What the arguments ask for.
#[derive(Debug)]
pub(super) enum Parsed {
    /// `-h`.
    Help,
    /// Settings, and the first argument that is none.
    Settings {
        settings: Settings,
        left_over: Option<String>,
    },
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// [`LoadError::Usage`] at the first one that is malformed.
pub(super) fn parse(args: &[String]) -> Result<Parsed, LoadError> {
    let mut settings = Settings::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(named) = arg.strip_prefix('-').filter(|named| !named.is_empty()) else {
            return Ok(Parsed::Settings {
                settings,
                left_over: Some(arg.clone()),
            });
        };
        let named = match named.strip_prefix('-') {
            Some("") => {
                let left_over = rest.next().cloned();
                return Ok(Parsed::Settings {
                    settings,
                    left_over,
                });
            }
            Some(named) => named,
            None => named,
        };
        if named.starts_with(['-', '=']) {
            return Err(LoadError::Usage(format!("bad flag syntax: {arg}")));
        }
        let (name, value) = match named.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (named, None),
        };
        let Some(kind) = kind_of(name) else {
            if matches!(name, "h" | "help") {
                return Ok(Parsed::Help);
            }
            return Err(LoadError::Usage(format!(
                "flag provided but not defined: -{name}"
            )));
        };
        let value = match value {
            Some(value) => value,
            None if kind == Kind::Bool => "true",
            None => rest
                .next()
                .ok_or_else(|| LoadError::Usage(format!("flag needs an argument: -{name}")))?,
        };
        settings.set(name, value, Source::Flag).map_err(|reason| {
            LoadError::Usage(if kind == Kind::Bool {
                format!("invalid boolean value {value:?} for -{name}: {reason}")
            } else {
                format!("invalid value {value:?} for flag -{name}: {reason}")
            })
        })?;
    }
    Ok(Parsed::Settings {
        settings,
        left_over: None,
    })
}

fn kind_of(name: &str) -> Option<Kind> {
    if let Some(flag) = Flag::named(name) {
        return Some(flag.kind);
    }
    match alias(name)? {
        Alias::Flag(flag) => Some(flag.kind),
        Alias::Gate(_) => Some(Kind::Bool),
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::Value;
    use super::*;

    fn parsed(args: &[&str]) -> (Settings, Option<String>) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        match parse(&args).unwrap() {
            Parsed::Settings {
                settings,
                left_over,
            } => (settings, left_over),
            Parsed::Help => panic!("help"),
        }
    }

    fn failure(args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        match parse(&args) {
            Err(LoadError::Usage(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn forms_of_a_flag() {
        for args in [["-name", "a"], ["--name", "a"], ["-name=b", "--name=a"]] {
            let (settings, left_over) = parsed(&args);
            assert_eq!(settings.value("name"), Value::Text("a".to_owned()));
            assert_eq!(left_over, None);
        }
        let (settings, _) = parsed(&["--name=a=b"]);
        assert_eq!(settings.value("name"), Value::Text("a=b".to_owned()));
        let (settings, _) = parsed(&["--name", "-x"]);
        assert_eq!(settings.value("name"), Value::Text("-x".to_owned()));
    }

    #[test]
    fn a_bool_is_one_word() {
        let (settings, left_over) = parsed(&["--force-new-cluster", "false"]);
        assert_eq!(settings.value("force-new-cluster"), Value::Bool(true));
        assert_eq!(left_over.as_deref(), Some("false"));
        let (settings, _) = parsed(&["--pre-vote=f"]);
        assert_eq!(settings.value("pre-vote"), Value::Bool(false));
    }

    #[test]
    fn what_is_left_over() {
        assert_eq!(parsed(&["x", "--name=a"]).1.as_deref(), Some("x"));
        assert_eq!(parsed(&["-"]).1.as_deref(), Some("-"));
        assert_eq!(parsed(&["--", "--name=a"]).1.as_deref(), Some("--name=a"));
        assert_eq!(parsed(&["--"]).1, None);
    }

    #[test]
    fn help_stands_where_it_is_read() {
        for word in ["-h", "--help", "-help"] {
            assert!(
                matches!(parse(&[word.to_owned()]), Ok(Parsed::Help)),
                "{word}"
            );
        }
        assert_eq!(
            failure(&["--bogus", "-h"]),
            "flag provided but not defined: -bogus"
        );
    }

    /// As genuine etcd 3.7.1 prints them.
    #[test]
    fn texts_of_malformed_flags() {
        for (arg, text) in [
            (
                "--heartbeat-interval=abc",
                "invalid value \"abc\" for flag -heartbeat-interval: parse error",
            ),
            (
                "--force-new-cluster=maybe",
                "invalid boolean value \"maybe\" for -force-new-cluster: parse error",
            ),
            (
                "--grpc-keepalive-timeout=5",
                "invalid value \"5\" for flag -grpc-keepalive-timeout: parse error",
            ),
            (
                "--discovery=http://x",
                "flag provided but not defined: -discovery",
            ),
            (
                "--discovery-proxy=http://x",
                "flag provided but not defined: -discovery-proxy",
            ),
            ("---x", "bad flag syntax: ---x"),
            ("--=x", "bad flag syntax: --=x"),
            ("-name", "flag needs an argument: -name"),
            (
                "--initial-cluster-state=bad",
                "invalid value \"bad\" for flag -initial-cluster-state: invalid value",
            ),
            (
                "--v2-deprecation=bad",
                "invalid value \"bad\" for flag -v2-deprecation: invalid value \"bad\"",
            ),
            (
                "--quota-backend-bytes=99999999999999999999",
                "invalid value \"99999999999999999999\" for flag -quota-backend-bytes: value out of range",
            ),
            (
                "--snapshot-count=-1",
                "invalid value \"-1\" for flag -snapshot-count: parse error",
            ),
            (
                "--auto-tls=2",
                "invalid boolean value \"2\" for -auto-tls: parse error",
            ),
            (
                "--feature-gates=Foo",
                "invalid value \"Foo\" for flag -feature-gates: missing bool value for Foo",
            ),
        ] {
            assert_eq!(failure(&[arg]), text);
        }
    }
}
