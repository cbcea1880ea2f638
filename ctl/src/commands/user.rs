//! `user`: who may speak (contract 7.2, 8.2).

use clap::{Args, Subcommand};
use keelson_proto::authpb::UserAddOptions;
use keelson_proto::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserChangePasswordRequest, AuthUserDeleteRequest,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserListRequest,
    AuthUserListResponse, AuthUserRevokeRoleRequest,
};

use super::role;
use crate::cli::{Global, Ignored};
use crate::connect::online;
use crate::exit::CommandError;
use crate::output::{Reply, Said, Text, json, shown_as_message};
use crate::password;

/// Commands on users.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum User {
    /// Adds a new user
    Add(Add),
    /// Deletes a user
    Delete(Names),
    /// Gets detailed information of a user
    Get(Get),
    /// Lists all users
    List(Ignored),
    /// Changes password of user
    Passwd(Passwd),
    /// Grants a role to a user
    GrantRole(Names),
    /// Revokes a role from a user
    RevokeRole(Names),
}

/// Names of a user, or of a user and a role.
#[derive(Args, Debug)]
pub(crate) struct Names {
    /// The user's name, and the role's where there is one
    #[arg(value_name = "user name")]
    names: Vec<String>,
}

/// `user add`.
#[derive(Args, Debug)]
pub(crate) struct Add {
    #[command(flatten)]
    name: Names,
    /// Read password from stdin instead of interactive terminal
    #[arg(long, value_parser = crate::flags::bool, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    interactive: bool,
    /// Supply password from the command line flag
    #[arg(long, default_value = "")]
    new_user_password: String,
    /// Create a user without password (CN based auth only)
    #[arg(long)]
    no_password: bool,
}

/// `user get`.
#[derive(Args, Debug)]
pub(crate) struct Get {
    #[command(flatten)]
    name: Names,
    /// Show permissions of roles granted to the user
    #[arg(long)]
    detail: bool,
}

/// `user passwd`.
#[derive(Args, Debug)]
pub(crate) struct Passwd {
    #[command(flatten)]
    name: Names,
    /// If true, read password from stdin instead of interactive terminal
    #[arg(long, value_parser = crate::flags::bool, num_args = 0..=1, require_equals = true,
          default_missing_value = "true", default_value = "true", action = clap::ArgAction::Set)]
    interactive: bool,
}

/// Runs one of them.
pub(super) fn run(global: &Global, user: &User) -> Result<(), CommandError> {
    match user {
        User::Add(flags) => add(global, flags),
        User::Delete(names) => delete(global, names),
        User::Get(flags) => get(global, flags),
        User::List(given) => list(global, given),
        User::Passwd(flags) => passwd(global, flags),
        User::GrantRole(names) => grant(global, names),
        User::RevokeRole(names) => revoke(global, names),
    }
}

fn add(global: &Global, flags: &Add) -> Result<(), CommandError> {
    let reason = "user add command requires user name as its argument";
    let given = one(&flags.name, reason)?;
    let mut name = given.to_owned();
    let password = if flags.no_password {
        String::new()
    } else if !flags.new_user_password.is_empty() {
        flags.new_user_password.clone()
    } else if let Some((user, password)) = given.split_once(':') {
        if user.is_empty() {
            return Err(CommandError::arguments("empty user name is not allowed"));
        }
        user.clone_into(&mut name);
        password.to_owned()
    } else {
        new_password(given, flags.interactive)?
    };
    online(global, async |session| {
        let request = AuthUserAddRequest {
            name: name.clone(),
            password,
            options: Some(UserAddOptions {
                no_password: flags.no_password,
            }),
            hashed_password: String::new(),
        };
        let response = session.call().user_add(request).await?;
        session.output.show(&Said {
            text: format!("User {name} created"),
            header: response.header,
            response,
        })
    })
}

fn delete(global: &Global, names: &Names) -> Result<(), CommandError> {
    let name = one(
        names,
        "user delete command requires user name as its argument",
    )?;
    online(global, async |session| {
        let request = AuthUserDeleteRequest {
            name: name.to_owned(),
        };
        let response = session.call().user_delete(request).await?;
        session.output.show(&Said {
            text: format!("User {name} deleted"),
            header: response.header,
            response,
        })
    })
}

