//! From arguments, environment and file to a [`Config`].

use super::args::{self, Parsed};
use super::sections::Config;
use super::settings::Settings;
use super::table::{Flag, Status};
use super::validate::default_of;
use super::{environment, file};

/// What the program is asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Print the flags and exit with 0.
    Help,
    /// Print the version and exit with 0.
    Version,
    /// Serve.
    Serve(Box<Config>),
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A malformed flag: text and usage on stderr, exit code 2.
    #[error("{0}")]
    Usage(String),
    /// A setting is given by flag and by environment: exit code 1.
    #[error("{variable} is shadowed by its flag")]
    Conflict {
        /// The variable.
        variable: String,
    },
    /// Anything else, each problem by itself: exit code 1.
    #[error("{}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// Something to log once there is a logger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A variable was used.
    UsedVariable {
        /// Its name.
        variable: String,
        /// Its value; secrets are left out.
        value: String,
    },
    /// A variable looks like one of ours, but is not.
    UnrecognizedVariable {
        /// Its name; its value may be a secret of someone else.
        variable: String,
    },
    /// The file wins; flags and environment are ignored.
    ConfigFile {
        /// Its path.
        path: String,
    },
    /// An old name was used.
    RenamedFlag {
        /// As given.
        old: String,
        /// As it is to be given.
        new: String,
    },
    /// The flag will go.
    Deprecated {
        /// etcd's text.
        message: &'static str,
    },
    /// The flag has no effect yet.
    NotYet {
        /// Its name.
        flag: &'static str,
    },
    /// The flag has no effect, for good.
    NoEffect {
        /// Its name.
        flag: &'static str,
    },
    /// The member has the default name.
    DefaultName,
}

/// The outcome of [`load`].
#[derive(Debug)]
pub struct Loaded {
    /// To be logged first, whatever the result.
    pub notices: Vec<Notice>,
    /// What to do.
    pub result: Result<Invocation, LoadError>,
}

/// Resolves the arguments (without the program's name), the environment and the config file, which
/// `read_file` reads.
pub fn load(
    args: &[String],
    variables: &[(String, String)],
    read_file: impl FnOnce(&str) -> Result<String, String>,
) -> Loaded {
    let mut notices = Vec::new();
    let result = resolve(args, variables, read_file, &mut notices);
    Loaded { notices, result }
}

fn resolve(
    args: &[String],
    variables: &[(String, String)],
    read_file: impl FnOnce(&str) -> Result<String, String>,
    notices: &mut Vec<Notice>,
) -> Result<Invocation, LoadError> {
    let (mut settings, left_over) = match args::parse(args)? {
        Parsed::Help => return Ok(Invocation::Help),
        Parsed::Settings {
            settings,
            left_over,
        } => (settings, left_over),
    };
    if let Some(left_over) = left_over {
        return Err(LoadError::Invalid(vec![format!(
            "{left_over:?} is not a valid flag"
        )]));
    }
    if settings.bool("version") {
        return Ok(Invocation::Version);
    }
    let path = match settings.text("config-file") {
        given if given.is_empty() => variables
            .iter()
            .find(|(variable, _)| variable == "ETCD_CONFIG_FILE")
            .map_or_else(String::new, |(_, path)| path.clone()),
        given => given,
    };
    if path.is_empty() {
        environment::apply(&mut settings, variables, notices)?;
    } else {
        let read = read_file(&path).and_then(|text| file::parse(&text));
        settings = read.map_err(|problem| LoadError::Invalid(vec![problem]))?;
        notices.push(Notice::ConfigFile { path });
    }
    let config = Config::from_settings(&settings).map_err(LoadError::Invalid)?;
    notices.extend(notices_of(&settings));
    Ok(Invocation::Serve(Box::new(config)))
}

fn notices_of(settings: &Settings) -> Vec<Notice> {
    let mut notices: Vec<Notice> = settings
        .used_aliases()
        .into_iter()
        .map(|(old, new)| Notice::RenamedFlag { old, new })
        .collect();
    for flag in settings.given().filter_map(Flag::named) {
        match flag.name {
            "max-snapshots" => notices.push(Notice::Deprecated {
                message: "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
            }),
            "v2-deprecation" => notices.push(Notice::Deprecated {
                message: "--v2-deprecation is deprecated and scheduled for removal in v3.8. The \
                          default value is enforced, ignoring user input.",
            }),
            name if settings.value(name) == default_of(name) => {}
            _ => match flag.status {
                Status::NotYet => notices.push(Notice::NotYet { flag: flag.name }),
                Status::Ignored => notices.push(Notice::NoEffect { flag: flag.name }),
                Status::Implemented | Status::Refused | Status::HelpOnly => {}
            },
        }
    }
    if settings.text("name") == "default" {
        notices.push(Notice::DefaultName);
    }
    notices
}

