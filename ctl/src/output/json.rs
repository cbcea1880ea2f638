//! JSON as Go's encoder shows etcd's messages: the names of the `.proto` files, zero fields left out,
//! bytes in base64, integers and enums as numbers, a oneof as an object of its own.
//!
//! A message is shown by its descriptor, so no message has code of its own here.

use std::borrow::Cow;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use prost::{Message, Name};
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, FieldDescriptor, ReflectMessage as _, Value,
};
use serde::ser::{Error as _, Serialize, SerializeMap as _, Serializer};

use crate::exit::CommandError;

static POOL: LazyLock<Result<DescriptorPool, String>> = LazyLock::new(|| {
    DescriptorPool::decode(keelson_proto::DESCRIPTORS).map_err(|error| error.to_string())
});

/// How ids of members and clusters are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    Numbers,
    /// As strings of hexadecimal digits.
    Hex,
}

/// One message's line.
pub(crate) fn message<M: Message + Name>(message: &M, ids: Ids) -> Result<String, CommandError> {
    line(&Shown::new(message, ids)?)
}

/// A line of anything.
pub(crate) fn line(value: &impl Serialize) -> Result<String, CommandError> {
    let text = serde_json::to_string(value).map_err(CommandError::failed)?;
    // Go escapes what means something in HTML; none of it can stand outside strings.
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e");
    let text = text.replace('&', "\\u0026").replace('\u{2028}', "\\u2028");
    Ok(text.replace('\u{2029}', "\\u2029"))
}

/// A line of a list; Go shows one without elements as `null`.
pub(crate) fn list<T: Serialize>(values: Vec<T>) -> Result<String, CommandError> {
    line(&(!values.is_empty()).then_some(values))
}

/// Bytes in base64.
pub(crate) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// A message that is part of something else.
pub(crate) struct Shown {
    message: DynamicMessage,
    ids: Ids,
}

impl Shown {
    pub(crate) fn new<M: Message + Name>(message: &M, ids: Ids) -> Result<Self, CommandError> {
        let pool = POOL.as_ref().map_err(CommandError::failed)?;
        let descriptor = pool
            .get_message_by_name(&M::full_name())
            .ok_or_else(|| CommandError::Failed(format!("{} has no descriptor", M::full_name())))?;
        let bytes = message.encode_to_vec();
        let message = DynamicMessage::decode(descriptor, bytes.as_slice());
        let message = message.map_err(CommandError::failed)?;
        Ok(Self { message, ids })
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = ShownMessage {
            message: &self.message,
            ids: self.ids,
        };
        shown.serialize(serializer)
    }
}

struct ShownMessage<'a> {
    message: &'a DynamicMessage,
    ids: Ids,
}

impl Serialize for ShownMessage<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let message = self.message;
        let mut map = serializer.serialize_map(None)?;
        let mut oneofs = Vec::new();
        for field in message.descriptor().fields() {
            if let Some(oneof) = field.containing_oneof() {
                if oneofs.contains(&oneof) {
                    continue;
                }
                let set = oneof.fields().find(|field| message.has_field(field));
                let name = capitalized(oneof.name());
                map.serialize_entry(&name, &set.map(|field| self.one(field)))?;
                oneofs.push(oneof);
            } else if message.has_field(&field) {
                map.serialize_entry(field.name(), &self.field(field.clone()))?;
            }
        }
        map.end()
    }
}

impl<'a> ShownMessage<'a> {
    fn field(&self, field: FieldDescriptor) -> ShownField<'a> {
        ShownField {
            value: self.message.get_field(&field),
            field,
            ids: self.ids,
        }
    }

    fn one(&self, field: FieldDescriptor) -> OneField<'a> {
        OneField(self.field(field))
    }
}

/// The member of a oneof that is set: an object with one name.
struct OneField<'a>(ShownField<'a>);

impl Serialize for OneField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(self.0.field.name(), &self.0)?;
        map.end()
    }
}

struct ShownField<'a> {
    field: FieldDescriptor,
    value: Cow<'a, Value>,
    ids: Ids,
}

impl Serialize for ShownField<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = |value| ShownValue {
            value,
            ids: self.ids,
            is_id: matches!(self.field.name(), "cluster_id" | "member_id" | "ID"),
        };
        match self.value.as_ref() {
            Value::List(values) if self.field.cardinality() == Cardinality::Repeated => {
                serializer.collect_seq(values.iter().map(shown))
            }
            value => shown(value).serialize(serializer),
        }
    }
}

struct ShownValue<'a> {
    value: &'a Value,
    ids: Ids,
    is_id: bool,
}

impl Serialize for ShownValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::I32(value) | Value::EnumNumber(value) => serializer.serialize_i32(*value),
            Value::I64(value) => serializer.serialize_i64(*value),
            Value::U32(value) => serializer.serialize_u32(*value),
            Value::U64(value) if self.is_id && self.ids == Ids::Hex => {
                serializer.collect_str(&format_args!("{value:x}"))
            }
            Value::U64(value) => serializer.serialize_u64(*value),
            Value::F32(value) => serializer.serialize_f32(*value),
            Value::F64(value) => serializer.serialize_f64(*value),
            Value::String(value) => serializer.serialize_str(value),
            Value::Bytes(value) => serializer.serialize_str(&base64(value)),
            Value::Message(message) => {
                let ids = self.ids;
                ShownMessage { message, ids }.serialize(serializer)
            }
            // etcd's API has no maps, and lists do not nest.
            Value::List(_) | Value::Map(_) => Err(S::Error::custom("nested")),
        }
    }
}

/// Go's name of a oneof.
fn capitalized(name: &str) -> String {
    let words = name.split('_').map(|word| {
        let mut chars = word.chars();
        let first = chars.next().map(|first| first.to_ascii_uppercase());
        first.into_iter().chain(chars).collect::<String>()
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb::{
        Member, MemberListResponse, PutResponse, ResponseHeader, ResponseOp, StatusResponse,
        TxnResponse, response_op::Response,
    };

    use super::*;

    #[test]
    fn a_message_is_shown_as_go_does() {
        let header = ResponseHeader {
            cluster_id: u64::MAX,
            revision: 3,
            ..Default::default()
        };
        let put = PutResponse {
            header: Some(header),
            prev_kv: Some(keelson_proto::mvccpb::KeyValue {
                key: "<&>".into(),
                ..Default::default()
            }),
        };
        let txn = TxnResponse {
            succeeded: true,
            responses: vec![
                ResponseOp {
                    response: Some(Response::ResponsePut(put)),
                },
                ResponseOp { response: None },
            ],
            ..Default::default()
        };
        assert_eq!(
            message(&txn, Ids::Numbers).unwrap(),
            r#"{"succeeded":true,"responses":[{"Response":{"response_put":{"header":{"cluster_id":18446744073709551615,"revision":3},"prev_kv":{"key":"PCY+"}}}},{"Response":null}]}"#
        );
        let status = StatusResponse {
            errors: vec!["a <b> & c".to_owned()],
            downgrade_info: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(
            message(&status, Ids::Numbers).unwrap(),
            r#"{"errors":["a \u003cb\u003e \u0026 c"],"downgradeInfo":{}}"#
        );
        let members = MemberListResponse {
            header: Some(header),
            members: vec![Member {
                id: 255,
                peer_ur_ls: vec!["http://a".to_owned()],
                ..Default::default()
            }],
        };
        assert_eq!(
            message(&members, Ids::Hex).unwrap(),
            r#"{"header":{"cluster_id":"ffffffffffffffff","revision":3},"members":[{"ID":"ff","peerURLs":["http://a"]}]}"#
        );
    }
}
