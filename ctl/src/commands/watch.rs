//! `watch`: events as they happen (contract 2.7, 8.2).
//!
//! One watch ends with an error when the server cancels it. With `-i` the watches come from lines of
//! standard input, and run beside each other.

use std::io::BufRead as _;
use std::sync::Arc;

use clap::Args;
use keelson_client::{Client, Watch};
use keelson_proto::etcdserverpb::{ResponseHeader, WatchCreateRequest, WatchResponse};
use keelson_proto::mvccpb::Event;
use serde::Serialize;
use tokio::process::Command;
use tokio::sync::{Mutex, mpsc, watch};

use super::key_range::KeyRange;
use super::words;
use crate::cli::Global;
use crate::connect::online;
use crate::exit::CommandError;
use crate::flags::int64;
use crate::output::{Output, Reply, Text, go, json};

/// Lines of standard input that wait to be carried out: they come from a person.
const LINES: usize = 16;

/// `watch`.
#[derive(Args, Clone, Debug)]
pub(crate) struct WatchFlags {
    /// The key, or the first of a range, and the key behind the last
    #[arg(value_name = "key")]
    keys: Vec<String>,
    /// A program to run for each event
    #[arg(last = true, value_name = "exec-command arg1 arg2 ...")]
    command: Vec<String>,
    /// interactive mode
    #[arg(short, long)]
    interactive: bool,
    /// Watch on a prefix if prefix is set
    #[arg(long)]
    prefix: bool,
    /// Revision to start watching
    #[arg(long, value_parser = int64, default_value = "0")]
    rev: i64,
    /// get the previous key-value pair before the event happens
    #[arg(long)]
    prev_kv: bool,
    /// get periodic watch progress notification from server
    #[arg(long)]
    progress_notify: bool,
}

/// Watches.
pub(super) fn run(global: &Global, flags: &WatchFlags) -> Result<(), CommandError> {
    if flags.interactive {
        return online(global, async |session| {
            interactive(&session.client, session.output).await
        });
    }
    let request = request(flags)?;
    online(global, async |session| {
        let watch = Watch::new(&session.client, request);
        let (_asks, asked) = watch::channel(0);
        follow(watch, session.output, &flags.command, asked).await?;
        let reason = "watch is canceled by the server";
        Err(CommandError::Interrupted(reason.to_owned()))
    })
}

/// The request that arguments, environment and flags mean.
fn request(flags: &WatchFlags) -> Result<WatchCreateRequest, CommandError> {
    let variable = |name| {
        std::env::var(name)
            .ok()
            .filter(|value: &String| !value.is_empty())
    };
    let keys = match (variable("ETCDCTL_WATCH_KEY"), flags.keys.is_empty()) {
        (Some(key), true) => {
            let end = variable("ETCDCTL_WATCH_RANGE_END");
            std::iter::once(key).chain(end).collect()
        }
        (Some(_), false) => {
            let reason = "bad number of arguments (found conflicting environment key)";
            return Err(CommandError::arguments(reason));
        }
        (None, true) => return Err(CommandError::arguments("bad number of arguments")),
        (None, false) => flags.keys.clone(),
    };
    if flags.prefix && keys.len() > 1 {
        let reason = "`range_end` and `--prefix` are mutually exclusive";
        return Err(CommandError::arguments(reason));
    }
    let range = KeyRange::of(&keys, flags.prefix, false)?;
    Ok(WatchCreateRequest {
        key: range.key.into(),
        range_end: range.range_end.into(),
        start_revision: flags.rev,
        progress_notify: flags.progress_notify,
        prev_kv: flags.prev_kv,
        ..Default::default()
    })
}

/// Shows what comes until the server cancels the watch. `asked` changes when progress is asked for.
async fn follow(
    mut watch: Watch,
    output: Output,
    command: &[String],
    mut asked: watch::Receiver<u32>,
) -> Result<(), CommandError> {
    loop {
        let response = tokio::select! {
            response = watch.next() => response,
            Ok(()) = asked.changed() => {
                watch.request_progress();
                continue;
            }
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => {
                eprintln!("watch was canceled ({error})");
                return Ok(());
            }
        };
        if let Some(reason) = cancelled(&response) {
            eprintln!("watch was canceled ({reason})");
            if response.compact_revision > 0 {
                output.show(&Events(response))?;
            }
            return Ok(());
        }
        if response.created {
            continue;
        }
        let revision = response.header.map_or(0, |header| header.revision);
        let events = response.events.clone();
        output.show(&Events(response))?;
        if !command.is_empty() {
            for event in &events {
                run_for(command, event, revision).await?;
            }
        }
    }
}

/// Why the server cancelled a watch.
fn cancelled(response: &WatchResponse) -> Option<String> {
    if !response.canceled {
        return None;
    }
    if response.compact_revision > 0 {
        return Some(keelson_proto::error::Error::Compacted.to_string());
    }
    if response.cancel_reason.is_empty() {
        return Some(keelson_proto::error::Error::FutureRev.to_string());
    }
    Some(response.cancel_reason.clone())
}

