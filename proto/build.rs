//! Compiles the .proto files without protoc, and the KV and Watch services with the server's own
//! response types (`src/raw.rs`).

use std::path::PathBuf;

use prost::Message as _;
use tonic_build::manual;

const FILES: &[&str] = &[
    "etcdserverpb/rpc.proto",
    "v3lockpb/v3lock.proto",
    "v3electionpb/v3election.proto",
    "grpc/health/v1.proto",
    "keelson/raft.proto",
    "keelson/peer.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["proto"])?;
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    // Whoever shows a message finds its descriptor by the type's name.
    config.enable_type_names();
    // google.api's annotations are options of the descriptors; no code is needed for them.
    config.extern_path(".google.api", "crate");
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;

    let raw_dir = out.join("raw");
    std::fs::create_dir_all(&raw_dir)?;
    manual::Builder::new()
        .build_client(false)
        .out_dir(raw_dir)
        .compile(&[kv_service(), watch_service()]);
    Ok(())
}

/// The KV service as the server offers it (design R1).
fn kv_service() -> manual::Service {
    let method = |name: &str, route: &str, input: &str, output: &str| {
        manual::Method::builder()
            .name(name)
            .route_name(route)
            .input_type(format!("crate::etcdserverpb::{input}"))
            .output_type(format!("crate::{output}"))
            .codec_path("tonic_prost::ProstCodec")
    };
    manual::Service::builder()
        .name("KV")
        .package("etcdserverpb")
        .method(method("range", "Range", "RangeRequest", "raw::RangeResponse").build())
        .method(
            method(
                "range_stream",
                "RangeStream",
                "RangeRequest",
                "raw::RangeStreamResponse",
            )
            .server_streaming()
            .build(),
        )
        .method(method("put", "Put", "PutRequest", "raw::PutResponse").build())
        .method(
            method(
                "delete_range",
                "DeleteRange",
                "DeleteRangeRequest",
                "raw::DeleteRangeResponse",
            )
            .build(),
        )
        .method(method("txn", "Txn", "TxnRequest", "raw::TxnResponse").build())
        .method(
            method(
                "compact",
                "Compact",
                "CompactionRequest",
                "etcdserverpb::CompactionResponse",
            )
            .build(),
        )
        .build()
}

/// The Watch service as the server offers it (design R1).
fn watch_service() -> manual::Service {
    manual::Service::builder()
        .name("Watch")
        .package("etcdserverpb")
        .method(
            manual::Method::builder()
                .name("watch")
                .route_name("Watch")
                .input_type("crate::etcdserverpb::WatchRequest")
                .output_type("crate::raw::WatchResponse")
                .codec_path("tonic_prost::ProstCodec")
                .client_streaming()
                .server_streaming()
                .build(),
        )
        .build()
}
