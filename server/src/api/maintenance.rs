//! The Maintenance service (contract 2.10).

use std::sync::Arc;

use keelson_proto::error::Error;
use keelson_proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
    MoveLeaderRequest, MoveLeaderResponse, SnapshotRequest, SnapshotResponse, StatusRequest,
    StatusResponse, alarm_request::AlarmAction, downgrade_request::DowngradeAction,
    maintenance_server,
};
use keelson_proto::keelsonpb::command;
use keelson_state::apply::Response as Applied;
use openraft::LogIdOptionExt as _;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::framed::FramedBody;
use super::header::Header;
use super::{metadata, snapshot};
use crate::node::Node;
use crate::node::error::NodeError;

/// Shown as the quota when there is none: clients divide by it (contract 2.10).
const QUOTA_SHOWN_WITHOUT: i64 = i64::MAX;

/// A leader transfer that does not come about; sent as Unknown (contract 3, wire quirks).
const TRANSFER_TIMEOUT: &str = "etcdserver: request timed out, leader transfer took too long";

/// A downgrade action that is none; sent as Unknown (contract 3, wire quirks).
const UNKNOWN_METHOD: &str = "etcdserver: unknown method";

/// The service.
#[derive(Clone)]
pub struct MaintenanceService {
    node: Arc<Node>,
    header: Header,
    snapshots: Arc<Semaphore>,
}

/// Snapshots under way at a time: each has a thread, buffers and files that are kept from removal,
/// for as long as its client likes. Nobody needs more than a few.
const SNAPSHOTS_MAX: usize = 16;

impl MaintenanceService {
    /// Serves this member's state.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        let header = Header::new(Arc::clone(node.status()));
        Self {
            node,
            header,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS_MAX)),
        }
    }

    fn current_header(&self) -> keelson_proto::etcdserverpb::ResponseHeader {
        self.header.at(self.node.reader().current_revision())
    }
}

/// Its messages are framed already.
type Snapshots = futures::stream::Empty<Result<SnapshotResponse, Status>>;

#[tonic::async_trait]
impl maintenance_server::Maintenance for MaintenanceService {
    type SnapshotStream = Snapshots;

    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let request = request.into_inner();
        let action = AlarmAction::try_from(request.action).map_err(|_| {
            Status::invalid_argument(format!("unknown alarm action {}", request.action))
        })?;
        if action == AlarmAction::Get {
            let alarms = self.node.reader().alarms(request.alarm);
            let header = Some(self.current_header());
            return Ok(Response::new(AlarmResponse { header, alarms }));
        }
        match self.node.propose(command::Request::Alarm(request)).await? {
            Applied::Alarm(mut response) => {
                response.header = Some(self.current_header());
                Ok(Response::new(response))
            }
            _ => Err(Error::Corrupt.into()),
        }
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let (node, reader) = (&self.node, self.node.reader());
        let view = node.status().leader();
        let committed = node
            .status()
            .with_metrics(|metrics| metrics.local_committed.index().unwrap_or(0));
        let mut errors = Vec::new();
        if view.leader.is_none() {
            errors.push(Error::NoLeader.text().to_owned());
        }
        errors.extend(
            reader
                .alarms(AlarmType::None.into())
                .iter()
                .map(describe_alarm),
        );
        let quota = i64::try_from(node.quota_bytes()).unwrap_or(i64::MAX);
        Ok(Response::new(StatusResponse {
            header: Some(self.current_header()),
            version: keelson_proto::SERVER_VERSION.to_owned(),
            db_size: i64::try_from(reader.db_size_bytes()).unwrap_or(i64::MAX),
            leader: view.leader.unwrap_or(0),
            raft_index: committed,
            raft_term: view.term,
            raft_applied_index: node.status().applied().index(),
            errors,
            db_size_in_use: i64::try_from(reader.in_use_bytes()).unwrap_or(i64::MAX),
            is_learner: node.is_learner(),
            // It falls with the cluster version in a downgrade.
            storage_version: node
                .cluster_version()
                .unwrap_or_else(|| keelson_proto::CLUSTER_VERSION.to_owned()),
            db_size_quota: if quota == 0 {
                QUOTA_SHOWN_WITHOUT
            } else {
                quota
            },
            downgrade_info: Some(node.downgrade_info()),
        }))
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        tracing::info!("defragmenting");
        let began = tokio::time::Instant::now();
        self.node.defragment().await?;
        tracing::info!(took = ?began.elapsed(), "finished defragmenting directory");
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let reader = self.node.reader().clone();
        let began = tokio::time::Instant::now();
        let hash = crate::node::blocking(move || reader.hash()).await?;
        self.node.metrics().hashed(began.elapsed(), false);
        let header = Some(self.header.at(hash.current));
        Ok(Response::new(HashResponse {
            header,
            hash: hash.hash.hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let (reader, revision) = (self.node.reader().clone(), request.into_inner().revision);
        let began = tokio::time::Instant::now();
        let hash = crate::node::blocking(move || reader.hash_kv(revision)).await?;
        self.node.metrics().hashed(began.elapsed(), true);
        Ok(Response::new(HashKvResponse {
            header: Some(self.header.at(hash.current)),
            hash: hash.hash.hash,
            compact_revision: hash.hash.compact_revision,
            hash_revision: hash.hash.revision,
        }))
    }

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Snapshots>, Status> {
        let guard = metadata::check_stream_anywhere(&self.node, request.metadata())?;
        let place = Arc::clone(&self.snapshots)
            .try_acquire_owned()
            .map_err(|_| Error::RequestTooManyRequests)?;
        let file = self.node.snapshot_file().await?;
        let reader = self.node.reader().clone();
        let body = snapshot::body(place, file, guard, reader);
        Ok(FramedBody::response(body))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let target = request.into_inner().target_id;
        if !self.node.raft().is_leader() {
            return Err(Error::NotLeader.into());
        }
        let (is_voter, local) = self.node.status().with_metrics(|metrics| {
            (
                metrics.membership_config.voter_ids().any(|id| id == target),
                metrics.id,
            )
        });
        if !is_voter {
            return Err(Error::BadLeaderTransferee.into());
        }
        if target != local {
            let wait = self.node.config().request_timeout();
            match self.node.transfer_to(target, wait).await {
                Err(NodeError::Etcd(Error::Timeout)) => {
                    return Err(NodeError::Other(TRANSFER_TIMEOUT.to_owned()).into());
                }
                result => result?,
            }
        }
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        metadata::check(&self.node, request.metadata())?;
        let DowngradeRequest { action, version } = request.into_inner();
        let version = match DowngradeAction::try_from(action) {
            Ok(DowngradeAction::Validate) => self.node.downgrade_validate(&version).await?,
            Ok(DowngradeAction::Enable) => self.node.downgrade_enable(&version).await?,
            Ok(DowngradeAction::Cancel) => self.node.downgrade_cancel().await?,
            Err(_) => return Err(NodeError::Other(UNKNOWN_METHOD.to_owned()).into()),
        };
        let header = Some(self.current_header());
        Ok(Response::new(DowngradeResponse { header, version }))
    }
}

/// As protobuf's text form shows it, with the member id in decimal (contract 2.10).
fn describe_alarm(alarm: &AlarmMember) -> String {
    let name = match alarm.alarm() {
        AlarmType::Nospace => "NOSPACE",
        AlarmType::Corrupt => "CORRUPT",
        AlarmType::None => "NONE",
    };
    if alarm.member_id == 0 {
        format!("alarm:{name}")
    } else {
        format!("memberID:{} alarm:{name}", alarm.member_id)
    }
}
