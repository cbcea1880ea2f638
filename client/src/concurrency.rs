//! Sessions, locks and elections out of keys and leases, as etcd's `concurrency` package has them
//! (contract 2.9).
//!
//! A session is a lease that is kept alive. Whoever wants something puts the key `name/lease`; the
//! owner is the key with the lowest create revision. Who waits, waits for the deletion of the key right
//! before its own, so that nobody is woken in vain. When a session dies its key goes with its lease.

use std::sync::Arc;
use std::time::Duration;

use keelson_proto::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, ResponseHeader, ResponseOp, TxnRequest, WatchCreateRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    range_request::{SortOrder, SortTarget},
    request_op::Request,
    response_op::Response,
    watch_create_request::FilterType,
};
use keelson_proto::mvccpb::KeyValue;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::client::Client;
use crate::error::Error;
use crate::lease::KeepAlive;
use crate::watch::Watch;

/// A lease that is kept alive until it is closed or the process ends.
#[derive(Clone)]
pub struct Session {
    client: Client,
    lease: i64,
    /// What it lives without being kept alive: nothing at its end takes longer.
    ttl: Duration,
    /// Whether the lease is gone.
    done: watch::Receiver<bool>,
    _alive: Arc<Abort>,
}

struct Abort(tokio::task::JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Session {
    /// Grants a lease of so many seconds and keeps it.
    ///
    /// # Errors
    ///
    /// The server's answer.
    pub async fn new(client: &Client, ttl_s: i64) -> Result<Self, Error> {
        let request = LeaseGrantRequest { ttl: ttl_s, id: 0 };
        let asked = Instant::now();
        let granted = client.lease_grant(request).await?;
        let lease = granted.id;
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        let (gone, done) = watch::channel(false);
        let mut alive = KeepAlive::until(client, lease, asked + ttl);
        let keeping = tokio::spawn(async move {
            while let Ok(Some(_)) = alive.next().await {}
            gone.send_replace(true);
        });
        Ok(Self {
            client: client.clone(),
            lease,
            ttl,
            done,
            _alive: Arc::new(Abort(keeping)),
        })
    }

    /// The lease's id.
    #[must_use]
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Waits until the lease is gone.
    pub async fn done(&self) {
        let mut done = self.done.clone();
        // A sender that is gone has nobody to keep the lease alive.
        drop(done.wait_for(|done| *done).await);
    }

    /// Revokes the lease.
    ///
    /// # Errors
    ///
    /// The server's answer.
    pub async fn close(self) -> Result<(), Error> {
        let request = LeaseRevokeRequest { id: self.lease };
        let client = self.client.within(self.ttl);
        client.lease_revoke(request).await.map(drop)
    }
}

/// A place in the line of a lock or an election.
pub struct Place {
    session: Session,
    prefix: Vec<u8>,
    key: Vec<u8>,
    /// The key's create revision.
    revision: i64,
    /// Whether nobody was before it when it was taken.
    is_first: bool,
}

impl Place {
    /// Puts the session's key, or finds it there already; then its value is replaced if `value` is
    /// another.
    ///
    /// # Errors
    ///
    /// The server's answer.
    pub async fn take(session: &Session, name: &[u8], value: &[u8]) -> Result<Self, Error> {
        let prefix = [name, b"/"].concat();
        let key = [&prefix[..], format!("{:x}", session.lease).as_bytes()].concat();
        let put = PutRequest {
            key: key.clone().into(),
            value: value.to_vec().into(),
            lease: session.lease,
            ..Default::default()
        };
        let mine = RangeRequest {
            key: key.clone().into(),
            ..Default::default()
        };
        let request = TxnRequest {
            compare: vec![created(&key, 0)],
            success: vec![
                op(Request::RequestPut(put.clone())),
                op(Request::RequestRange(owner_request(&prefix))),
            ],
            failure: vec![
                op(Request::RequestRange(mine)),
                op(Request::RequestRange(owner_request(&prefix))),
            ],
        };
        let response = session.client.txn(request).await?;
        let header_revision = revision(response.header);
        let mut responses = response.responses.into_iter();
        let found = first_kv(responses.next());
        let owner = first_kv(responses.next());
        let revision = match (response.succeeded, &found) {
            (false, Some(kv)) => kv.create_revision,
            _ => header_revision,
        };
        let place = Self {
            session: session.clone(),
            prefix,
            key,
            revision,
            is_first: owner.is_none_or(|owner| owner.create_revision == revision),
        };
        if found.is_some_and(|kv| kv.value != value) {
            place.proclaim(put).await?;
        }
        Ok(place)
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The key's create revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Waits until this place is the first, and still there.
    ///
    /// # Errors
    ///
    /// The server's answer, or that the session has ended meanwhile.
    pub async fn wait(&self) -> Result<(), Error> {
        if self.is_first {
            return Ok(());
        }
        while let Some(before) = self.before().await? {
            self.wait_for_deletion(&before).await?;
        }
        // The lease may have ended while it waited (#11456).
        let request = RangeRequest {
            key: self.key.clone().into(),
            ..Default::default()
        };
        let found = self.session.client.range(request).await?;
        match found.kvs.first() {
            Some(kv) if kv.create_revision == self.revision => Ok(()),
            _ => Err(Error::Session("mutex: session is expired")),
        }
    }

    /// Gives the place up.
    ///
    /// # Errors
    ///
    /// The server's answer.
    pub async fn leave(&self) -> Result<(), Error> {
        let request = DeleteRangeRequest {
            key: self.key.clone().into(),
            ..Default::default()
        };
        let client = self.session.client.within(self.session.ttl);
        client.delete_range(request).await.map(drop)
    }

    async fn proclaim(&self, put: PutRequest) -> Result<(), Error> {
        let request = TxnRequest {
            compare: vec![created(&self.key, self.revision)],
            success: vec![op(Request::RequestPut(put))],
            failure: Vec::new(),
        };
        let response = self.session.client.txn(request).await?;
        if response.succeeded {
            return Ok(());
        }
        Err(Error::Session("election: not leader"))
    }

    /// The key that is right before this one.
    async fn before(&self) -> Result<Option<Before>, Error> {
        let request = RangeRequest {
            key: self.prefix.clone().into(),
            range_end: end_of_prefix(&self.prefix).into(),
            limit: 1,
            sort_order: SortOrder::Descend.into(),
            sort_target: SortTarget::Create.into(),
            max_create_revision: self.revision - 1,
            ..Default::default()
        };
        let response = self.session.client.range(request).await?;
        let revision = revision(response.header);
        let before = response.kvs.into_iter().next();
        Ok(before.map(|kv| Before {
            key: kv.key.to_vec(),
            revision,
        }))
    }

    async fn wait_for_deletion(&self, before: &Before) -> Result<(), Error> {
        let create = WatchCreateRequest {
            key: before.key.clone().into(),
            start_revision: before.revision + 1,
            filters: vec![FilterType::Noput.into()],
            ..Default::default()
        };
        let mut watch = Watch::new(&self.session.client, create);
        loop {
            let response = tokio::select! {
                response = watch.next() => response?,
                () = self.session.done() => {
                    return Err(Error::Session("mutex: session is expired"));
                }
            };
            // Compacted away: whether it is still there is asked again.
            if response.canceled || !response.events.is_empty() {
                return Ok(());
            }
        }
    }
}

struct Before {
    key: Vec<u8>,
    revision: i64,
}

/// What the leader of an election says, and each change.
pub struct Observer {
    client: Client,
    prefix: Vec<u8>,
    leader: Option<(KeyValue, Watch)>,
}

impl Observer {
    /// Observes an election.
    #[must_use]
    pub fn new(client: &Client, name: &[u8]) -> Self {
        Self {
            client: client.clone(),
            prefix: [name, b"/"].concat(),
            leader: None,
        }
    }

    /// The leader, or what it says next, or the next leader.
    ///
    /// # Errors
    ///
    /// The server's answer.
    pub async fn next(&mut self) -> Result<RangeResponse, Error> {
        loop {
            let Some((leader, watch)) = &mut self.leader else {
                let (leader, header) = self.elected().await?;
                let create = WatchCreateRequest {
                    key: leader.key.clone(),
                    start_revision: revision(header) + 1,
                    ..Default::default()
                };
                let watch = Watch::new(&self.client, create);
                let shown = shown(leader.clone(), header);
                self.leader = Some((leader, watch));
                return Ok(shown);
            };
            let response = watch.next().await?;
            let (header, is_over) = (response.header, response.canceled);
            let mut said = None;
            for event in response.events {
                match event.kv {
                    Some(kv)
                        if event.r#type == 0 && kv.create_revision == leader.create_revision =>
                    {
                        said = Some(kv);
                    }
                    _ => {
                        self.leader = None;
                        break;
                    }
                }
            }
            if is_over {
                self.leader = None;
            }
            if let Some(kv) = said {
                return Ok(shown(kv, header));
            }
        }
    }

    /// The leader and when it was seen; waits for one.
    async fn elected(&self) -> Result<(KeyValue, Option<ResponseHeader>), Error> {
        loop {
            let found = self.client.range(owner_request(&self.prefix)).await?;
            if let Some(leader) = found.kvs.into_iter().next() {
                return Ok((leader, found.header));
            }
            let create = WatchCreateRequest {
                key: self.prefix.clone().into(),
                range_end: end_of_prefix(&self.prefix).into(),
                start_revision: revision(found.header) + 1,
                filters: vec![FilterType::Nodelete.into()],
                ..Default::default()
            };
            let mut watch = Watch::new(&self.client, create);
            loop {
                let response = watch.next().await?;
                if response.canceled || !response.events.is_empty() {
                    break;
                }
            }
        }
    }
}

fn revision(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn shown(kv: KeyValue, header: Option<ResponseHeader>) -> RangeResponse {
    RangeResponse {
        header,
        kvs: vec![kv],
        ..Default::default()
    }
}

/// The key with the lowest create revision.
fn owner_request(prefix: &[u8]) -> RangeRequest {
    RangeRequest {
        key: prefix.to_vec().into(),
        range_end: end_of_prefix(prefix).into(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..Default::default()
    }
}

fn created(key: &[u8], revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.to_vec().into(),
        range_end: Default::default(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn first_kv(response: Option<ResponseOp>) -> Option<KeyValue> {
    match response?.response? {
        Response::ResponseRange(response) => response.kvs.into_iter().next(),
        _ => None,
    }
}

/// The first key behind all that begin with a prefix, which ends in a slash here.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}
