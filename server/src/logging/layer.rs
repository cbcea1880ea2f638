//! From a tracing event to a line.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
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
pub struct EtcdLayer(Arc<Lines>);

/// The lines of the process: of tracing's events, and of what libraries tell the `log` crate.
struct Lines {
    level: LogLevel,
    format: LogFormat,
    outputs: Outputs,
    sampler: Sampler,
}

/// Where a line comes from.
struct Source<'a> {
    level: LogLevel,
    target: &'a str,
    file: Option<&'a str>,
    line: Option<u32>,
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
    let libraries = LibraryLog(Arc::clone(&layer.0));
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::set_global_default(subscriber).map_err(io::Error::other)?;
    log::set_max_level(libraries.level_max());
    log::set_boxed_logger(Box::new(libraries)).map_err(io::Error::other)
}

impl EtcdLayer {
    /// Opens the outputs.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn new(logging: &Logging) -> io::Result<Self> {
        Ok(Self(Arc::new(Lines {
            level: logging.level,
            format: logging.format,
            outputs: Outputs::open(&logging.outputs)?,
            sampler: Sampler::new(),
        })))
    }

    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.0.wants(severity(metadata.level()), metadata.target())
    }
}

impl Lines {
    /// Whether lines of this origin are written at all. Fatal lines pass every level, so errors are
    /// let through and looked at later.
    fn wants(&self, level: LogLevel, target: &str) -> bool {
        match origin(target) {
            Origin::Raft => self.level == LogLevel::Debug && level >= LogLevel::Info,
            Origin::Quiet => level >= self.quiet_from().max(self.level.min(LogLevel::Error)),
            Origin::Ours => level >= self.level.min(LogLevel::Error),
        }
    }

    fn quiet_from(&self) -> LogLevel {
        match self.level {
            LogLevel::Debug => LogLevel::Info,
            _ => LogLevel::Warn,
        }
    }

    /// Writes a line whose message and fields `record` fills in.
    fn write(&self, source: &Source<'_>, record: impl FnOnce(&mut Fields)) {
        BUFFERS.with(|buffers| {
            // Taken already: something that is being logged logs. Its own line is dropped.
            let Ok(mut buffers) = buffers.try_borrow_mut() else {
                return;
            };
            let (fields, line) = &mut *buffers;
            fields.clear();
            line.clear();
            record(fields);
            let level = match (fields.severity, origin(source.target)) {
                (Some("panic"), _) => LogLevel::Panic,
                (Some(_), _) => LogLevel::Fatal,
                (None, Origin::Raft) => LogLevel::Debug,
                (None, _) => source.level,
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
                file: source.file,
                line: source.line,
                message: &fields.message,
            };
            write_line(line, self.format, &head, &fields.json);
            self.outputs.write(line);
        });
    }
}

/// Takes what libraries tell the `log` crate: sled says there what it found wrong with its file.
struct LibraryLog(Arc<Lines>);

impl LibraryLog {
    /// What is asked for at all: the rest costs a library no more than a comparison.
    fn level_max(&self) -> log::LevelFilter {
        match self.0.quiet_from() {
            LogLevel::Info => log::LevelFilter::Info,
            _ => log::LevelFilter::Warn,
        }
    }
}

impl log::Log for LibraryLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        self.0
            .wants(library_severity(metadata.level()), metadata.target())
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let source = Source {
            level: library_severity(record.level()),
            target: record.target(),
            file: record.file(),
            line: record.line(),
        };
        self.0
            .write(&source, |fields| fields.message(record.args()));
    }

    fn flush(&self) {}
}

fn library_severity(level: log::Level) -> LogLevel {
    match level {
        log::Level::Error => LogLevel::Error,
        log::Level::Warn => LogLevel::Warn,
        log::Level::Info => LogLevel::Info,
        log::Level::Debug | log::Level::Trace => LogLevel::Debug,
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
        Some(match self.0.level {
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Panic | LogLevel::Fatal => LevelFilter::ERROR,
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let source = Source {
            level: severity(metadata.level()),
            target: metadata.target(),
            file: metadata.file(),
            line: metadata.line(),
        };
        self.0.write(&source, |fields| event.record(fields));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{go, list};
    use super::*;
    use crate::config::LogOutput;

    fn logging_to(level: LogLevel, path: std::path::PathBuf) -> Logging {
        Logging {
            level,
            format: LogFormat::Json,
            outputs: vec![LogOutput::File(path)],
            warning_unary_request_duration: Duration::ZERO,
        }
    }

    /// What is written while `log` runs.
    fn logged(level: LogLevel, log: impl FnOnce()) -> Vec<serde_json::Value> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let logging = logging_to(level, path.clone());
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
    fn what_libraries_tell_the_log_crate_is_seen() {
        use log::Log as _;
        let seen = |level| -> Vec<String> {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("log");
            let layer = EtcdLayer::new(&logging_to(level, path.clone())).unwrap();
            let libraries = LibraryLog(layer.0);
            for (level, target, message) in [
                (log::Level::Error, "sled::pagecache", "a \"torn\" page"),
                (log::Level::Warn, "sled::config", "b"),
                (log::Level::Info, "sled::context", "c"),
                (log::Level::Trace, "sled::tree", "d"),
            ] {
                let mut record = log::Record::builder();
                record
                    .level(level)
                    .target(target)
                    .file(Some("src/x.rs"))
                    .line(Some(7));
                libraries.log(&record.args(format_args!("{message}")).build());
            }
            let text = std::fs::read_to_string(path).unwrap();
            let line = |line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(line["caller"], "src/x.rs:7");
                format!(
                    "{} {}",
                    line["level"].as_str().unwrap(),
                    line["msg"].as_str().unwrap()
                )
            };
            text.lines().map(line).collect()
        };
        let torn = "error a \"torn\" page";
        assert_eq!(seen(LogLevel::Error), [torn]);
        assert_eq!(seen(LogLevel::Info), [torn, "warn b"]);
        assert_eq!(seen(LogLevel::Debug), [torn, "warn b", "info c"]);
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
