//! A request above the receive limit is refused as grpc-go does it (contract 2.1).
//!
//! tonic finds it while it decodes, before any handler is asked, and answers OutOfRange with words
//! of its own. Clients know the code ResourceExhausted and etcd's text.

use http::Response;
use tonic::body::Body;
use tonic::{Code, Status};

/// How tonic's text begins.
const PREFIX: &str = "Error, decoded message length too large: found ";

/// Puts the refusal of a message above the limit into etcd's words; leaves all else alone.
pub(super) fn reword(response: Response<Body>) -> Response<Body> {
    // Only a response without messages has its status here.
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    let status = Status::from_header_map(response.headers());
    match status.as_ref().and_then(translate) {
        Some(status) => status.into_http(),
        None => response,
    }
}

fn translate(status: &Status) -> Option<Status> {
    if status.code() != Code::OutOfRange {
        return None;
    }
    let sizes = status.message().strip_prefix(PREFIX)?;
    let (found, rest) = sizes.split_once(" bytes, the limit is: ")?;
    let limit = rest.strip_suffix(" bytes")?;
    Some(Status::resource_exhausted(format!(
        "grpc: received message larger than max ({found} vs. {limit})"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tonics_refusal_is_reworded() {
        let tonics = Status::out_of_range(format!("{PREFIX}30 bytes, the limit is: 20 bytes"));
        let reworded = Status::from_header_map(reword(tonics.into_http()).headers()).unwrap();
        assert_eq!(reworded.code(), Code::ResourceExhausted);
        assert_eq!(
            reworded.message(),
            "grpc: received message larger than max (30 vs. 20)"
        );
        for status in [Status::out_of_range("other"), Status::internal(PREFIX)] {
            let kept = Status::from_header_map(reword(status.clone().into_http()).headers());
            let kept = kept.unwrap();
            assert_eq!(
                (kept.code(), kept.message()),
                (status.code(), status.message())
            );
        }
    }
}