/// Runs a program for an event, which it finds in its environment.
async fn run_for(command: &[String], event: &Event, revision: i64) -> Result<(), CommandError> {
    let [program, args @ ..] = command else {
        return Ok(());
    };
    let kv = event.kv.clone().unwrap_or_default();
    let kind = event.r#type().as_str_name();
    let ran = Command::new(program)
        .args(args)
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env("ETCD_WATCH_EVENT_TYPE", go::quoted(kind.as_bytes()))
        .env("ETCD_WATCH_KEY", go::quoted(&kv.key))
        .env("ETCD_WATCH_VALUE", go::quoted(&kv.value))
        .status()
        .await;
    let Some(failure) = super::process::failure(program, ran) else {
        return Ok(());
    };
    let quoted: Vec<String> = command
        .iter()
        .map(|word| go::quoted(word.as_bytes()))
        .collect();
    eprintln!("command [{}] error ({})", quoted.join(" "), failure.text);
    Err(CommandError::Silent(1))
}

/// Watches that lines of standard input begin.
async fn interactive(client: &Client, output: Output) -> Result<(), CommandError> {
    let (lines, mut read) = mpsc::channel(LINES);
    std::thread::spawn(move || read_lines(&lines));
    let (asks, asked) = watch::channel(0);
    let failure = Arc::new(Mutex::new(None));
    let (failed, mut has_failed) = mpsc::channel::<()>(1);
    loop {
        let line = tokio::select! {
            line = read.recv() => line,
            Some(()) = has_failed.recv() => {
                let failure = failure.lock().await.take();
                return Err(failure.unwrap_or(CommandError::Silent(1)));
            }
        };
        let Some(line) = line else {
            let reason = "error reading watch request line: EOF";
            return Err(CommandError::InvalidInput(reason.to_owned()));
        };
        let Some(flags) = understand(line.trim())? else {
            if line.trim() == "progress" {
                asks.send_modify(|asks| *asks += 1);
            }
            continue;
        };
        let request = match request(&flags) {
            Ok(request) => request,
            Err(error) => {
                eprintln!("Invalid command {} ({error})", line.trim());
                continue;
            }
        };
        let mut watch = Watch::new(client, request);
        // What the next line says comes after this one has been carried out.
        if let Some(reason) = begin(&mut watch).await {
            eprintln!("watch was canceled ({reason})");
            continue;
        }
        let (asked, failed, failure) = (asked.clone(), failed.clone(), Arc::clone(&failure));
        tokio::spawn(async move {
            if let Err(error) = follow(watch, output, &flags.command, asked).await {
                *failure.lock().await = Some(error);
                // Somebody else has failed already if there is no room.
                let _ = failed.try_send(());
            }
        });
    }
}

/// Waits until the server has created a watch; gives why it did not.
async fn begin(watch: &mut Watch) -> Option<String> {
    match watch.next().await {
        Ok(response) => cancelled(&response),
        Err(error) => Some(error.to_string()),
    }
}

fn read_lines(lines: &mpsc::Sender<String>) {
    let stdin = std::io::stdin();
    for line in stdin.lock().lines() {
        let Ok(line) = line else { return };
        if lines.blocking_send(line).is_err() {
            return;
        }
    }
}

/// The watch that a line asks for; none if it asks for something else, or wrongly.
fn understand(line: &str) -> Result<Option<WatchFlags>, CommandError> {
    let words = words::split(line).unwrap_or_default();
    match words.as_slice() {
        [word] if word == "progress" => Ok(None),
        [word] if word == "watch" => {
            eprintln!("Invalid command {line} (command type or key is not provided)");
            Ok(None)
        }
        [word, args @ ..] if word == "watch" => {
            let flags = words::flags_or_error::<WatchFlags>(args);
            flags
                .map(Some)
                .map_err(|error| CommandError::BadArguments(crate::usage::text(&error, args)))
        }
        [] => {
            eprintln!("Invalid command: {line} (watch and progress supported)");
            Ok(None)
        }
        _ => {
            eprintln!("Invalid command {line} (only support watch)");
            Ok(None)
        }
    }
}

/// A response that has something to show.
struct Events(WatchResponse);

impl Reply for Events {
    fn simple(&self, out: &mut Text) {
        let response = &self.0;
        if response.events.is_empty() && !response.canceled {
            let revision = response.header.map_or(0, |header| header.revision);
            out.line(format_args!("progress notify: {revision}"));
        }
        for event in &response.events {
            out.line(event.r#type().as_str_name());
            if let Some(kv) = &event.prev_kv {
                out.kv(kv);
            }
            out.kv(&event.kv.clone().unwrap_or_default());
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        let response = &self.0;
        out.header(response.header.as_ref());
        for event in &response.events {
            out.field("Type", event.r#type().as_str_name());
            if let Some(kv) = &event.prev_kv {
                out.kv_fields("Prev", kv);
            }
            out.kv_fields("", &event.kv.clone().unwrap_or_default());
        }
        Some(())
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json_line(&self.0, ids))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(prost::Message::encode_to_vec(&self.0))
    }
}

/// What etcd's tool shows is its client's own type: all fields, under their names in Go.
fn json_line(response: &WatchResponse, ids: json::Ids) -> Result<String, CommandError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Shown {
        header: json::Shown,
        events: Option<Vec<json::Shown>>,
        compact_revision: i64,
        canceled: bool,
        created: bool,
        cancel_reason: String,
    }
    let header: ResponseHeader = response.header.unwrap_or_default();
    let events: Result<Vec<_>, _> = response
        .events
        .iter()
        .map(|event| json::Shown::new(event, ids))
        .collect();
    let events = events?;
    json::line(&Shown {
        header: json::Shown::new(&header, ids)?,
        events: (!events.is_empty()).then_some(events),
        compact_revision: response.compact_revision,
        canceled: response.canceled,
        created: response.created,
        cancel_reason: response.cancel_reason.clone(),
    })
}