impl Notice {
    /// Logs it.
    pub fn log(&self) {
        match self {
            Self::UsedVariable { variable, value } => tracing::info!(
                "variable-name" = %variable,
                "variable-value" = %value,
                "recognized and used environment variable"
            ),
            Self::UnrecognizedVariable { variable } => tracing::warn!(
                "environment-variable" = %variable,
                "unrecognized environment variable"
            ),
            Self::ConfigFile { path } => tracing::info!(
                path = %path,
                "loaded server configuration, other configuration command line flags and \
                 environment variables will be ignored if provided"
            ),
            Self::RenamedFlag { old, new } => tracing::warn!(
                flag = %old,
                replacement = %new,
                "flag has been renamed; its old name will go"
            ),
            Self::Deprecated { message } => tracing::warn!("{message}"),
            Self::NotYet { flag } => {
                tracing::warn!(flag = %flag, "flag is accepted but not supported yet; it has no effect");
            }
            Self::NoEffect { flag } => {
                tracing::warn!(flag = %flag, "flag is accepted for compatibility; it has no effect");
            }
            Self::DefaultName => tracing::warn!(
                name = "default",
                "it isn't recommended to use default name, please set a value for --name. Note \
                 that etcd might run into issue when multiple members have the same default name"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(args: &[&str], variables: &[(&str, &str)], file: &str) -> Loaded {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let variables: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        load(&args, &variables, |_| Ok(file.to_owned()))
    }

    fn config(loaded: Loaded) -> Config {
        match loaded.result {
            Ok(Invocation::Serve(config)) => *config,
            other => panic!("{other:?}"),
        }
    }

    /// Contract 5.5.
    #[test]
    fn what_kubeadm_passes_is_understood() {
        let loaded = loaded(
            &[
                "--advertise-client-urls=https://10.0.0.1:2379",
                "--cert-file=/pki/server.crt",
                "--client-cert-auth=true",
                "--data-dir=/var/lib/etcd",
                "--feature-gates=InitialCorruptCheck=true",
                "--initial-advertise-peer-urls=https://10.0.0.1:2380",
                "--initial-cluster=a=https://10.0.0.1:2380",
                "--key-file=/pki/server.key",
                "--listen-client-urls=https://127.0.0.1:2379,https://10.0.0.1:2379",
                "--listen-metrics-urls=http://127.0.0.1:2381",
                "--listen-peer-urls=https://10.0.0.1:2380",
                "--name=a",
                "--peer-cert-file=/pki/peer.crt",
                "--peer-client-cert-auth=true",
                "--peer-key-file=/pki/peer.key",
                "--peer-trusted-ca-file=/pki/ca.crt",
                "--snapshot-count=10000",
                "--trusted-ca-file=/pki/ca.crt",
                "--watch-progress-notify-interval=5s",
            ],
            &[("ETCD_UNRELATED", "1")],
            "",
        );
        let config = config(loaded);
        assert_eq!(config.member.listen_client_urls.len(), 2);
        assert!(config.gates.is_on("InitialCorruptCheck"));
        let problems = config.validate();
        assert!(
            problems
                .iter()
                .all(|problem| problem.0.starts_with("TLS is not supported yet"))
        );
        assert_eq!(problems.len(), 3);
    }

    #[test]
    fn a_file_wins_over_flags_and_environment() {
        let loaded = loaded(
            &["--config-file=x", "--name=flag", "--snapshot-count=5"],
            &[("ETCD_NAME", "variable")],
            "name: file",
        );
        assert_eq!(
            loaded.notices,
            [Notice::ConfigFile {
                path: "x".to_owned()
            }]
        );
        let config = config(loaded);
        assert_eq!(
            (config.member.name.as_str(), config.member.snapshot_count),
            ("file", 10_000)
        );
        let by_variable = super::tests::loaded(&[], &[("ETCD_CONFIG_FILE", "y")], "name: file");
        assert_eq!(super::tests::config(by_variable).member.name, "file");
    }

    #[test]
    fn one_notice_for_what_has_no_effect() {
        let args = [
            "--name=a",
            "--max-wals=3",
            "--enable-pprof",
            "--bcrypt-cost=10",
            "--vv",
        ];
        let notices = loaded(&args, &[], "").notices;
        assert_eq!(
            notices,
            [
                Notice::NotYet {
                    flag: "enable-pprof"
                },
                Notice::NoEffect { flag: "max-wals" },
                Notice::NoEffect { flag: "vv" },
            ]
        );
        let old = loaded(
            &["--name=a", "--experimental-corrupt-check-time=0"],
            &[],
            "",
        )
        .notices;
        assert!(matches!(&old[..], [Notice::RenamedFlag { .. }]), "{old:?}");
        assert_eq!(loaded(&[], &[], "").notices, [Notice::DefaultName]);
    }

    #[test]
    fn version_and_left_over_arguments() {
        assert!(matches!(
            loaded(&["--version"], &[], "").result,
            Ok(Invocation::Version)
        ));
        let left_over = loaded(&["--version", "x"], &[], "").result;
        assert!(matches!(left_over, Err(LoadError::Invalid(problems))
            if problems == ["\"x\" is not a valid flag"]));
    }
}
