//! SRV records (RFC 2782) from the system's name servers.
//!
//! The system's own resolver knows no SRV records, so the name servers of `/etc/resolv.conf` are
//! asked here: over UDP, again over TCP if an answer does not fit, each in turn, each at most so
//! often and so long as the file says. Names are completed by its search list as Go's resolver does.
//! Host names are left to the system.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rand::Rng as _;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// What the system's resolver is configured by.
const SYSTEM_CONFIGURATION: &str = "/etc/resolv.conf";
/// Name servers that are asked, as the C library has it.
const SERVERS_MAX: usize = 3;
/// Names tried for one that is asked for.
const CANDIDATES_MAX: usize = 7;
/// How often and how long a server may be asked at most, whatever the file says.
const ATTEMPTS_MAX: u32 = 5;
/// As above.
const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// No UDP answer is longer.
const UDP_ANSWER_BYTES_MAX: usize = 64 << 10;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Srv {
    /// The lowest is first.
    pub priority: u16,
    /// The host, with a dot at its end.
    pub target: String,
    /// The service's port there.
    pub port: u16,
}

/// Why there are no records, in the words of Go's resolver.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The name, or its records, do not exist.
    #[error("lookup {name} on {server}: no such host")]
    NotFound {
        /// Which name.
        name: String,
        /// Who says so.
        server: SocketAddr,
    },
    /// The server cannot tell.
    #[error("lookup {name} on {server}: server misbehaving")]
    Misbehaving {
        /// Which name.
        name: String,
        /// Who.
        server: SocketAddr,
    },
    /// The server was not reached, or did not answer in time.
    #[error("lookup {name} on {server}: {source}")]
    Unreachable {
        /// Which name.
        name: String,
        /// Who.
        server: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The name is none.
    #[error("lookup {0}: no such host")]
    BadName(String),
}

/// Asks name servers.
#[derive(Clone, Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    attempts: u32,
    timeout: Duration,
}

/// What one server's answer to one question is.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Records(Vec<Srv>),
    NotFound,
    Misbehaving,
    /// The rest comes over TCP.
    Truncated,
    /// It answers something else.
    NotOurs,
}

impl Resolver {
    /// Asks these servers; each for `timeout`, `attempts` times.
    #[must_use]
    pub fn new(servers: Vec<SocketAddr>, attempts: u32, timeout: Duration) -> Self {
        Self {
            servers: servers.into_iter().take(SERVERS_MAX).collect(),
            search: Vec::new(),
            attempts: attempts.clamp(1, ATTEMPTS_MAX),
            timeout: timeout.min(TIMEOUT_MAX),
        }
    }

    /// Asks the servers that the system asks. Without a configuration that is the machine's own.
    #[must_use]
    pub fn system() -> Self {
        Self::configured(Path::new(SYSTEM_CONFIGURATION))
    }

    fn configured(path: &Path) -> Self {
        let text = std::fs::read(path).unwrap_or_default();
        // As everywhere, lines that cannot be read are as good as none.
        let (config, _) = resolv_conf::Config::parse_with_errors(&text);
        let mut servers: Vec<SocketAddr> = config
            .nameservers
            .iter()
            .map(|address| SocketAddr::new(IpAddr::from(address.clone()), 53))
            .collect();
        if servers.is_empty() {
            servers.push(SocketAddr::from(([127, 0, 0, 1], 53)));
        }
        let timeout = Duration::from_secs(config.timeout.max(1).into());
        let mut resolver = Self::new(servers, config.attempts, timeout);
        let search = config.get_last_search_or_domain();
        resolver.search = search.map(ToOwned::to_owned).collect();
        resolver
    }

    /// The records of `_service._tcp.domain`, the preferred ones first.
    ///
    /// # Errors
    /// When no server has any.
    pub async fn srv(&self, service: &str, domain: &str) -> Result<Vec<Srv>, DnsError> {
        let name = format!("_{service}._tcp.{domain}");
        let mut first_error = None;
        for candidate in self.candidates(&name) {
            match self.ask_servers(&candidate).await {
                Ok(records) => return Ok(records),
                Err(error) => {
                    let error = error.under(&name);
                    let goes_on = matches!(error, DnsError::NotFound { .. });
                    first_error.get_or_insert(error);
                    if !goes_on {
                        break;
                    }
                }
            }
        }
        Err(first_error.unwrap_or(DnsError::BadName(name)))
    }

