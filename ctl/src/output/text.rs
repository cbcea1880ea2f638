//! Lines of `simple` and `fields`.

use std::fmt::Display;

use keelson_proto::etcdserverpb::ResponseHeader;
use keelson_proto::mvccpb::KeyValue;

use super::go;

/// What a reply writes its lines to.
pub(crate) struct Text {
    bytes: Vec<u8>,
    hex: bool,
}

impl Text {
    pub(crate) fn new(hex: bool) -> Self {
        Self {
            bytes: Vec::new(),
            hex,
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Bytes as they are.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A line.
    pub(crate) fn line(&mut self, text: impl Display) {
        self.raw(text.to_string().as_bytes());
        self.raw(b"\n");
    }

    /// A line of a key's or value's bytes, in hexadecimal with `--hex`.
    pub(crate) fn data(&mut self, bytes: &[u8]) {
        if self.hex {
            for byte in bytes {
                self.raw(format!("\\x{byte:02x}").as_bytes());
            }
        } else {
            self.raw(bytes);
        }
        self.raw(b"\n");
    }

    /// A revision: key line, value line.
    pub(crate) fn kv(&mut self, kv: &KeyValue) {
        self.data(&kv.key);
        self.data(&kv.value);
    }

    /// `"Name" : value`.
    pub(crate) fn field(&mut self, name: &str, value: impl Display) {
        self.line(format_args!("\"{name}\" : {value}"));
    }

    /// `"Name" : "text"`.
    pub(crate) fn quoted(&mut self, name: &str, bytes: &[u8]) {
        self.field(name, go::quoted(bytes));
    }

    /// A member's or cluster's id, in hexadecimal with `--hex`.
    pub(crate) fn id(&mut self, name: &str, id: u64) {
        if self.hex {
            self.field(name, format_args!("{id:x}"));
        } else {
            self.field(name, id);
        }
    }

    /// The header's fields; zeros without one.
    pub(crate) fn header(&mut self, header: Option<&ResponseHeader>) {
        let header = header.copied().unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        // The cluster service has no revision.
        if header.revision > 0 {
            self.field("Revision", header.revision);
        }
        self.field("RaftTerm", header.raft_term);
    }

    /// A revision's fields, their names with a prefix.
    pub(crate) fn kv_fields(&mut self, prefix: &str, kv: &KeyValue) {
        self.quoted(&format!("{prefix}Key"), &kv.key);
        self.field(&format!("{prefix}CreateRevision"), kv.create_revision);
        self.field(&format!("{prefix}ModRevision"), kv.mod_revision);
        self.field(&format!("{prefix}Version"), kv.version);
        self.quoted(&format!("{prefix}Value"), &kv.value);
        self.lease(&format!("{prefix}Lease"), kv.lease);
    }

    /// A lease's id, in hexadecimal with `--hex`.
    pub(crate) fn lease(&mut self, name: &str, id: i64) {
        if self.hex {
            self.field(name, format_args!("{id:016x}"));
        } else {
            self.field(name, id);
        }
    }
}
