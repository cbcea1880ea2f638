//! URLs of listeners and members (contract 5.1).
//!
//! Not a general URL parser: scheme, host and port, or scheme and socket path; never a path on a
//! TCP URL, never a query.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// How bytes travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// TCP.
    Http,
    /// TLS over TCP.
    Https,
    /// A unix socket.
    Unix,
    /// TLS over a unix socket.
    Unixs,
}

impl Scheme {
    /// Whether it is TLS.
    #[must_use]
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Unixs)
    }

    /// Whether it is a unix socket.
    #[must_use]
    pub fn is_unix(self) -> bool {
        matches!(self, Self::Unix | Self::Unixs)
    }
}

/// One URL; the text it was given as stands in ids and messages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: Scheme,
    address: Address,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    Tcp { host: String, port: u16 },
    Socket(String),
}

impl Url {
    /// Reads one URL.
    ///
    /// # Errors
    /// With etcd's text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let bad_scheme = || format!("URL scheme must be http, https, unix, or unixs: {text}");
        let (scheme, rest) = text.split_once(':').ok_or_else(bad_scheme)?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(bad_scheme()),
        };
        let address = if scheme.is_unix() {
            Address::Socket(rest.strip_prefix("//").unwrap_or(rest).to_owned())
        } else {
            let rest = rest.strip_prefix("//").unwrap_or("");
            let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
            let (host, port) = split_host_port(authority).ok_or_else(|| {
                format!("URL address does not have the form \"host:port\": {text}")
            })?;
            if authority.len() != rest.len() {
                return Err(format!("URL must not contain a path: {text}"));
            }
            if let Some(stray) = host.chars().find(|c| !is_host_character(*c)) {
                let stray = stray.to_string();
                return Err(format!(
                    "parse {text:?}: invalid character {stray:?} in host name"
                ));
            }
            let port = port.parse().map_err(|_| {
                format!(
                    "parse {text:?}: invalid port {:?} after host",
                    format!(":{port}")
                )
            })?;
            Address::Tcp {
                host: host.to_owned(),
                port,
            }
        };
        Ok(Self {
            text: text.to_owned(),
            scheme,
            address,
        })
    }

    /// Reads a comma-separated list; the result is sorted, as etcd sorts it.
    ///
    /// # Errors
    /// For the first URL that is malformed.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        if text.trim().is_empty() {
            return Ok(Vec::new());
        }
        let mut urls = text
            .split(',')
            .map(Self::parse)
            .collect::<Result<Vec<_>, _>>()?;
        urls.sort();
        urls.dedup();
        Ok(urls)
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// How bytes travel.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host name or address, without brackets; none for a unix socket.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match &self.address {
            Address::Tcp { host, .. } => Some(host),
            Address::Socket(_) => None,
        }
    }

    /// The TCP port; none for a unix socket.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match &self.address {
            Address::Tcp { port, .. } => Some(*port),
            Address::Socket(_) => None,
        }
    }

    /// `host:port` as it is bound and dialled; none for a unix socket.
    #[must_use]
    pub fn host_port(&self) -> Option<String> {
        match &self.address {
            Address::Tcp { host, port } if host.contains(':') => Some(format!("[{host}]:{port}")),
            Address::Tcp { host, port } => Some(format!("{host}:{port}")),
            Address::Socket(_) => None,
        }
    }

    /// The unix socket's path.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Tcp { .. } => None,
            Address::Socket(path) => Some(PathBuf::from(path)),
        }
    }

    /// Why it cannot be listened on: a host name other than `localhost` may resolve to an address
    /// of another machine, and none at all is not the same as every address (0.0.0.0).
    #[must_use]
    pub fn bind_problem(&self) -> Option<String> {
        let host = self.host()?;
        let bindable = host == "localhost" || host.parse::<IpAddr>().is_ok();
        (!bindable).then(|| format!("expected IP in URL for binding ({self})"))
    }

    /// Whether it is bound on every interface.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.host()
            .and_then(|host| host.parse::<IpAddr>().ok())
            .is_some_and(|ip| ip.is_unspecified())
    }

    /// The same URL at another host.
    #[must_use]
    pub fn with_host(&self, host: IpAddr) -> Self {
        let Address::Tcp { port, .. } = self.address else {
            return self.clone();
        };
        let name = if self.scheme.is_tls() {
            "https"
        } else {
            "http"
        };
        Self {
            text: format!("{name}://{}", std::net::SocketAddr::new(host, port)),
            scheme: self.scheme,
            address: Address::Tcp {
                host: host.to_string(),
                port,
            },
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// As Go's `net.SplitHostPort`: a host with colons stands in brackets.
fn split_host_port(authority: &str) -> Option<(&str, &str)> {
    let (host, port) = authority.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(host) => Some((host.strip_suffix(']')?, port)),
        None if host.contains(':') || host.contains(']') => None,
        None => Some((host, port)),
    }
}

/// As Go's `net/url` has it, but without escapes: `%` stands only before the zone of an address. A
/// user (`user@host`) has no meaning here, and is refused rather than dropped.
fn is_host_character(character: char) -> bool {
    !character.is_ascii()
        || character.is_ascii_alphanumeric()
        || "-_.~!$&'()*+,;=:<>\"%".contains(character)
}

/// URLs as one comma-separated text.
#[must_use]
pub fn join(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_hosts_and_ports() {
        let url = Url::parse(" http://[::1]:2379 ").unwrap();
        assert_eq!((url.host(), url.port()), (Some("::1"), Some(2379)));
        assert_eq!(url.host_port().as_deref(), Some("[::1]:2379"));
        assert_eq!(url.to_string(), "http://[::1]:2379");
        let url = Url::parse("unix://localhost:m10/a.sock").unwrap();
        assert_eq!(
            url.socket_path(),
            Some(PathBuf::from("localhost:m10/a.sock"))
        );
        assert!(Url::parse("unixs:///tmp/a").unwrap().scheme().is_tls());
        assert_eq!(Url::parse("HTTPS://a:1").unwrap().scheme(), Scheme::Https);
    }

    /// As genuine etcd 3.7.1 prints them.
    #[test]
    fn texts_of_malformed_urls() {
        for (text, error) in [
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            (
                "ftp://a:1",
                "URL scheme must be http, https, unix, or unixs: ftp://a:1",
            ),
            (
                "http://127.0.0.1",
                "URL address does not have the form \"host:port\": http://127.0.0.1",
            ),
            (
                "http://127.0.0.1:1/a",
                "URL must not contain a path: http://127.0.0.1:1/a",
            ),
            (
                "http://x y:1",
                "parse \"http://x y:1\": invalid character \" \" in host name",
            ),
            (
                "http://a:b",
                "parse \"http://a:b\": invalid port \":b\" after host",
            ),
        ] {
            assert_eq!(Url::parse(text).unwrap_err(), error);
        }
        for text in [
            "http:",
            "http://",
            "http://a:b",
            "http://::1:1",
            "http://[::1:1",
            "http://a:70000",
            "http://a:-1",
            "http://user@a:1",
            "http://a\\b:1",
            "http://a:1?b=c",
            "http://a:1#b",
            "https://",
            "",
            "=",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_sorted_and_unique() {
        let urls = Url::parse_list("http://b:1,http://a:1,http://b:1").unwrap();
        assert_eq!(join(&urls), "http://a:1,http://b:1");
        assert_eq!(Url::parse_list("").unwrap(), []);
        assert!(Url::parse_list("http://a:1,").is_err());
    }

    #[test]
    fn only_addresses_can_be_bound() {
        let problem = |text: &str| Url::parse(text).unwrap().bind_problem();
        assert_eq!(
            problem("http://localhost.foo:2399").unwrap(),
            "expected IP in URL for binding (http://localhost.foo:2399)"
        );
        assert_eq!(
            problem("http://:2399").unwrap(),
            "expected IP in URL for binding (http://:2399)"
        );
        for text in [
            "http://localhost:1",
            "http://0.0.0.0:1",
            "http://[::]:1",
            "unix://a:1",
        ] {
            assert_eq!(problem(text), None, "{text}");
        }
    }
}
