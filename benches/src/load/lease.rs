//! lease: clients that grant and revoke leases, or keep one alive each.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use keelson_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseRevokeRequest,
};
use prost::Message as _;

use crate::load::options::{LeaseMode, LeaseOptions, LoadOptions};
use crate::load::run::{Run, run};
use crate::transport::{Call, CallError, Connection, framed};

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

pub(crate) fn run_lease(load: &LoadOptions, lease: &LeaseOptions) -> anyhow::Result<()> {
    let (mode, ttl) = (lease.mode, lease.ttl);
    let name = match mode {
        LeaseMode::Grant => "lease, grant and revoke",
        LeaseMode::Keepalive => "lease, keepalive",
    };
    let nothing = async |_: &Arc<Run>, _: &[Connection]| Ok(());
    run(load, name, nothing, |run, _, connection, clients| {
        clients.spawn(async move {
            match mode {
                LeaseMode::Grant => grant_and_revoke(&run, connection, ttl).await,
                LeaseMode::Keepalive => keep_alive(&run, connection, ttl).await,
            }
        });
    })
}

async fn grant_and_revoke(run: &Run, mut connection: Connection, ttl: i64) -> anyhow::Result<()> {
    let calls = [connection.call(GRANT)?, connection.call(REVOKE)?];
    let mut now = Instant::now();
    let mut granted = None;
    loop {
        // A granted lease is revoked even when the run is over.
        if granted.is_none() && run.next_operation(now).is_none() {
            return Ok(());
        }
        let [grant_call, revoke_call] = &calls;
        let outcome = match granted.take() {
            None => grant(&mut connection, grant_call, ttl).await.map(Some),
            Some(id) => {
                let body = framed(&LeaseRevokeRequest { id });
                connection.unary(revoke_call, body).await.map(|_| None)
            }
        };
        match outcome {
            Ok(lease) => {
                granted = lease;
                now = run.succeeded(now);
            }
            Err(error) => {
                if !run.failed(&error).await {
                    return Ok(());
                }
                now = Instant::now();
            }
        }
    }
}

async fn keep_alive(run: &Run, mut connection: Connection, ttl: i64) -> anyhow::Result<()> {
    let call = connection.call(GRANT)?;
    let id = grant(&mut connection, &call, ttl).await?;
    let call = connection.call(KEEP_ALIVE)?;
    let (mut sink, mut source) = connection.stream(&call).await?;
    let body = framed(&LeaseKeepAliveRequest { id });
    let mut now = Instant::now();
    while run.next_operation(now).is_some() {
        sink.send(body.clone())?;
        source
            .next()
            .await?
            .context("the server ended a stream of keepalives")?;
        now = run.succeeded(now);
    }
    Ok(())
}

async fn grant(connection: &mut Connection, call: &Call, ttl: i64) -> Result<i64, CallError> {
    let body = framed(&LeaseGrantRequest { ttl, id: 0 });
    let reply = connection.unary(call, body).await?;
    match LeaseGrantResponse::decode(reply) {
        Ok(granted) => Ok(granted.id),
        Err(error) => Err(CallError::Broken(error.to_string())),
    }
}
