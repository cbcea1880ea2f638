//! The server's own response types (design R1).
//!
//! A revision's `mvccpb.KeyValue` is encoded once, when it is created; stored, sent and hashed as
//! those bytes. A length-delimited message and a `bytes` field have the same wire type, so these
//! messages declare `bytes` where etcd's declare `KeyValue` or `Event`: what a client decodes is the
//! same, and the server never decodes or re-encodes a revision.
//!
//! Field numbers are etcd's (wire facts); only the Rust types differ.

use bytes::Bytes;

use crate::etcdserverpb::ResponseHeader;

/// The KV service with the response types of this module.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
pub mod kv_server_impl {
    include!(concat!(env!("OUT_DIR"), "/raw/etcdserverpb.KV.rs"));
}

/// The Watch service with the response types of this module.
#[allow(missing_docs, unreachable_pub, reason = "generated")]
pub mod watch_server_impl {
    include!(concat!(env!("OUT_DIR"), "/raw/etcdserverpb.Watch.rs"));
}

pub use kv_server_impl::k_v_server as kv_server;
pub use watch_server_impl::watch_server;

/// `etcdserverpb.RangeResponse`; `kvs` are encoded `mvccpb.KeyValue`s.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeResponse {
    /// Absent only in the inner chunks of a stream.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Encoded `mvccpb.KeyValue`s.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub kvs: Vec<Bytes>,
    /// Whether the limit cut the result.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// Keys in the whole range at the revision, whatever the limit.
    #[prost(int64, tag = "4")]
    pub count: i64,
}

/// `etcdserverpb.RangeStreamResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeStreamResponse {
    /// One chunk.
    #[prost(message, optional, tag = "1")]
    pub range_response: Option<RangeResponse>,
}

/// `etcdserverpb.PutResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PutResponse {
    /// Revision after the put.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// The encoded previous `mvccpb.KeyValue`, if asked for and present.
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub prev_kv: Option<Bytes>,
}

/// `etcdserverpb.DeleteRangeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DeleteRangeResponse {
    /// Revision after the delete.
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Number of keys deleted.
    #[prost(int64, tag = "2")]
    pub deleted: i64,
    /// Encoded previous `mvccpb.KeyValue`s, if asked for.
    #[prost(bytes = "bytes", repeated, tag = "3")]
    pub prev_kvs: Vec<Bytes>,
}

/// `etcdserverpb.ResponseOp`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResponseOp {
    /// One reply inside a transaction.
    #[prost(oneof = "response_op::Response", tags = "1, 2, 3, 4")]
    pub response: Option<response_op::Response>,
}

/// The kinds of replies inside a transaction.
pub mod response_op {
    /// One reply inside a transaction.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Response {
        /// Reply of a range.
        #[prost(message, tag = "1")]
        ResponseRange(super::RangeResponse),
        /// Reply of a put.
        #[prost(message, tag = "2")]
        ResponsePut(super::PutResponse),
        /// Reply of a delete.
        #[prost(message, tag = "3")]
        ResponseDeleteRange(super::DeleteRangeResponse),
        /// Reply of a nested transaction.
        #[prost(message, tag = "4")]
        ResponseTxn(super::TxnResponse),
    }
}

/// `etcdserverpb.TxnResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TxnResponse {
    /// Revision after the transaction; in a nested one present but empty (contract 2.1).
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// Whether the compares held.
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    /// One reply an operation of the branch taken.
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<ResponseOp>,
}

/// `etcdserverpb.WatchResponse`; `events` are encoded `mvccpb.Event`s.
#[derive(Clone, PartialEq, prost::Message)]
pub struct WatchResponse {
    /// Its revision is the event's for live responses, the current one otherwise (contract 2.7).
    #[prost(message, optional, tag = "1")]
    pub header: Option<ResponseHeader>,
    /// −1 for refusals and manual progress.
    #[prost(int64, tag = "2")]
    pub watch_id: i64,
    /// Answer to a create request.
    #[prost(bool, tag = "3")]
    pub created: bool,
    /// The watch has ended.
    #[prost(bool, tag = "4")]
    pub canceled: bool,
    /// Set when the watch ended because its revision is compacted.
    #[prost(int64, tag = "5")]
    pub compact_revision: i64,
    /// Why the watch was refused.
    #[prost(string, tag = "6")]
    pub cancel_reason: String,
    /// More parts of this response follow.
    #[prost(bool, tag = "7")]
    pub fragment: bool,
    /// Encoded `mvccpb.Event`s.
    #[prost(bytes = "bytes", repeated, tag = "11")]
    pub events: Vec<Bytes>,
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{etcdserverpb, mvccpb};

