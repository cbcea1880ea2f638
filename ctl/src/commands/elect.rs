//! `elect`: one of several candidates leads (contract 2.9, 8.2).

use clap::Args;
use keelson_client::concurrency::{Observer, Place, Session};
use keelson_proto::etcdserverpb::RangeRequest;

use super::signals;
use crate::cli::Global;
use crate::connect::{self, online};
use crate::exit::CommandError;

/// A candidate's session in seconds.
const TTL_S: i64 = 60;

/// `elect`.
#[derive(Args, Debug)]
pub(crate) struct Elect {
    /// The election's name, and what the candidate says
    #[arg(value_name = "election-name")]
    args: Vec<String>,
    /// observation mode
    #[arg(short, long)]
    listen: bool,
}

/// Runs for it, or observes.
pub(super) fn run(global: &Global, elect: &Elect) -> Result<(), CommandError> {
    let wrong = |reason: &str| Err(CommandError::arguments(reason));
    match (elect.args.as_slice(), elect.listen) {
        ([name], true) => online(global, async |session| observe(&session, name).await),
        ([name, proposal], false) => online(global, async |session| {
            campaign(&session, name, proposal).await
        }),
        ([_], false) => wrong("no proposal argument but -l not set"),
        ([_, _], true) => wrong("proposal given but -l is set"),
        _ => wrong("elect takes one election name argument and an optional proposal argument"),
    }
}

async fn observe(session: &connect::Session<'_>, name: &str) -> Result<(), CommandError> {
    let mut stop = signals::listen()?;
    let mut observer = Observer::new(&session.client, name.as_bytes());
    loop {
        let said = tokio::select! {
            said = observer.next() => said?,
            () = stop.wait() => return Ok(()),
        };
        session.output.show(&said)?;
    }
}

async fn campaign(
    session: &connect::Session<'_>,
    name: &str,
    proposal: &str,
) -> Result<(), CommandError> {
    let candidate = Session::new(&session.client, TTL_S).await?;
    let led = lead(session, &candidate, name, proposal).await;
    let closed = candidate.close().await;
    led.and(closed.map_err(Into::into))
}

async fn lead(
    session: &connect::Session<'_>,
    candidate: &Session,
    name: &str,
    proposal: &str,
) -> Result<(), CommandError> {
    let mut stop = signals::listen()?;
    let taking = async {
        let place = Place::take(candidate, name.as_bytes(), proposal.as_bytes()).await?;
        place.wait().await.map(|()| place)
    };
    let place = tokio::select! {
        place = taking => place?,
        () = stop.wait() => return Err(CommandError::failed("context canceled")),
    };
    let request = RangeRequest {
        key: place.key().to_vec().into(),
        ..Default::default()
    };
    let shown = session.client.range(request).await?;
    session.output.show(&shown)?;
    tokio::select! {
        () = candidate.done() => Err(CommandError::failed("elect: session expired")),
        () = stop.wait() => Ok(()),
    }
}
