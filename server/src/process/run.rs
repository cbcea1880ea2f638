//! From arguments to an exit code.

use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use super::data_dir::DataDir;
use super::signals::Signals;
use super::unfinished::refuse_unfinished;
use super::{announce, die, limits, notify, panic};
use crate::config::{
    self, Config, Invocation, LoadError, LogFormat, LogLevel, LogOutput, Logging, same_addresses,
    table,
};
use crate::logging;
use crate::metrics::Metrics;
use crate::server::Server;

const START_ERROR: u8 = 1;
const USAGE_ERROR: u8 = 2;

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let variables: Vec<(String, String)> = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    let loaded = config::load(&args, &variables, |path| {
        std::fs::read_to_string(path).map_err(|error| format!("open {path}: {}", reason(&error)))
    });
    let config = match loaded.result {
        Ok(Invocation::Help) => return print(&table::help()),
        Ok(Invocation::Version) => return print(&version()),
        Ok(Invocation::Serve(config)) => *config,
        Err(LoadError::Usage(text)) => {
            eprint!("{text}\n{}", table::USAGE);
            return ExitCode::from(USAGE_ERROR);
        }
        Err(error) => {
            init_logger(&default_logging());
            loaded.notices.iter().for_each(config::Notice::log);
            refuse(error);
            return ExitCode::from(START_ERROR);
        }
    };
    if !init_logger(&config.logging) {
        return ExitCode::from(START_ERROR);
    }
    loaded.notices.iter().for_each(config::Notice::log);
    panic::abort_on_panic();
    // Also for the files that libraries create: nobody else reads the data.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    match run(config) {
        Ok(Some(signal)) => die::by_signal(signal),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(
                "log.severity" = "fatal",
                error = %format!("{error:#}"),
                "failed to start the server"
            );
            ExitCode::from(START_ERROR)
        }
    }
}

/// Serves until a signal comes, and returns it; without one, until the member is removed from its
/// cluster.
fn run(mut config: Config) -> Result<Option<i32>> {
    let problems = config.validate();
    if !problems.is_empty() {
        return Err(refuse_all(problems));
    }
    let descriptors = limits::raise_descriptors().map_err(|limit| {
        anyhow!("file descriptor limit of etcd process is too low; please set higher: {limit}")
    })?;
    if let Some(host) = default_host() {
        config.advertise_default_host(host);
    }
    let wal_dir = config.member.wal_dir.as_deref();
    refuse_unfinished(&config.member.data_dir, wal_dir)?;
    let data_dir = DataDir::open(&config.member.data_dir)?;
    let initialized = data_dir.is_initialized();
    if !initialized {
        let problems = config.validate_bootstrap(same_addresses);
        if !problems.is_empty() {
            return Err(refuse_all(problems));
        }
    }
    announce::starting(&config, initialized);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("server")
        .build()
        .context("cannot start the runtime")?;
    let received = runtime.block_on(serve(&config, descriptors));
    // Requests that hang are not waited for: they have been answered, or nobody asks any more.
    runtime.shutdown_timeout(Duration::from_millis(100));
    drop(data_dir);
    received
}

async fn serve(config: &Config, descriptors: u64) -> Result<Option<i32>> {
    let signals = Signals::listen().context("cannot listen for signals")?;
    let server_config = config
        .to_server_config(descriptors)
        .map_err(|error| anyhow!(error))?;
    let metrics = Arc::new(Metrics::new(config));
    let ready = Arc::new(OnceLock::new());
    metrics.read_node(&ready);
    let page = Arc::clone(&metrics);
    let server = Server::start(
        server_config,
        metrics.observers(),
        Arc::new(move || page.page()),
        Arc::clone(&metrics.grpc),
        ready,
        &signals.stop,
    )
    .await?;
    if let Some(server) = server {
        notify::ready();
        tokio::select! {
            () = signals.stop.cancelled() => {}
            () = server.removed() => {}
        }
        server.stop().await;
    }
    Ok(signals.received())
}

fn refuse(error: LoadError) {
    match error {
        LoadError::Conflict { variable } => tracing::error!(
            "log.severity" = "fatal",
            "environment-variable" = %variable,
            "conflicting environment variable is shadowed by corresponding command-line flag \
             (either unset environment variable or disable flag))"
        ),
        LoadError::Usage(text) => tracing::error!(error = %text, "failed to verify flags"),
        LoadError::Invalid(problems) => {
            for problem in problems {
                tracing::error!(error = %problem, "failed to verify flags");
            }
        }
    }
}

fn refuse_all(problems: Vec<config::Problem>) -> anyhow::Error {
    for problem in &problems {
        tracing::error!(error = %problem, "failed to verify flags");
    }
    anyhow!("{} settings are not valid", problems.len())
}

/// Writes to stdout; that it may be closed is no failure of ours.
fn print(text: &str) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

fn version() -> String {
    format!(
        "etcd Version: {}\nGit SHA: {}\nGo Version: {}\nGo OS/Arch: {}/{}\n",
        keelson_proto::SERVER_VERSION,
        concat!("keelson-", env!("CARGO_PKG_VERSION")),
        super::COMPILER,
        std::env::consts::OS,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    )
}

fn default_logging() -> Logging {
    Logging {
        level: LogLevel::Info,
        format: LogFormat::Json,
        outputs: vec![LogOutput::Stderr],
        warning_unary_request_duration: Duration::ZERO,
    }
}

fn init_logger(logging: &Logging) -> bool {
    let initialized = logging::init(logging);
    if let Err(error) = &initialized {
        eprintln!("cannot set up logging: {error}");
    }
    initialized.is_ok()
}

/// A system error as other programs word it, without Rust's number.
fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// The address this machine would use towards the outside. Connecting a datagram socket sends
/// nothing; it only makes the system choose a route.
fn default_host() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let host = socket.local_addr().ok()?.ip();
    (!host.is_unspecified()).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_lines_of_version() {
        let version = version();
        let starts = [
            "etcd Version: 3.7.1",
            "Git SHA: ",
            "Go Version: ",
            "Go OS/Arch: linux/",
        ];
        assert_eq!(version.lines().count(), starts.len());
        for (line, start) in version.lines().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}
