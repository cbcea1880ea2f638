//! `auth`: whether users and roles count (contract 7.2, 8.2).

use clap::Subcommand;
use keelson_client::Client;
use keelson_proto::error::Error as ApiError;
use keelson_proto::etcdserverpb::{
    AuthDisableRequest, AuthEnableRequest, AuthRoleAddRequest, AuthStatusRequest,
    AuthStatusResponse, AuthUserGrantRoleRequest,
};

use crate::cli::{Global, Ignored};
use crate::connect::online;
use crate::exit::CommandError;
use crate::output::{Reply, Text, shown_as_message};

/// The user and role without which authentication cannot be on.
const ROOT: &str = "root";

/// Commands on authentication.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Auth {
    /// Enables authentication
    Enable(Ignored),
    /// Disables authentication
    Disable(Ignored),
    /// Returns authentication status
    Status(Ignored),
}

/// Runs one of them.
pub(super) fn run(global: &Global, auth: &Auth) -> Result<(), CommandError> {
    let (name, given) = match auth {
        Auth::Enable(given) => ("enable", given),
        Auth::Disable(given) => ("disable", given),
        Auth::Status(given) => ("status", given),
    };
    if !given.args.is_empty() {
        let reason = format!("auth {name} command does not accept any arguments");
        return Err(CommandError::BadArguments(reason));
    }
    online(global, async |session| {
        let client = session.call();
        match auth {
            Auth::Enable(_) => {
                enable(&client).await?;
                println!("Authentication Enabled");
            }
            Auth::Disable(_) => {
                client.auth_disable(AuthDisableRequest {}).await?;
                println!("Authentication Disabled");
            }
            Auth::Status(_) => {
                let response = client.auth_status(AuthStatusRequest {}).await?;
                session.output.show(&response)?;
            }
        }
        Ok(())
    })
}

/// Gives the user root the role root, if only that is missing.
async fn enable(client: &Client) -> Result<(), CommandError> {
    match client.auth_enable(AuthEnableRequest {}).await {
        Ok(_) => return Ok(()),
        Err(error) if error.known() == Some(ApiError::RootRoleNotExist) => {}
        Err(error) => return Err(error.into()),
    }
    let add = AuthRoleAddRequest {
        name: ROOT.to_owned(),
    };
    match client.role_add(add).await {
        Ok(_) => {}
        Err(error) if error.known() == Some(ApiError::RoleAlreadyExist) => {}
        Err(error) => return Err(error.into()),
    }
    let grant = AuthUserGrantRoleRequest {
        user: ROOT.to_owned(),
        role: ROOT.to_owned(),
    };
    client.user_grant_role(grant).await?;
    client.auth_enable(AuthEnableRequest {}).await?;
    Ok(())
}

impl Reply for AuthStatusResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        out.line(format_args!("Authentication Status: {}", self.enabled));
        out.line(format_args!("AuthRevision: {}", self.auth_revision));
    }
}
