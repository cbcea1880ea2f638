//! What goes with every call (contract 2.1, "Metadata").

use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};

/// The API's version that this client speaks.
const API_VERSION: &str = "3.7";

/// Whether a stream wants to be ended when its member has no leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    Any,
    Required,
}

/// A request with its metadata.
pub(crate) fn request<T>(
    message: T,
    token: Option<&MetadataValue<Ascii>>,
    leader: Leader,
) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert(
        "client-api-version",
        MetadataValue::from_static(API_VERSION),
    );
    if let Some(token) = token {
        metadata.insert("token", token.clone());
    }
    if leader == Leader::Required {
        metadata.insert("hasleader", MetadataValue::from_static("true"));
    }
    request
}
