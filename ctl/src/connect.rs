//! A client as the global flags describe it (contract 8.1).

use keelson::dns::Resolver;
use keelson_client::{Client, Config, Credentials, Error};
use keelson_proto::etcdserverpb::MemberListRequest;

use crate::cli::Global;
use crate::exit::CommandError;
use crate::output::Output;
use crate::password;

/// What a command that speaks to a cluster works with.
pub(crate) struct Session<'a> {
    pub(crate) global: &'a Global,
    pub(crate) output: Output,
    /// Has no deadline.
    pub(crate) client: Client,
}

impl Session<'_> {
    /// A client for a short call.
    pub(crate) fn call(&self) -> Client {
        self.client.within(self.global.command_timeout())
    }
}

/// Runs a command that speaks to a cluster.
pub(crate) fn online<T>(
    global: &Global,
    work: impl AsyncFnOnce(Session<'_>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let output = Output::of(global)?;
    block_on(async {
        let global = Global {
            endpoints: endpoints(global).await?,
            ..global.clone()
        };
        let config = config(&global)?;
        let client = Client::new(config)?;
        let logged_in = client.within(global.dial_timeout).log_in().await;
        logged_in.map_err(|error| CommandError::BadConnection(error.to_string()))?;
        let session = Session {
            global: &global,
            output,
            client,
        };
        work(session).await
    })
}

/// Runs a command that speaks to endpoints one by one: those given, or with `cluster` all that the
/// members advertise. The client is for the settings of each.
pub(crate) fn each_endpoint<T>(
    global: &Global,
    cluster: bool,
    work: impl AsyncFnOnce(Endpoints) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let output = Output::of(global)?;
    block_on(async {
        let global = Global {
            endpoints: endpoints(global).await?,
            ..global.clone()
        };
        let mut config = config(&global)?;
        if cluster {
            let client = Client::new(config.clone())?.within(global.command_timeout());
            let listed = of_cluster(&client).await;
            config.endpoints = listed.map_err(|error| no_list(&error))?;
        }
        let endpoints = Endpoints {
            output,
            timeout: global.command_timeout(),
            config,
        };
        work(endpoints).await
    })
}

/// Several endpoints, each to be asked by itself.
pub(crate) struct Endpoints {
    pub(crate) output: Output,
    timeout: std::time::Duration,
    config: Config,
}

impl Endpoints {
    /// Their texts.
    pub(crate) fn all(&self) -> &[String] {
        &self.config.endpoints
    }

    /// A client of one of them, for a short call.
    pub(crate) fn client(&self, endpoint: &str) -> Result<Client, Error> {
        let config = Config {
            endpoints: vec![endpoint.to_owned()],
            ..self.config.clone()
        };
        Ok(Client::new(config)?.within(self.timeout))
    }
}

async fn of_cluster(client: &Client) -> Result<Vec<String>, Error> {
    let request = MemberListRequest { linearizable: true };
    let members = client.member_list(request).await?.members;
    let mut endpoints: Vec<String> = Vec::new();
    for url in members.into_iter().flat_map(|member| member.client_ur_ls) {
        if !endpoints.contains(&url) {
            endpoints.push(url);
        }
    }
    Ok(endpoints)
}

fn no_list(error: &Error) -> CommandError {
    CommandError::Failed(format!(
        "failed to fetch endpoints from etcd cluster member list: {error}"
    ))
}

/// Runs something asynchronous.
pub(crate) fn block_on<T>(
    work: impl Future<Output = Result<T, CommandError>>,
) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(CommandError::failed)?;
    let result = runtime.block_on(work);
    // A thread may wait for standard input, which nobody will close.
    runtime.shutdown_background();
    result
}

/// Those given, or those that DNS knows.
async fn endpoints(global: &Global) -> Result<Vec<String>, CommandError> {
    if global.discovery_srv.is_empty() {
        return Ok(global.endpoints.clone());
    }
    let resolver = Resolver::system();
    let suffix = match global.discovery_srv_name.as_str() {
        "" => String::new(),
        name => format!("-{name}"),
    };
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    for (scheme, service) in [("https", "etcd-client-ssl"), ("http", "etcd-client")] {
        if scheme == "http" && !global.insecure_discovery {
            continue;
        }
        let service = format!("{service}{suffix}");
        match resolver.srv(&service, &global.discovery_srv).await {
            Ok(records) => found.extend(records.iter().map(|record| {
                let host = record.target.trim_end_matches('.');
                format!("{scheme}://{host}:{}", record.port)
            })),
            Err(error) => failures.push(error.to_string()),
        }
    }
    if found.is_empty() {
        return Err(CommandError::BadArguments(failures.join("; ")));
    }
    Ok(found)
}

fn config(global: &Global) -> Result<Config, CommandError> {
    let Global { cert, key, .. } = global;
    if cert.is_empty() != key.is_empty() {
        return Err(CommandError::BadArguments(format!(
            "KeyFile and CertFile must both be present[key: {key}, cert: {cert}]"
        )));
    }
    let wants_tls = !cert.is_empty() || !global.cacert.is_empty() || !global.insecure_transport;
    if wants_tls {
        return Err(Error::Tls.into());
    }
    Ok(Config {
        dial_timeout: global.dial_timeout,
        keepalive_time: global.keepalive_time,
        keepalive_timeout: global.keepalive_timeout,
        request_bytes_max: usize::try_from(global.max_request_bytes).unwrap_or(0),
        response_bytes_max: usize::try_from(global.max_recv_bytes).unwrap_or(0),
        credentials: credentials(global)?,
        ..Config::new(global.endpoints.clone())
    })
}

fn credentials(global: &Global) -> Result<Credentials, CommandError> {
    if !global.auth_jwt_token.is_empty() {
        return Ok(Credentials::Token(global.auth_jwt_token.clone()));
    }
    if global.user.is_empty() {
        return Ok(Credentials::None);
    }
    let (name, password) = if !global.password.is_empty() {
        (global.user.clone(), global.password.clone())
    } else if let Some((name, password)) = global.user.split_once(':') {
        (name.to_owned(), password.to_owned())
    } else {
        (global.user.clone(), password::ask("Password: ")?)
    };
    Ok(Credentials::Password { name, password })
}
