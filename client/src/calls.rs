//! Every unary call of the API, and whether it may be repeated.

use keelson_proto::etcdserverpb::{
    auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient, *,
};
use tonic::Streaming;

use crate::client::{Client, Safety};
use crate::error::Error;
use crate::metadata::{self, Leader};

macro_rules! calls {
    ($($service:ident { $($safety:ident $call:ident($request:ty) -> $response:ty;)* })*) => {
        /// Unary calls.
        ///
        /// # Errors
        ///
        /// Each gives the server's answer, or that the deadline has passed.
        impl Client {$($(
            #[doc = concat!("`", stringify!($service), "`: ", stringify!($call), ".")]
            pub async fn $call(&self, request: $request) -> Result<$response, Error> {
                self.unary(Safety::$safety, request, |channel, limits, request| async move {
                    $service::new(channel)
                        .max_encoding_message_size(limits.request_bytes)
                        .max_decoding_message_size(limits.response_bytes)
                        .$call(request)
                        .await
                })
                .await
            }
        )*)*}
    };
}

calls! {
    KvClient {
        Read range(RangeRequest) -> RangeResponse;
        Write put(PutRequest) -> PutResponse;
        Write delete_range(DeleteRangeRequest) -> DeleteRangeResponse;
        Write compact(CompactionRequest) -> CompactionResponse;
    }
    LeaseClient {
        Write lease_grant(LeaseGrantRequest) -> LeaseGrantResponse;
        Write lease_revoke(LeaseRevokeRequest) -> LeaseRevokeResponse;
        Read lease_time_to_live(LeaseTimeToLiveRequest) -> LeaseTimeToLiveResponse;
        Read lease_leases(LeaseLeasesRequest) -> LeaseLeasesResponse;
    }
    ClusterClient {
        Write member_add(MemberAddRequest) -> MemberAddResponse;
        Write member_remove(MemberRemoveRequest) -> MemberRemoveResponse;
        Write member_update(MemberUpdateRequest) -> MemberUpdateResponse;
        Read member_list(MemberListRequest) -> MemberListResponse;
        Write member_promote(MemberPromoteRequest) -> MemberPromoteResponse;
    }
    MaintenanceClient {
        Write defragment(DefragmentRequest) -> DefragmentResponse;
        Read status(StatusRequest) -> StatusResponse;
        Read hash_kv(HashKvRequest) -> HashKvResponse;
        Write move_leader(MoveLeaderRequest) -> MoveLeaderResponse;
        Write downgrade(DowngradeRequest) -> DowngradeResponse;
    }
    AuthClient {
        Write auth_enable(AuthEnableRequest) -> AuthEnableResponse;
        Write auth_disable(AuthDisableRequest) -> AuthDisableResponse;
        Read auth_status(AuthStatusRequest) -> AuthStatusResponse;
        Write user_add(AuthUserAddRequest) -> AuthUserAddResponse;
        Read user_get(AuthUserGetRequest) -> AuthUserGetResponse;
        Read user_list(AuthUserListRequest) -> AuthUserListResponse;
        Write user_delete(AuthUserDeleteRequest) -> AuthUserDeleteResponse;
        Write user_change_password(AuthUserChangePasswordRequest) -> AuthUserChangePasswordResponse;
        Write user_grant_role(AuthUserGrantRoleRequest) -> AuthUserGrantRoleResponse;
        Write user_revoke_role(AuthUserRevokeRoleRequest) -> AuthUserRevokeRoleResponse;
        Write role_add(AuthRoleAddRequest) -> AuthRoleAddResponse;
        Read role_get(AuthRoleGetRequest) -> AuthRoleGetResponse;
        Read role_list(AuthRoleListRequest) -> AuthRoleListResponse;
        Write role_delete(AuthRoleDeleteRequest) -> AuthRoleDeleteResponse;
        Write role_grant_permission(AuthRoleGrantPermissionRequest) -> AuthRoleGrantPermissionResponse;
        Write role_revoke_permission(AuthRoleRevokePermissionRequest) -> AuthRoleRevokePermissionResponse;
    }
}

/// Calls whose safety depends on what they ask for, and streams from the server.
impl Client {
    /// `KvClient`: txn. One that only reads may be repeated.
    ///
    /// # Errors
    ///
    /// The server's answer, or that the deadline has passed.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Error> {
        let safety = if only_reads(&request) {
            Safety::Read
        } else {
            Safety::Write
        };
        self.unary(safety, request, |channel, limits, request| async move {
            KvClient::new(channel)
                .max_encoding_message_size(limits.request_bytes)
                .max_decoding_message_size(limits.response_bytes)
                .txn(request)
                .await
        })
        .await
    }

    /// `MaintenanceClient`: alarm. Asking for alarms may be repeated.
    ///
    /// # Errors
    ///
    /// The server's answer, or that the deadline has passed.
    pub async fn alarm(&self, request: AlarmRequest) -> Result<AlarmResponse, Error> {
        let safety = match request.action() {
            alarm_request::AlarmAction::Get => Safety::Read,
            _ => Safety::Write,
        };
        let call = |channel, _, request| async move {
            MaintenanceClient::new(channel).alarm(request).await
        };
        self.unary(safety, request, call).await
    }

    /// `KvClient`: a range in pieces (contract 2.3).
    ///
    /// # Errors
    ///
    /// The server's answer, or that the deadline has passed before it began.
    pub async fn range_stream(
        &self,
        message: RangeRequest,
    ) -> Result<Streaming<RangeStreamResponse>, Error> {
        self.open(|channel, limits, token| {
            let request = metadata::request(message.clone(), token.as_ref(), Leader::Any);
            async move {
                KvClient::new(channel)
                    .max_decoding_message_size(limits.response_bytes)
                    .range_stream(request)
                    .await
            }
        })
        .await
    }

    /// `MaintenanceClient`: a snapshot in pieces (contract 2.10).
    ///
    /// # Errors
    ///
    /// The server's answer, or that the deadline has passed before it began.
    pub async fn snapshot(&self) -> Result<Streaming<SnapshotResponse>, Error> {
        self.open(|channel, limits, token| {
            let request = metadata::request(SnapshotRequest {}, token.as_ref(), Leader::Any);
            async move {
                MaintenanceClient::new(channel)
                    .max_decoding_message_size(limits.response_bytes)
                    .snapshot(request)
                    .await
            }
        })
        .await
    }
}

fn only_reads(request: &TxnRequest) -> bool {
    use request_op::Request;
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| match &op.request {
        Some(Request::RequestRange(_)) => true,
        Some(Request::RequestTxn(txn)) => only_reads(txn),
        _ => false,
    })
}