    fn kv() -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: Bytes::from_static(b"k"),
            create_revision: 2,
            mod_revision: 3,
            version: 2,
            value: Bytes::from_static(b"v"),
            lease: 77,
        }
    }

    #[test]
    fn range_response_has_etcds_bytes() {
        let theirs = etcdserverpb::RangeResponse {
            header: Some(ResponseHeader {
                revision: 3,
                ..Default::default()
            }),
            kvs: vec![kv(), mvccpb::KeyValue::default()],
            more: true,
            count: 9,
        };
        let ours = RangeResponse {
            header: theirs.header,
            kvs: vec![kv().encode_to_vec().into(), Bytes::new()],
            more: true,
            count: 9,
        };
        assert_eq!(theirs.encode_to_vec(), ours.encode_to_vec());
    }

    #[test]
    fn watch_response_has_etcds_bytes() {
        let event = mvccpb::Event {
            r#type: 1,
            kv: Some(kv()),
            prev_kv: Some(kv()),
        };
        let theirs = etcdserverpb::WatchResponse {
            header: None,
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 5,
            cancel_reason: "r".into(),
            fragment: true,
            events: vec![event.clone()],
        };
        let ours = WatchResponse {
            header: None,
            watch_id: -1,
            created: true,
            canceled: true,
            compact_revision: 5,
            cancel_reason: "r".into(),
            fragment: true,
            events: vec![event.encode_to_vec().into()],
        };
        assert_eq!(theirs.encode_to_vec(), ours.encode_to_vec());
    }

    #[test]
    fn txn_response_has_etcds_bytes() {
        use etcdserverpb::response_op::Response as Theirs;
        use response_op::Response as Ours;
        let header = Some(ResponseHeader {
            revision: 4,
            ..Default::default()
        });
        let theirs = etcdserverpb::TxnResponse {
            header,
            succeeded: true,
            responses: vec![
                etcdserverpb::ResponseOp {
                    response: Some(Theirs::ResponsePut(etcdserverpb::PutResponse {
                        header,
                        prev_kv: Some(kv()),
                    })),
                },
                etcdserverpb::ResponseOp {
                    response: Some(Theirs::ResponseDeleteRange(
                        etcdserverpb::DeleteRangeResponse {
                            header,
                            deleted: 1,
                            prev_kvs: vec![kv()],
                        },
                    )),
                },
                etcdserverpb::ResponseOp {
                    response: Some(Theirs::ResponseTxn(etcdserverpb::TxnResponse {
                        header: Some(ResponseHeader::default()),
                        succeeded: false,
                        responses: vec![],
                    })),
                },
            ],
        };
        let kv = Bytes::from(kv().encode_to_vec());
        let ours = TxnResponse {
            header,
            succeeded: true,
            responses: vec![
                ResponseOp {
                    response: Some(Ours::ResponsePut(PutResponse {
                        header,
                        prev_kv: Some(kv.clone()),
                    })),
                },
                ResponseOp {
                    response: Some(Ours::ResponseDeleteRange(DeleteRangeResponse {
                        header,
                        deleted: 1,
                        prev_kvs: vec![kv],
                    })),
                },
                ResponseOp {
                    response: Some(Ours::ResponseTxn(TxnResponse {
                        header: Some(ResponseHeader::default()),
                        succeeded: false,
                        responses: vec![],
                    })),
                },
            ],
        };
        assert_eq!(theirs.encode_to_vec(), ours.encode_to_vec());
    }
}
