//! `move-leader`: another member is to lead (contract 2.10).
//!
//! Only the leader can hand over, so it is looked for among the endpoints first.

use clap::Args;
use keelson_proto::etcdserverpb::{MoveLeaderRequest, MoveLeaderResponse, StatusRequest};

use crate::cli::Global;
use crate::connect::each_endpoint;
use crate::exit::CommandError;
use crate::flags::hex_u64;
use crate::output::{Reply, Text, json};

/// `move-leader`.
#[derive(Args, Debug)]
pub(crate) struct MoveLeader {
    /// The id of the member that is to lead, in hexadecimal
    #[arg(value_name = "transferee-member-id")]
    ids: Vec<String>,
}

/// Hands over.
pub(super) fn run(global: &Global, flags: &MoveLeader) -> Result<(), CommandError> {
    let [target] = flags.ids.as_slice() else {
        return Err(CommandError::arguments(
            "move-leader command needs 1 argument",
        ));
    };
    let target_id = hex_u64(target).map_err(CommandError::BadArguments)?;
    each_endpoint(global, false, async |endpoints| {
        for endpoint in endpoints.all() {
            let client = endpoints.client(endpoint)?;
            let status = client.status(StatusRequest {}).await?;
            let member = status.header.map_or(0, |header| header.member_id);
            if status.leader != member {
                continue;
            }
            let response = client.move_leader(MoveLeaderRequest { target_id }).await?;
            return endpoints.output.show(&Moved {
                from: member,
                to: target_id,
                response,
            });
        }
        let all = endpoints.all().join(" ");
        Err(CommandError::BadArguments(format!(
            "no leader endpoint given at [{all}]"
        )))
    })
}

struct Moved {
    from: u64,
    to: u64,
    response: MoveLeaderResponse,
}

impl Reply for Moved {
    fn simple(&self, out: &mut Text) {
        let Self { from, to, .. } = self;
        out.line(format_args!(
            "Leadership transferred from {from:x} to {to:x}"
        ));
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json::message(&self.response, ids))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(prost::Message::encode_to_vec(&self.response))
    }
}
