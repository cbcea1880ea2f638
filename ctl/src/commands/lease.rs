//! `lease`: keys with an end (contract 2.8, 8.2).
//!
//! etcd's tool shows most of these replies in a form of its own: the header's fields stand beside the
//! others in JSON, and are all there is in protobuf.

use clap::{Args, Subcommand};
use keelson_client::lease::KeepAlive;
use keelson_proto::etcdserverpb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, ResponseHeader,
};
use serde::Serialize;

use crate::cli::{Global, Ignored};
use crate::connect::online;
use crate::exit::CommandError;
use crate::flags::{decimal, hex_i64};
use crate::output::{Reply, Text, json};

/// Commands on leases.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Lease {
    /// Creates leases
    Grant(Grant),
    /// Revokes leases
    Revoke(Id),
    /// Get lease information
    Timetolive(TimeToLive),
    /// List all active leases
    List(Ignored),
    /// Keeps leases alive (renew)
    KeepAlive(KeepAliveFlags),
}

/// `lease grant`.
#[derive(Args, Debug)]
pub(crate) struct Grant {
    /// Seconds to live
    #[arg(value_name = "ttl")]
    ttls: Vec<String>,
}

/// A command's one lease.
#[derive(Args, Debug)]
pub(crate) struct Id {
    /// The lease's id in hexadecimal
    #[arg(value_name = "leaseID")]
    ids: Vec<String>,
}

/// `lease timetolive`.
#[derive(Args, Debug)]
pub(crate) struct TimeToLive {
    #[command(flatten)]
    id: Id,
    /// Get keys attached to this lease
    #[arg(long)]
    keys: bool,
}

/// `lease keep-alive`.
#[derive(Args, Debug)]
pub(crate) struct KeepAliveFlags {
    #[command(flatten)]
    id: Id,
    /// Resets the keep-alive time to its original value and exits
    #[arg(long)]
    once: bool,
}

/// Runs one of them.
pub(super) fn run(global: &Global, lease: &Lease) -> Result<(), CommandError> {
    match lease {
        Lease::Grant(flags) => grant(global, flags),
        Lease::Revoke(id) => revoke(global, id),
        Lease::Timetolive(flags) => time_to_live(global, flags),
        Lease::List(_) => online(global, async |session| {
            let response = session.call().lease_leases(LeaseLeasesRequest {}).await?;
            session.output.show(&response)
        }),
        Lease::KeepAlive(flags) => keep_alive(global, flags),
    }
}

fn grant(global: &Global, flags: &Grant) -> Result<(), CommandError> {
    let [ttl] = flags.ttls.as_slice() else {
        let reason = "lease grant command needs TTL argument";
        return Err(CommandError::arguments(reason));
    };
    let ttl = decimal(ttl);
    let ttl = ttl.map_err(|error| CommandError::BadArguments(format!("bad TTL ({error})")))?;
    online(global, async |session| {
        let request = LeaseGrantRequest { ttl, id: 0 };
        let granted = session.call().lease_grant(request).await;
        let response = granted.map_err(|error| failed("grant", error))?;
        session.output.show(&response)
    })
}

fn revoke(global: &Global, id: &Id) -> Result<(), CommandError> {
    let id = lease_id(id, "lease revoke command needs 1 argument")?;
    online(global, async |session| {
        let revoked = session.call().lease_revoke(LeaseRevokeRequest { id }).await;
        let response = revoked.map_err(|error| failed("revoke", error))?;
        session.output.show(&Revoked { id, response })
    })
}

fn time_to_live(global: &Global, flags: &TimeToLive) -> Result<(), CommandError> {
    let id = lease_id(
        &flags.id,
        "lease timetolive command needs lease ID as argument",
    )?;
    let keys = flags.keys;
    online(global, async |session| {
        let request = LeaseTimeToLiveRequest { id, keys };
        let response = session.call().lease_time_to_live(request).await?;
        session.output.show(&Remaining { response, keys })
    })
}

fn keep_alive(global: &Global, flags: &KeepAliveFlags) -> Result<(), CommandError> {
    let id = lease_id(
        &flags.id,
        "lease keep-alive command needs lease ID as argument",
    )?;
    online(global, async |session| {
        let mut alive = KeepAlive::new(&session.client, id);
        loop {
            match alive.next().await {
                Ok(Some(response)) => session.output.show(&response)?,
                Ok(None) if flags.once => {
                    let gone = keelson_proto::error::Error::LeaseNotFound;
                    return Err(CommandError::BadConnection(gone.to_string()));
                }
                Ok(None) => {
                    println!("lease {id:016x} expired or revoked.");
                    return Ok(());
                }
                Err(error) => return Err(CommandError::BadConnection(error.to_string())),
            }
            if flags.once {
                return Ok(());
            }
        }
    })
}

fn lease_id(id: &Id, missing: &str) -> Result<i64, CommandError> {
    let [id] = id.ids.as_slice() else {
        return Err(CommandError::arguments(missing));
    };
    hex_i64(id).map_err(|error| {
        CommandError::BadArguments(format!("bad lease ID arg ({error}), expecting ID in Hex"))
    })
}

fn failed(what: &str, error: keelson_client::Error) -> CommandError {
    match CommandError::from(error) {
        CommandError::Failed(text) => {
            CommandError::Failed(format!("failed to {what} lease ({text})"))
        }
        CommandError::NoConnection(reason) => {
            crate::exit::warn_no_connection(&reason);
            CommandError::Failed(format!(
                "failed to {what} lease (context deadline exceeded)"
            ))
        }
        other => other,
    }
}