    /// The name itself, then with each suffix of the search list: a service's name has dots enough to
    /// be tried as it is at first.
    fn candidates(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.to_owned()];
        }
        let suffixes = self.search.iter().map(|suffix| suffix.trim_matches('.'));
        let completed = suffixes
            .filter(|suffix| !suffix.is_empty())
            .map(|suffix| format!("{name}.{suffix}."));
        std::iter::once(format!("{name}."))
            .chain(completed)
            .take(CANDIDATES_MAX)
            .collect()
    }

    async fn ask_servers(&self, name: &str) -> Result<Vec<Srv>, DnsError> {
        let mut last_error = DnsError::BadName(name.to_owned());
        for _ in 0..self.attempts {
            for server in &self.servers {
                let (name, server) = (name.to_owned(), *server);
                let asked = tokio::time::timeout(self.timeout, ask(server, &name)).await;
                let timed_out = || std::io::Error::new(std::io::ErrorKind::TimedOut, "i/o timeout");
                last_error = match asked.unwrap_or_else(|_| Err(timed_out())) {
                    Ok(Answer::Records(mut records)) => {
                        records.sort();
                        return Ok(records);
                    }
                    Ok(Answer::NotFound) => return Err(DnsError::NotFound { name, server }),
                    Ok(Answer::Misbehaving | Answer::Truncated | Answer::NotOurs) => {
                        DnsError::Misbehaving { name, server }
                    }
                    Err(source) => DnsError::Unreachable {
                        name,
                        server,
                        source,
                    },
                };
            }
        }
        Err(last_error)
    }
}

impl DnsError {
    /// The same about the name that was asked for.
    fn under(self, asked: &str) -> Self {
        let name = asked.to_owned();
        match self {
            Self::NotFound { server, .. } => Self::NotFound { name, server },
            Self::Misbehaving { server, .. } => Self::Misbehaving { name, server },
            Self::Unreachable { server, source, .. } => Self::Unreachable {
                name,
                server,
                source,
            },
            Self::BadName(_) => Self::BadName(name),
        }
    }
}

async fn ask(server: SocketAddr, name: &str) -> std::io::Result<Answer> {
    let id = rand::rng().random();
    let question = question(id, name)?;
    let local = match server {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0; 16], 0)),
    };
    let socket = UdpSocket::bind(local).await?;
    // From now on only this server is heard.
    socket.connect(server).await?;
    socket.send(&question).await?;
    let mut answer = vec![0; UDP_ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut answer).await?;
        match read_answer(answer.get(..length).unwrap_or_default(), id, name) {
            // Somebody guesses, or it is late.
            Answer::NotOurs => {}
            Answer::Truncated => return ask_again(server, &question, id, name).await,
            answer => return Ok(answer),
        }
    }
}

/// Over TCP a message has its length before it.
async fn ask_again(
    server: SocketAddr,
    question: &[u8],
    id: u16,
    name: &str,
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(read_answer(&answer, id, name))
}

fn question(id: u16, name: &str) -> std::io::Result<Vec<u8>> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).map_err(std::io::Error::other)?;
    let question = Question::new(name, TYPE::SRV.into(), CLASS::IN.into(), false);
    packet.questions.push(question);
    packet.build_bytes_vec().map_err(std::io::Error::other)
}

fn read_answer(bytes: &[u8], id: u16, name: &str) -> Answer {
    let Ok(packet) = Packet::parse(bytes) else {
        return Answer::NotOurs;
    };
    let asked = |question: &Question<'_>| {
        let asked = question.qname.to_string();
        asked.eq_ignore_ascii_case(name.trim_end_matches('.'))
    };
    let is_answer = packet.has_flags(PacketFlag::RESPONSE) && packet.id() == id;
    if !is_answer || !packet.questions.first().is_some_and(asked) {
        return Answer::NotOurs;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Answer::Truncated;
    }
    match packet.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Answer::NotFound,
        _ => return Answer::Misbehaving,
    }
    let records: BTreeSet<Srv> = packet
        .answers
        .iter()
        .filter_map(|record| match &record.rdata {
            RData::SRV(srv) => Some(Srv {
                priority: srv.priority,
                target: format!("{}.", srv.target),
                port: srv.port,
            }),
            _ => None,
        })
        .collect();
    if records.is_empty() {
        return Answer::NotFound;
    }
    Answer::Records(records.into_iter().collect())
}

#[cfg(test)]
#[path = "dns_tests.rs"]
mod tests;
