//! `make-mirror`: another cluster gets the keys of this one, and then what changes (contract 8.2).
//!
//! First all keys at one revision, in pages; then a watch from the revision after it, whose events of
//! one revision become one transaction there, unless they are more than `--max-txn-ops`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use keelson_client::{Client, Watch};
use keelson_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest,
    request_op::Request,
};
use keelson_proto::mvccpb::{Event, event::EventType};

use super::key_range::KeyRange;
use crate::cli::Global;
use crate::connect::{self, online};
use crate::exit::CommandError;
use crate::flags::{int64, uint64};

/// Keys of one page of the first copy, as etcd's mirror has it.
const PAGE_KEYS: i64 = 1000;
/// Pause between two lines that say how much has been copied.
const REPORT: Duration = Duration::from_secs(30);

/// `make-mirror`.
#[derive(Args, Debug)]
pub(crate) struct MakeMirror {
    /// An endpoint of the other cluster
    #[arg(value_name = "destination")]
    destinations: Vec<String>,
    /// Key-value prefix to mirror
    #[arg(long, default_value = "")]
    prefix: String,
    /// Specify the kv revision to start to mirror
    #[arg(long, value_parser = int64, default_value = "0")]
    rev: i64,
    /// Maximum number of operations permitted in a transaction during syncing updates
    #[arg(long, value_parser = uint64, default_value = "128")]
    max_txn_ops: u64,
    /// destination prefix to mirror a prefix to a different prefix in the destination cluster
    #[arg(long, default_value = "")]
    dest_prefix: String,
    /// mirror key-values to the root of the destination cluster
    #[arg(long)]
    no_dest_prefix: bool,
    /// Identify secure client using this TLS certificate file for the destination cluster
    #[arg(long, default_value = "")]
    dest_cert: String,
    /// Identify secure client using this TLS key file
    #[arg(long, default_value = "")]
    dest_key: String,
    /// Verify certificates of TLS enabled secure servers using this CA bundle
    #[arg(long, default_value = "")]
    dest_cacert: String,
    /// Disable transport security for client connections
    #[arg(long, value_parser = crate::flags::bool, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    dest_insecure_transport: bool,
    /// Name and password: `name[:password]`.
    #[arg(
        help = "Destination username[:password] for authentication",
        long,
        default_value = ""
    )]
    dest_user: String,
    /// Destination password for authentication
    #[arg(long, default_value = "")]
    dest_password: String,
}

/// Mirrors until it is stopped or fails.
pub(super) fn run(global: &Global, flags: &MakeMirror) -> Result<(), CommandError> {
    let [destination] = flags.destinations.as_slice() else {
        let reason = "make-mirror takes one destination argument";
        return Err(CommandError::arguments(reason));
    };
    if flags.no_dest_prefix && !flags.dest_prefix.is_empty() {
        let reason = "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, \
                      choose one";
        return Err(CommandError::arguments(reason));
    }
    let there = Global {
        endpoints: vec![destination.clone()],
        user: flags.dest_user.clone(),
        password: flags.dest_password.clone(),
        cert: flags.dest_cert.clone(),
        key: flags.dest_key.clone(),
        cacert: flags.dest_cacert.clone(),
        insecure_transport: flags.dest_insecure_transport,
        auth_jwt_token: String::new(),
        ..global.clone()
    };
    online(global, async |session| {
        let copied = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&copied);
        let mirror = Mirror {
            from: session.client.clone(),
            to: connect::client(&there).await?,
            flags,
            copied,
        };
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(REPORT).await;
                println!("{}", counter.load(Ordering::Relaxed));
            }
        });
        let first = match flags.rev {
            ..=1 => mirror.copy_all().await? + 1,
            first => first,
        };
        mirror.follow(first).await
    })
}

struct Mirror<'a> {
    from: Client,
    to: Client,
    flags: &'a MakeMirror,
    copied: Arc<AtomicU64>,
}

impl Mirror<'_> {
    fn range(&self) -> Result<KeyRange, CommandError> {
        KeyRange::of(std::slice::from_ref(&self.flags.prefix), true, false)
    }

    /// Copies what there is; gives the revision at which it was so.
    async fn copy_all(&self) -> Result<i64, CommandError> {
        let KeyRange { mut key, range_end } = self.range()?;
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key: key.clone().into(),
                range_end: range_end.clone().into(),
                revision,
                limit: PAGE_KEYS,
                ..Default::default()
            };
            let page = self.from.range(request).await?;
            if revision == 0 {
                revision = page.header.map_or(0, |header| header.revision);
            }
            let last = page.kvs.last().map(|kv| [&kv.key[..], b"\0"].concat());
            for kv in page.kvs {
                let put = PutRequest {
                    key: self.renamed(&kv.key).into(),
                    value: kv.value,
                    ..Default::default()
                };
                self.to.put(put).await?;
                self.copied.fetch_add(1, Ordering::Relaxed);
            }
            match last {
                Some(next) if page.more => key = next,
                _ => return Ok(revision),
            }
        }
    }

    /// Copies what happens.
    async fn follow(&self, start_revision: i64) -> Result<(), CommandError> {
        let range = self.range()?;
        let create = WatchCreateRequest {
            key: range.key.into(),
            range_end: range.range_end.into(),
            start_revision,
            ..Default::default()
        };
        let mut watch = Watch::new(&self.from, create);
        let ops_max = usize::try_from(self.flags.max_txn_ops)
            .unwrap_or(usize::MAX)
            .max(1);
        loop {
            let response = watch.next().await?;
            if response.compact_revision != 0 {
                let reason = keelson_proto::error::Error::Compacted;
                return Err(CommandError::Failed(reason.to_string()));
            }
            if response.canceled {
                return Err(CommandError::Interrupted(response.cancel_reason));
            }
            let mut ops: Vec<RequestOp> = Vec::new();
            let mut last_revision = 0;
            for event in response.events {
                let revision = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                if revision != last_revision || ops.len() >= ops_max {
                    self.commit(std::mem::take(&mut ops)).await?;
                }
                last_revision = revision;
                ops.push(self.op(event));
            }
            self.commit(ops).await?;
        }
    }

    fn op(&self, event: Event) -> RequestOp {
        let kind = event.r#type();
        let kv = event.kv.unwrap_or_default();
        let key = self.renamed(&kv.key).into();
        let request = match kind {
            EventType::Put => Request::RequestPut(PutRequest {
                key,
                value: kv.value,
                ..Default::default()
            }),
            EventType::Delete => Request::RequestDeleteRange(DeleteRangeRequest {
                key,
                ..Default::default()
            }),
        };
        RequestOp {
            request: Some(request),
        }
    }

    async fn commit(&self, ops: Vec<RequestOp>) -> Result<(), CommandError> {
        if ops.is_empty() {
            return Ok(());
        }
        let count = ops.len() as u64;
        let request = TxnRequest {
            success: ops,
            ..Default::default()
        };
        self.to.txn(request).await?;
        self.copied.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// A key's name in the other cluster.
    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        let flags = self.flags;
        if flags.dest_prefix.is_empty() && !flags.no_dest_prefix {
            return key.to_vec();
        }
        let rest = key.strip_prefix(flags.prefix.as_bytes()).unwrap_or(key);
        [flags.dest_prefix.as_bytes(), rest].concat()
    }
}