/// A header beside other fields.
#[derive(Serialize)]
struct Header {
    #[serde(skip_serializing_if = "is_zero")]
    cluster_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    member_id: u64,
    #[serde(skip_serializing_if = "is_zero")]
    revision: u64,
    #[serde(skip_serializing_if = "is_zero")]
    raft_term: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl From<Option<ResponseHeader>> for Header {
    fn from(header: Option<ResponseHeader>) -> Self {
        let header = header.unwrap_or_default();
        Self {
            cluster_id: header.cluster_id,
            member_id: header.member_id,
            revision: u64::try_from(header.revision).unwrap_or(0),
            raft_term: header.raft_term,
        }
    }
}

fn header_bytes(header: Option<ResponseHeader>) -> Option<Vec<u8>> {
    Some(prost::Message::encode_to_vec(&header.unwrap_or_default()))
}

impl Reply for LeaseGrantResponse {
    fn simple(&self, out: &mut Text) {
        let (id, ttl) = (self.id, self.ttl);
        out.line(format_args!("lease {id:016x} granted with TTL({ttl}s)"));
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        out.field("ID", self.id);
        out.field("TTL", self.ttl);
        Some(())
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        #[derive(Serialize)]
        struct Shown<'a> {
            #[serde(flatten)]
            header: Header,
            #[serde(rename = "ID")]
            id: i64,
            #[serde(rename = "TTL")]
            ttl: i64,
            #[serde(rename = "Error")]
            error: &'a str,
        }
        Some(json::line(&Shown {
            header: self.header.into(),
            id: self.id,
            ttl: self.ttl,
            error: &self.error,
        }))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.header)
    }
}

struct Revoked {
    id: i64,
    response: LeaseRevokeResponse,
}

impl Reply for Revoked {
    fn simple(&self, out: &mut Text) {
        out.line(format_args!("lease {:016x} revoked", self.id));
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.response.header.as_ref());
        Some(())
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json::message(&self.response, ids))
    }
}

impl Reply for LeaseKeepAliveResponse {
    fn simple(&self, out: &mut Text) {
        let (id, ttl) = (self.id, self.ttl);
        out.line(format_args!("lease {id:016x} keepalived with TTL({ttl})"));
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        out.field("ID", self.id);
        out.field("TTL", self.ttl);
        Some(())
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        #[derive(Serialize)]
        struct Shown {
            #[serde(flatten)]
            header: Header,
            #[serde(rename = "ID")]
            id: i64,
            #[serde(rename = "TTL")]
            ttl: i64,
        }
        Some(json::line(&Shown {
            header: self.header.into(),
            id: self.id,
            ttl: self.ttl,
        }))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.header)
    }
}

struct Remaining {
    response: LeaseTimeToLiveResponse,
    keys: bool,
}

impl Reply for Remaining {
    fn simple(&self, out: &mut Text) {
        let response = &self.response;
        let (id, granted, ttl) = (response.id, response.granted_ttl, response.ttl);
        if granted == 0 && ttl == -1 {
            out.line(format_args!("lease {id:016x} already expired"));
            return;
        }
        let begin = format!("lease {id:016x} granted with TTL({granted}s), remaining({ttl}s)");
        out.raw(begin.as_bytes());
        if self.keys {
            let keys: Vec<&[u8]> = response.keys.iter().map(|key| &key[..]).collect();
            out.raw(b", attached keys([");
            out.raw(&keys.join(&b' '));
            out.raw(b"])");
        }
        out.line("");
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        let response = &self.response;
        out.header(response.header.as_ref());
        out.field("ID", response.id);
        out.field("TTL", response.ttl);
        out.field("GrantedTTL", response.granted_ttl);
        for key in &response.keys {
            out.quoted("Key", key);
        }
        Some(())
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        #[derive(Serialize)]
        #[serde(rename_all = "kebab-case")]
        struct Shown {
            #[serde(flatten)]
            header: Header,
            id: i64,
            ttl: i64,
            granted_ttl: i64,
            keys: Option<Vec<String>>,
        }
        let response = &self.response;
        let keys: Vec<String> = response.keys.iter().map(|key| json::base64(key)).collect();
        Some(json::line(&Shown {
            header: response.header.into(),
            id: response.id,
            ttl: response.ttl,
            granted_ttl: response.granted_ttl,
            keys: (!keys.is_empty()).then_some(keys),
        }))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.response.header)
    }
}

impl Reply for LeaseLeasesResponse {
    fn simple(&self, out: &mut Text) {
        out.line(format_args!("found {} leases", self.leases.len()));
        for lease in &self.leases {
            out.line(format_args!("{:016x}", lease.id));
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        for lease in &self.leases {
            out.field("ID", lease.id);
        }
        Some(())
    }

    fn json(&self, _: json::Ids) -> Option<Result<String, CommandError>> {
        #[derive(Serialize)]
        struct One {
            id: i64,
        }
        #[derive(Serialize)]
        struct Shown {
            #[serde(flatten)]
            header: Header,
            leases: Vec<One>,
        }
        let leases = self.leases.iter().map(|lease| One { id: lease.id });
        Some(json::line(&Shown {
            header: self.header.into(),
            leases: leases.collect(),
        }))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        header_bytes(self.header)
    }
}
