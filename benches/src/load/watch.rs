//! watch: clients that put, and watchers that receive what they put.
//!
//! The first 8 bytes of each value say when its put was sent, so that watchers, which run in the
//! same process, know how long the event took. Events of a watch before the window do not count.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use keelson_proto::etcdserverpb::watch_request::RequestUnion;
use keelson_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::load::options::{LoadOptions, PutOptions, WatchOptions};
use crate::load::run::{Run, run};
use crate::load::template::{Numbers, Template, key};
use crate::load::unary::put_template;
use crate::transport::{Connection, Source, framed};

const PUT: &str = "/etcdserverpb.KV/Put";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// A server answers the creation of a million watchers within it.
const CREATE_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of a value that say when it was sent.
const STAMP_BYTES: usize = 8;

pub(crate) fn run_watch(
    load: &LoadOptions,
    put: &PutOptions,
    watch: &WatchOptions,
) -> anyhow::Result<()> {
    let value_bytes = put.value_size as usize;
    if value_bytes < STAMP_BYTES {
        bail!("values of watched keys need {STAMP_BYTES} bytes for the time");
    }
    let template = put_template(load, put);
    let open = async |run: &Arc<Run>, connections: &[Connection]| {
        timeout(CREATE_TIMEOUT, open_watchers(run, connections, watch))
            .await
            .context("the watchers were not created in time")?
    };
    run(load, "watch", open, |run, number, connection, clients| {
        let numbers = Numbers::new(load.seed + u64::from(number));
        let template = template.clone();
        clients.spawn(async move {
            put_stamped(&run, connection, numbers, &template, value_bytes).await
        });
    })
}

async fn put_stamped(
    run: &Run,
    mut connection: Connection,
    mut numbers: Numbers,
    template: &Template,
    value_bytes: usize,
) -> anyhow::Result<()> {
    let call = connection.call(PUT)?;
    let mut now = Instant::now();
    while run.next_operation(now).is_some() {
        let mut body = template.body(numbers.below(run.options.key_space));
        let sent = u64::try_from(run.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let value_at = body.len() - value_bytes;
        if let Some(stamp) = body.get_mut(value_at..value_at + STAMP_BYTES) {
            stamp.copy_from_slice(&sent.to_le_bytes());
        }
        match connection.unary(&call, body.freeze()).await {
            Ok(_) => now = run.succeeded(now),
            Err(error) => {
                if !run.failed(&error).await {
                    break;
                }
                now = Instant::now();
            }
        }
    }
    Ok(())
}

/// Opens the streams, creates the watchers and waits until the server has confirmed each.
async fn open_watchers(
    run: &Arc<Run>,
    connections: &[Connection],
    watch: &WatchOptions,
) -> anyhow::Result<()> {
    let created = Arc::new(Semaphore::new(0));
    let streams = watch.streams.min(watch.watchers);
    for (stream, connection) in (0..streams).zip(connections.iter().cycle()) {
        let mut connection = connection.clone();
        let call = connection.call(WATCH)?;
        let (mut sink, source) = connection.stream(&call).await?;
        for watcher in (stream..watch.watchers).step_by(streams as usize) {
            sink.send(framed(&create_request(run, watch, watcher)))?;
        }
        let (run, created) = (run.clone(), created.clone());
        tokio::spawn(async move {
            // Kept for as long as events are wanted: without it the stream ends.
            let _sink = sink;
            if let Err(error) = receive(&run, source, &created).await {
                created.close();
                let _ = run.failed(&error).await;
            }
        });
    }
    for _ in 0..watch.watchers {
        created
            .acquire()
            .await
            .context("a watch stream ended")?
            .forget();
    }
    Ok(())
}

fn create_request(run: &Run, watch: &WatchOptions, watcher: u32) -> WatchRequest {
    let key_bytes = usize::from(run.options.key_size);
    let create = if watch.watch_all {
        WatchCreateRequest {
            // The range of all keys.
            key: vec![0].into(),
            range_end: vec![0].into(),
            ..Default::default()
        }
    } else {
        WatchCreateRequest {
            key: key(u64::from(watcher) % run.options.key_space, key_bytes),
            ..Default::default()
        }
    };
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    }
}

async fn receive(
    run: &Run,
    mut source: Source,
    created: &Semaphore,
) -> Result<(), crate::transport::CallError> {
    use crate::transport::CallError::Broken;
    while let Some(message) = source.next().await? {
        let response = WatchResponse::decode(message).map_err(|error| Broken(error.to_string()))?;
        if response.canceled {
            return Err(Broken(format!("cancelled: {}", response.cancel_reason)));
        }
        if response.created {
            created.add_permits(1);
        }
        for event in &response.events {
            let stamp = event.kv.as_ref().and_then(|kv| kv.value.get(..STAMP_BYTES));
            if let Some(stamp) = stamp.and_then(|stamp| stamp.try_into().ok()) {
                run.event_arrived(Duration::from_nanos(u64::from_le_bytes(stamp)));
            }
        }
    }
    Err(Broken("the server ended a watch stream".into()))
}
