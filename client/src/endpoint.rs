//! What an endpoint's text means.

use tonic::transport::Endpoint;

use crate::config::Config;
use crate::error::Error;

/// Room for messages on their way: a snapshot must not wait for the window of each round trip.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// Reads `host:port`, `http://host:port` or `unix://path`.
pub(crate) fn parse(text: &str, config: &Config) -> Result<Endpoint, Error> {
    if text.starts_with("https://") || text.starts_with("unixs:") {
        return Err(Error::Tls);
    }
    let address = if text.starts_with("http://") || text.starts_with("unix:") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let endpoint = Endpoint::from_shared(address).map_err(|error| Error::InvalidEndpoint {
        endpoint: text.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(endpoint
        .connect_timeout(config.dial_timeout)
        .http2_keep_alive_interval(config.ping_pause())
        .keep_alive_timeout(config.keepalive_timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        let config = Config::new(Vec::new());
        for good in ["127.0.0.1:2379", "http://localhost:1", "unix:///tmp/socket"] {
            assert!(parse(good, &config).is_ok(), "{good}");
        }
        assert!(matches!(parse("https://a:1", &config), Err(Error::Tls)));
        assert!(matches!(
            parse("a b", &config),
            Err(Error::InvalidEndpoint { .. })
        ));
    }
}
