//! A member in the process of a test.

#![allow(missing_docs, clippy::unwrap_used, reason = "a part of test programs")]

use std::sync::{Arc, OnceLock};

use keelson::config::{Config, Settings, Source};
use keelson::metrics::Metrics;
use keelson::server::Server;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// Ids follow from this URL, so they are the same in every run. Nobody connects to it.
const PEER_URL: &str = "http://127.0.0.1:33380";
/// A member in this process.
pub(crate) struct Member {
    runtime: Runtime,
    server: Option<Server>,
    pub(crate) address: String,
    _directory: TempDir,
}

impl Member {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let mut settings = Settings::default();
        let data_dir = directory.path().join("data");
        for (name, value) in [
            ("name", "m0"),
            ("data-dir", data_dir.to_str().unwrap()),
            ("listen-client-urls", &format!("http://{address}")),
            ("advertise-client-urls", "http://127.0.0.1:33379"),
            ("listen-peer-urls", "http://127.0.0.1:0"),
            ("initial-advertise-peer-urls", PEER_URL),
            ("initial-cluster", &format!("m0={PEER_URL}")),
        ] {
            settings.set(name, value, Source::Flag).unwrap();
        }
        let config = Config::from_settings(&settings).unwrap();
        let metrics = Arc::new(Metrics::new(&config));
        let ready = Arc::new(OnceLock::new());
        metrics.read_node(&ready);
        let page = Arc::clone(&metrics);
        let runtime = Runtime::new().unwrap();
        let server = runtime.block_on(async {
            Server::start(
                config.to_server_config(1 << 16).unwrap(),
                metrics.observers(),
                Arc::new(move || page.page()),
                Arc::clone(&metrics.grpc),
                ready,
                &CancellationToken::new(),
            )
            .await
            .unwrap()
        });
        Self {
            runtime,
            server,
            address,
            _directory: directory,
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }
}
