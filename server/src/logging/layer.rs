//! From a tracing event to a line.

use std::cell::RefCell;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

use super::fields::Fields;
use super::line::{Head, write_line};
use super::output::Outputs;
use super::sampling::Sampler;
use crate::config::{LogFormat, LogLevel, Logging};

/// Libraries whose lines are shown from WARN on, and from INFO on with log level debug.
const QUIET_TARGETS: [&str; 6] = ["h2", "hyper", "hyper_util", "sled", "tonic", "tower"];
/// openraft calls expected things errors, such as a leader that is cut off or a member that stops.
/// What matters of them we log ourselves; its own lines are shown with log level debug, as debug.
const RAFT_TARGET: &str = "openraft";

/// Writes events as etcd's log lines.
pub struct EtcdLayer {
    level: LogLevel,
    format: LogFormat,
    outputs: Outputs,
    sampler: Sampler,
}

thread_local! {
    static BUFFERS: RefCell<(Fields, String)> = RefCell::default();
}

/// Installs the logger of the process.
///
/// # Errors
/// When an output cannot be opened, or there is a logger already.
pub fn init(logging: &Logging) -> io::Result<()> {
    let layer = EtcdLayer::new(logging)?;
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)
}

impl EtcdLayer {
    /// Opens the outputs.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn new(logging: &Logging) -> io::Result<Self> {
        Ok(Self {
            level: logging.level,
            format: logging.format,
            outputs: Outputs::open(&logging.outputs)?,
            sampler: Sampler::new(),
        })
    }

    /// Whether events of this origin are written at all. Fatal lines pass every level, so error
    /// events are let through and looked at later.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            return false;
        }
        let level = severity(metadata.level());
        let debugging = self.level == LogLevel::Debug;
        match origin(metadata.target()) {
            Origin::Raft => debugging && level >= LogLevel::Info,
            Origin::Quiet => {
                let from = if debugging {
                    LogLevel::Info
                } else {
                    LogLevel::Warn
                };
                level >= from.max(self.level.min(LogLevel::Error))
            }
            Origin::Ours => level >= self.level.min(LogLevel::Error),
        }
    }
}

enum Origin {
    Ours,
    Quiet,
    Raft,
}

fn origin(target: &str) -> Origin {
    let library = target.split("::").next().unwrap_or(target);
    if library.starts_with(RAFT_TARGET) {
        Origin::Raft
    } else if QUIET_TARGETS.contains(&library) {
        Origin::Quiet
    } else {
        Origin::Ours
    }
}

fn severity(level: &Level) -> LogLevel {
    match *level {
        Level::ERROR => LogLevel::Error,
        Level::WARN => LogLevel::Warn,
        Level::INFO => LogLevel::Info,
        _ => LogLevel::Debug,
    }
}

fn name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Panic => "panic",
        LogLevel::Fatal => "fatal",
    }
}

impl<S: Subscriber> Layer<S> for EtcdLayer {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.wants(metadata) {
            Interest::always()
        } else {
            Interest::never()
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level {
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Panic | LogLevel::Fatal => LevelFilter::ERROR,
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        BUFFERS.with(|buffers| {
            // Taken already: something that is being logged logs. Its own line is dropped.
            let Ok(mut buffers) = buffers.try_borrow_mut() else {
                return;
            };
            let (fields, line) = &mut *buffers;
            fields.clear();
            line.clear();
            event.record(fields);
            let metadata = event.metadata();
            let level = match (fields.severity, origin(metadata.target())) {
                (Some("panic"), _) => LogLevel::Panic,
                (Some(_), _) => LogLevel::Fatal,
                (None, Origin::Raft) => LogLevel::Debug,
                (None, _) => severity(metadata.level()),
            };
            let time = SystemTime::now();
            let now_s = time
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs();
            let level_name = name(level);
            if level < self.level || !self.sampler.admits(level_name, &fields.message, now_s) {
                return;
            }
            let head = Head {
                level: level_name,
                time,
                file: metadata.file(),
                line: metadata.line(),
                message: &fields.message,
            };
            write_line(line, self.format, &head, &fields.json);
            self.outputs.write(line);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{go, list};
    use super::*;
    use crate::config::LogOutput;

    /// What is written while `log` runs.
    fn logged(level: LogLevel, log: impl FnOnce()) -> Vec<serde_json::Value> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let logging = Logging {
            level,
            format: LogFormat::Json,
            outputs: vec![LogOutput::File(path.clone())],
            warning_unary_request_duration: Duration::ZERO,
        };
        let subscriber = tracing_subscriber::registry().with(EtcdLayer::new(&logging).unwrap());
        tracing::subscriber::with_default(subscriber, log);
        let text = std::fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn fields_keep_their_types() {
        let error = io::Error::other("no \"luck\"");
        let lines = logged(LogLevel::Info, || {
            tracing::info!(
                "snapshot-count" = 10_u64,
                small = -1,
                ratio = 0.5,
                on = true,
                took = %go(Duration::from_micros(1500)),
                error = &error as &dyn std::error::Error,
                "json:urls" = %list(["a", "b"]),
                "hello {}",
                "there"
            );
        });
        let [line] = &lines[..] else {
            panic!("{lines:?}")
        };
        assert_eq!(line["level"], "info");
        assert_eq!(line["msg"], "hello there");
        assert_eq!(line["snapshot-count"], 10);
        assert_eq!(line["small"], -1);
        assert_eq!(line["ratio"], 0.5);
        assert_eq!(line["on"], true);
        assert_eq!(line["took"], "1.5ms");
        assert_eq!(line["error"], "no \"luck\"");
        assert_eq!(line["urls"], serde_json::json!(["a", "b"]));
        assert!(
            line["caller"]
                .as_str()
                .unwrap()
                .starts_with("logging/layer.rs:")
        );
        assert_eq!(
            line["ts"].as_str().unwrap().len(),
            "2026-01-02T15:04:05.000000Z".len()
        );
    }

    #[test]
    fn levels_and_origins() {
        let log = || {
            tracing::debug!("a");
            tracing::info!("b");
            tracing::error!("c");
            tracing::error!("log.severity" = "fatal", "d");
            tracing::info!(target: "h2::codec", "e");
            tracing::warn!(target: "h2::codec", "f");
            tracing::error!(target: "openraft::core", "g");
        };
        let seen = |level| -> Vec<String> {
            let lines = logged(level, log);
            lines
                .iter()
                .map(|line| format!("{}{}", line["level"].as_str().unwrap(), line["msg"]))
                .collect()
        };
        assert_eq!(
            seen(LogLevel::Info),
            ["info\"b\"", "error\"c\"", "fatal\"d\"", "warn\"f\""]
        );
        assert_eq!(seen(LogLevel::Fatal), ["fatal\"d\""]);
        assert_eq!(
            seen(LogLevel::Debug),
            [
                "debug\"a\"",
                "info\"b\"",
                "error\"c\"",
                "fatal\"d\"",
                "info\"e\"",
                "warn\"f\"",
                "debug\"g\""
            ]
        );
    }

    #[test]
    fn files_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        Outputs::open(&[LogOutput::File(path.clone())]).unwrap();
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