fn get(global: &Global, flags: &Get) -> Result<(), CommandError> {
    let reason = "user get command requires user name as its argument";
    let name = one(&flags.name, reason)?;
    online(global, async |session| {
        let client = session.call();
        let request = AuthUserGetRequest {
            name: name.to_owned(),
        };
        let response = client.user_get(request).await?;
        if !flags.detail {
            return session.output.show(&Found { name, response });
        }
        println!("User: {name}");
        for role in response.roles {
            println!();
            let request = AuthRoleGetRequest { role: role.clone() };
            let response = client.role_get(request).await?;
            session.output.show(&role::Found {
                name: &role,
                response,
            })?;
        }
        Ok(())
    })
}

fn list(global: &Global, given: &Ignored) -> Result<(), CommandError> {
    if !given.args.is_empty() {
        let reason = "user list command requires no arguments";
        return Err(CommandError::arguments(reason));
    }
    online(global, async |session| {
        let response = session.call().user_list(AuthUserListRequest {}).await?;
        session.output.show(&response)
    })
}

fn passwd(global: &Global, flags: &Passwd) -> Result<(), CommandError> {
    let reason = "user passwd command requires user name as its argument";
    let name = one(&flags.name, reason)?;
    let password = new_password(name, flags.interactive)?;
    online(global, async |session| {
        let request = AuthUserChangePasswordRequest {
            name: name.to_owned(),
            password,
            hashed_password: String::new(),
        };
        let response = session.call().user_change_password(request).await?;
        session.output.show(&Said {
            text: "Password updated".to_owned(),
            header: response.header,
            response,
        })
    })
}

fn grant(global: &Global, names: &Names) -> Result<(), CommandError> {
    let reason = "user grant command requires user name and role name as its argument";
    let (user, role) = two(names, reason)?;
    online(global, async |session| {
        let request = AuthUserGrantRoleRequest {
            user: user.to_owned(),
            role: role.to_owned(),
        };
        let response = session.call().user_grant_role(request).await?;
        session.output.show(&Said {
            text: format!("Role {role} is granted to user {user}"),
            header: response.header,
            response,
        })
    })
}

fn revoke(global: &Global, names: &Names) -> Result<(), CommandError> {
    let reason = "user revoke-role requires user name and role name as its argument";
    let (user, role) = two(names, reason)?;
    online(global, async |session| {
        let request = AuthUserRevokeRoleRequest {
            name: user.to_owned(),
            role: role.to_owned(),
        };
        let response = session.call().user_revoke_role(request).await?;
        session.output.show(&Said {
            text: format!("Role {role} is revoked from user {user}"),
            header: response.header,
            response,
        })
    })
}

fn one<'a>(names: &'a Names, reason: &str) -> Result<&'a str, CommandError> {
    match names.names.as_slice() {
        [name] => Ok(name),
        _ => Err(CommandError::arguments(reason)),
    }
}

fn two<'a>(names: &'a Names, reason: &str) -> Result<(&'a str, &'a str), CommandError> {
    match names.names.as_slice() {
        [user, role] => Ok((user, role)),
        _ => Err(CommandError::arguments(reason)),
    }
}

/// Asks twice, or takes a line of standard input.
fn new_password(name: &str, interactive: bool) -> Result<String, CommandError> {
    if !interactive {
        return password::read_line();
    }
    let first = password::ask(&format!("Password of {name}: "))?;
    let again = password::ask(&format!("Type password of {name} again for confirmation: "))?;
    if first != again {
        return Err(CommandError::arguments("given passwords are different"));
    }
    Ok(first)
}

struct Found<'a> {
    name: &'a str,
    response: AuthUserGetResponse,
}

impl Reply for Found<'_> {
    fn simple(&self, out: &mut Text) {
        out.line(format_args!("User: {}", self.name));
        out.raw(b"Roles:");
        for role in &self.response.roles {
            out.raw(b" ");
            out.raw(role.as_bytes());
        }
        out.line("");
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json::message(&self.response, ids))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(prost::Message::encode_to_vec(&self.response))
    }
}

impl Reply for AuthUserListResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        for user in &self.users {
            out.line(user);
        }
    }
}
