//! `member`: who belongs to the cluster (contract 2.11, 8.2).

use clap::{Args, Subcommand};
use keelson::config::Url;
use keelson_proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest, ResponseHeader,
};

use crate::cli::Global;
use crate::connect::online;
use crate::exit::CommandError;
use crate::flags::hex_u64;
use crate::output::{Reply, Table, Text, shown_as_message};

/// Commands on members.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Member {
    /// Adds a member into the cluster
    Add(Add),
    /// Removes a member from the cluster
    Remove(Id),
    /// Updates a member in the cluster
    Update(Update),
    /// Lists all members in the cluster
    List(List),
    /// Promotes a non-voting member in the cluster
    Promote(Id),
}

/// `member add`.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// The new member's name
    #[arg(value_name = "memberName")]
    names: Vec<String>,
    /// comma separated peer URLs for the new member
    #[arg(long, default_value = "")]
    peer_urls: String,
    /// indicates if the new member is raft learner
    #[arg(long)]
    learner: bool,
}

/// `member update`.
#[derive(Args, Debug)]
pub(crate) struct Update {
    #[command(flatten)]
    id: Id,
    /// comma separated peer URLs for the updated member
    #[arg(long, default_value = "")]
    peer_urls: String,
}

/// A command's one member.
#[derive(Args, Debug)]
pub(crate) struct Id {
    /// The member's id in hexadecimal
    #[arg(value_name = "memberID")]
    ids: Vec<String>,
}

/// `member list`.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[arg(hide = true)]
    ignored: Vec<String>,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l")]
    consistency: String,
}

/// Runs one of them.
pub(super) fn run(global: &Global, member: &Member) -> Result<(), CommandError> {
    match member {
        Member::Add(flags) => add(global, flags),
        Member::Remove(id) => remove(global, id),
        Member::Update(flags) => update(global, flags),
        Member::List(flags) => list(global, flags),
        Member::Promote(id) => promote(global, id),
    }
}

fn add(global: &Global, flags: &Add) -> Result<(), CommandError> {
    let name = match flags.names.as_slice() {
        [] => Err("member name not provided"),
        [name] => Ok(name),
        // etcd's command counts first and says the same of both.
        _ => Err("too many arguments"),
    };
    let name = name.map_err(CommandError::arguments)?;
    let peer_ur_ls = peer_urls(&flags.peer_urls)?;
    online(global, async |session| {
        let request = MemberAddRequest {
            peer_ur_ls: peer_ur_ls.clone(),
            is_learner: flags.learner,
        };
        let response = checked(session.call().member_add(request), &peer_ur_ls).await?;
        session.output.show_ids(&response)?;
        if session.output.is_simple() {
            print!("{}", environment(name, &peer_ur_ls, &response));
        }
        Ok(())
    })
}

/// What the new member is to be started with.
fn environment(name: &str, peer_urls: &[String], response: &MemberAddResponse) -> String {
    let new = response.member.as_ref().map(|member| member.id);
    let members = response.members.iter().flat_map(|member| {
        let name = if Some(member.id) == new {
            name
        } else {
            &member.name
        };
        let urls = member.peer_ur_ls.iter();
        urls.map(move |url| format!("{name}={url}"))
    });
    let cluster: Vec<String> = members.collect();
    format!(
        "\nETCD_NAME={name:?}\nETCD_INITIAL_CLUSTER={:?}\n\
         ETCD_INITIAL_ADVERTISE_PEER_URLS={:?}\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
        cluster.join(","),
        peer_urls.join(",")
    )
}

fn remove(global: &Global, id: &Id) -> Result<(), CommandError> {
    let id = member_id(id)?;
    online(global, async |session| {
        let response = session
            .call()
            .member_remove(MemberRemoveRequest { id })
            .await?;
        session.output.show_ids(&Done {
            id,
            header: response.header,
            what: "removed from",
            response,
        })
    })
}

fn update(global: &Global, flags: &Update) -> Result<(), CommandError> {
    let id = member_id(&flags.id)?;
    let peer_ur_ls = peer_urls(&flags.peer_urls)?;
    online(global, async |session| {
        let request = MemberUpdateRequest {
            id,
            peer_ur_ls: peer_ur_ls.clone(),
        };
        let response = checked(session.call().member_update(request), &peer_ur_ls).await?;
        session.output.show_ids(&Done {
            id,
            header: response.header,
            what: "updated in",
            response,
        })
    })
}

fn promote(global: &Global, id: &Id) -> Result<(), CommandError> {
    let id = member_id(id)?;
    online(global, async |session| {
        let response = session
            .call()
            .member_promote(MemberPromoteRequest { id })
            .await?;
        session.output.show_ids(&Done {
            id,
            header: response.header,
            what: "promoted in",
            response,
        })
    })
}

