//! `lock`: a name that one holds at a time (contract 2.9, 8.2).
//!
//! Without a program the key is shown once it is held, and the lock is given back at SIGINT or SIGTERM.
//! With one, the lock is held while it runs, and its exit code is ours.

use clap::Args;
use keelson_client::concurrency::{Place, Session};
use keelson_proto::etcdserverpb::RangeRequest;
use tokio::process::Command;

use super::{process, signals};
use crate::cli::Global;
use crate::connect::{self, online};
use crate::exit::CommandError;
use crate::flags::int64;

/// `lock`.
#[derive(Args, Debug)]
pub(crate) struct Lock {
    /// The lock's name, and a program to run while it is held
    #[arg(value_name = "lockname")]
    args: Vec<String>,
    /// timeout for session
    #[arg(long, value_parser = int64, default_value = "10")]
    ttl: i64,
}

/// Locks.
pub(super) fn run(global: &Global, lock: &Lock) -> Result<(), CommandError> {
    let [name, command @ ..] = lock.args.as_slice() else {
        let reason = "lock takes a lock name argument and an optional command to execute";
        return Err(CommandError::arguments(reason));
    };
    online(global, async |session| {
        let ttl_s = if lock.ttl > 0 {
            lock.ttl
        } else {
            DEFAULT_TTL_S
        };
        let held = Session::new(&session.client, ttl_s).await?;
        let worked = hold(&session, &held, name, command).await;
        let closed = held.close().await;
        worked.and(closed.map_err(Into::into))
    })
}

/// A session's time if none is given.
const DEFAULT_TTL_S: i64 = 60;

/// Whoever asks to stop ends the waiting, but never lets go of what a program still relies on.
async fn hold(
    session: &connect::Session<'_>,
    held: &Session,
    name: &str,
    command: &[String],
) -> Result<(), CommandError> {
    let mut stop = signals::listen()?;
    let taking = async {
        let place = Place::take(held, name.as_bytes(), b"").await?;
        place.wait().await.map(|()| place)
    };
    let place = tokio::select! {
        place = taking => place?,
        () = stop.wait() => return Err(CommandError::failed("context canceled")),
    };
    if let [program, args @ ..] = command {
        let ran = Command::new(program)
            .args(args)
            .env(
                "ETCD_LOCK_KEY",
                String::from_utf8_lossy(place.key()).as_ref(),
            )
            .env("ETCD_LOCK_REV", place.revision().to_string())
            .status()
            .await;
        let left = place.leave().await;
        if let Some(failure) = process::failure(program, ran) {
            eprintln!("Error: {}", failure.text);
            return Err(CommandError::Silent(failure.code));
        }
        return Ok(left?);
    }
    let request = RangeRequest {
        key: place.key().to_vec().into(),
        ..Default::default()
    };
    let shown = session.client.range(request).await?;
    if shown.kvs.is_empty() {
        return Err(CommandError::failed("lock lost on init"));
    }
    session.output.show(&shown)?;
    tokio::select! {
        () = held.done() => Err(CommandError::failed("session expired")),
        () = stop.wait() => Ok(()),
    }
}
