//! A reply that is a sentence for people, and little more than a header for programs.

use keelson_proto::etcdserverpb::ResponseHeader;
use prost::{Message, Name};

use super::{Reply, Text, json};
use crate::exit::CommandError;

/// What was done.
pub(crate) struct Said<M> {
    pub(crate) text: String,
    pub(crate) header: Option<ResponseHeader>,
    pub(crate) response: M,
}

impl<M: Message + Name> Reply for Said<M> {
    fn simple(&self, out: &mut Text) {
        out.line(&self.text);
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        Some(())
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json::message(&self.response, ids))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.response.encode_to_vec())
    }
}