fn list(global: &Global, flags: &List) -> Result<(), CommandError> {
    let linearizable = match flags.consistency.as_str() {
        "l" => true,
        "s" => false,
        // etcd's command names the letter that it would have liked.
        _ => {
            let reason = "unknown consistency flag \"l\"";
            return Err(CommandError::BadFeature(reason.to_owned()));
        }
    };
    online(global, async |session| {
        let request = MemberListRequest { linearizable };
        let response = session.call().member_list(request).await?;
        session.output.show_ids(&response)
    })
}

fn member_id(id: &Id) -> Result<u64, CommandError> {
    let [id] = id.ids.as_slice() else {
        return Err(CommandError::arguments("member ID is not provided"));
    };
    hex_u64(id).map_err(|error| {
        CommandError::BadArguments(format!("bad member ID arg ({error}), expecting ID in Hex"))
    })
}

fn peer_urls(text: &str) -> Result<Vec<String>, CommandError> {
    if text.is_empty() {
        return Err(CommandError::arguments("member peer urls not provided"));
    }
    Ok(text.split(',').map(str::to_owned).collect())
}

/// Sends nothing that has a wrong URL in it.
async fn checked<T>(
    call: impl Future<Output = Result<T, keelson_client::Error>>,
    urls: &[String],
) -> Result<T, CommandError> {
    for url in urls {
        Url::parse(url).map_err(CommandError::Failed)?;
    }
    Ok(call.await?)
}

/// A change of one member.
struct Done<M> {
    id: u64,
    header: Option<ResponseHeader>,
    what: &'static str,
    response: M,
}

impl<M: prost::Message + prost::Name> Reply for Done<M> {
    fn simple(&self, out: &mut Text) {
        let cluster = self.header.map_or(0, |header| header.cluster_id);
        let Self { id, what, .. } = self;
        out.line(format_args!("Member {id:16x} {what} cluster {cluster:16x}"));
    }

    fn json(&self, ids: crate::output::json::Ids) -> Option<Result<String, CommandError>> {
        Some(crate::output::json::message(&self.response, ids))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(self.response.encode_to_vec())
    }
}

impl Reply for MemberAddResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        let cluster = self.header.map_or(0, |header| header.cluster_id);
        let member = self.member.clone().unwrap_or_default();
        let learner = if member.is_learner { " as learner" } else { "" };
        let id = member.id;
        out.line(format_args!(
            "Member {id:16x} added{learner} to cluster {cluster:16x}"
        ));
    }
}

impl Reply for MemberListResponse {
    shown_as_message!();

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        for member in &self.members {
            out.id("ID", member.id);
            out.quoted("Name", member.name.as_bytes());
            for url in &member.peer_ur_ls {
                out.quoted("PeerURL", url.as_bytes());
            }
            for url in &member.client_ur_ls {
                out.quoted("ClientURL", url.as_bytes());
            }
            out.field("IsLearner", member.is_learner);
            out.line("");
        }
        Some(())
    }

    fn table(&self) -> Option<Table> {
        let mut table = Table::new(&[
            "ID",
            "STATUS",
            "NAME",
            "PEER ADDRS",
            "CLIENT ADDRS",
            "IS LEARNER",
        ]);
        for member in &self.members {
            // A member has no name until it publishes itself.
            let started = !member.name.is_empty();
            table.row(vec![
                format!("{:x}", member.id),
                if started { "started" } else { "unstarted" }.to_owned(),
                member.name.clone(),
                member.peer_ur_ls.join(","),
                member.client_ur_ls.join(","),
                member.is_learner.to_string(),
            ]);
        }
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use keelson_proto::etcdserverpb;

    use super::*;

    #[test]
    fn what_a_new_member_is_started_with() {
        let member = |id, name: &str, url: &str| etcdserverpb::Member {
            id,
            name: name.to_owned(),
            peer_ur_ls: vec![url.to_owned()],
            ..Default::default()
        };
        let response = MemberAddResponse {
            header: None,
            member: Some(member(2, "", "http://b:2380")),
            members: vec![
                member(1, "a", "http://a:2380"),
                member(2, "", "http://b:2380"),
            ],
        };
        assert_eq!(
            environment("b", &["http://b:2380".to_owned()], &response),
            "\nETCD_NAME=\"b\"\nETCD_INITIAL_CLUSTER=\"a=http://a:2380,b=http://b:2380\"\n\
             ETCD_INITIAL_ADVERTISE_PEER_URLS=\"http://b:2380\"\n\
             ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"
        );
    }
}
