//! `downgrade`: back to the version before (contract 2.10).

use clap::{Args, Subcommand};
use keelson_proto::etcdserverpb::{
    DowngradeRequest, DowngradeResponse, downgrade_request::DowngradeAction,
};

use crate::cli::{Global, Ignored};
use crate::connect::online;
use crate::exit::CommandError;
use crate::output::{Reply, Text, json};

/// Commands on downgrades.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Downgrade {
    /// Validate downgrade capability before starting downgrade
    Validate(Target),
    /// Start a downgrade action to cluster
    Enable(Target),
    /// Cancel the ongoing downgrade action to cluster
    Cancel(Ignored),
}

/// A command's one version.
#[derive(Args, Debug)]
pub(crate) struct Target {
    /// The version to go to, X.Y
    #[arg(value_name = "TARGET_VERSION")]
    versions: Vec<String>,
}

/// Runs one of them.
pub(super) fn run(global: &Global, downgrade: &Downgrade) -> Result<(), CommandError> {
    let (what, action, version) = match downgrade {
        Downgrade::Validate(target) => ("validate", DowngradeAction::Validate, version(target)?),
        Downgrade::Enable(target) => ("enable", DowngradeAction::Enable, version(target)?),
        Downgrade::Cancel(_) => ("cancel", DowngradeAction::Cancel, String::new()),
    };
    online(global, async |session| {
        let request = DowngradeRequest {
            action: action.into(),
            version,
        };
        let response = session.call().downgrade(request).await?;
        session.output.show(&Done { what, response })
    })
}

fn version(target: &Target) -> Result<String, CommandError> {
    match target.versions.as_slice() {
        [] => Err(CommandError::arguments("TARGET_VERSION not provided")),
        [version] => Ok(version.clone()),
        _ => Err(CommandError::arguments("too many arguments")),
    }
}

struct Done {
    what: &'static str,
    response: DowngradeResponse,
}

impl Reply for Done {
    fn simple(&self, out: &mut Text) {
        let (what, version) = (self.what, &self.response.version);
        out.line(format_args!(
            "Downgrade {what} success, cluster version {version}"
        ));
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json::message(&self.response, ids))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(prost::Message::encode_to_vec(&self.response))
    }
}
