//! What goes over a wire or into the log.
//!
//! | module | what |
//! |---|---|
//! | [`etcdserverpb`], [`mvccpb`], [`authpb`], [`v3lockpb`], [`v3electionpb`] | etcd v3.7's API, as clients see it |
//! | [`raw`] | the KV and Watch services with response types that carry encoded revisions (design R1) |
//! | [`keelsonpb`] | replicated commands, log entries, the protocol between members |
//! | [`error`] | every error of the API: gRPC code and exact text (contract 3) |
//! | [`key_range`] | the four forms of `key`, `range_end` |
//!
//! `bytes` fields are [`bytes::Bytes`]: slices of the received frame, not copies.

#![forbid(unsafe_code)]

pub mod error;
pub mod key_range;
pub mod raw;

/// The client API: KV, Watch, Lease, Cluster, Maintenance, Auth.
#[allow(
    missing_docs,
    clippy::doc_markdown,
    reason = "generated from the .proto files"
)]
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// A key-value revision and a watch event.
#[allow(missing_docs, reason = "generated from the .proto files")]
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Users, roles and permissions.
#[allow(missing_docs, reason = "generated from the .proto files")]
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The lock service (contract 2.9).
#[allow(missing_docs, reason = "generated from the .proto files")]
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// The election service (contract 2.9).
#[allow(missing_docs, reason = "generated from the .proto files")]
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}

/// gRPC's health protocol.
#[allow(missing_docs, reason = "generated from the .proto files")]
pub mod healthpb {
    tonic::include_proto!("grpc.health.v1");
}

/// Replicated commands, log entries and the peer protocol.
#[allow(
    missing_docs,
    reason = "generated from the .proto files, which carry the comments"
)]
pub mod keelsonpb {
    tonic::include_proto!("keelsonpb");
}

/// The compiled `FileDescriptorSet`, REST annotations included.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// etcd's version that Keelson speaks as (contract 1).
pub const SERVER_VERSION: &str = "3.7.1";
/// The storage and cluster version shown with three numbers (contract 1).
pub const CLUSTER_VERSION: &str = "3.7.0";
