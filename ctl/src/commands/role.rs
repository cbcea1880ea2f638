//! `role`: who may touch which keys (contract 7.2, 8.2).

use clap::{Args, Subcommand};
use keelson_proto::authpb::{Permission, permission::Type};
use keelson_proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleDeleteRequest, AuthRoleGetRequest, AuthRoleGetResponse,
    AuthRoleGrantPermissionRequest, AuthRoleListRequest, AuthRoleListResponse,
    AuthRoleRevokePermissionRequest,
};

use super::key_range::{KeyRange, end_of_prefix};
use crate::cli::{Global, Ignored};
use crate::connect::online;
use crate::exit::CommandError;
use crate::output::{Reply, Said, Text, go, json, shown_as_message};

/// `range_end` of a range without end.
const OPEN: &[u8] = b"\0";

/// Commands on roles.
#[derive(Debug, Subcommand)]
#[command(infer_subcommands = true)]
pub(crate) enum Role {
    /// Adds a new role
    Add(Name),
    /// Deletes a role
    Delete(Name),
    /// Gets detailed information of a role
    Get(Name),
    /// Lists all roles
    List(Ignored),
    /// Grants a key to a role
    GrantPermission(OnKeys),
    /// Revokes a key from a role
    RevokePermission(OnKeys),
}

/// A command's one role.
#[derive(Args, Debug)]
pub(crate) struct Name {
    /// The role's name
    #[arg(value_name = "role name")]
    names: Vec<String>,
}

/// `role grant-permission`, `role revoke-permission`.
#[derive(Args, Debug)]
pub(crate) struct OnKeys {
    /// The role's name, what is permitted where something is, the key and the key behind the last
    #[arg(value_name = "role name")]
    args: Vec<String>,
    /// a prefix permission
    #[arg(long)]
    prefix: bool,
    /// a permission of keys that are greater than or equal to the given key using byte compare
    #[arg(long)]
    from_key: bool,
}

/// Runs one of them.
pub(super) fn run(global: &Global, role: &Role) -> Result<(), CommandError> {
    match role {
        Role::Add(name) => add(global, name),
        Role::Delete(name) => delete(global, name),
        Role::Get(name) => get(global, name),
        Role::List(given) => list(global, given),
        Role::GrantPermission(flags) => grant(global, flags),
        Role::RevokePermission(flags) => revoke(global, flags),
    }
}

fn add(global: &Global, name: &Name) -> Result<(), CommandError> {
    let name = one(name, "add")?;
    online(global, async |session| {
        let request = AuthRoleAddRequest { name: name.clone() };
        let response = session.call().role_add(request).await?;
        session.output.show(&Said {
            text: format!("Role {name} created"),
            header: response.header,
            response,
        })
    })
}

fn delete(global: &Global, name: &Name) -> Result<(), CommandError> {
    let role = one(name, "delete")?;
    online(global, async |session| {
        let request = AuthRoleDeleteRequest { role: role.clone() };
        let response = session.call().role_delete(request).await?;
        session.output.show(&Said {
            text: format!("Role {role} deleted"),
            header: response.header,
            response,
        })
    })
}

fn get(global: &Global, name: &Name) -> Result<(), CommandError> {
    let role = one(name, "get")?;
    online(global, async |session| {
        let request = AuthRoleGetRequest { role: role.clone() };
        let response = session.call().role_get(request).await?;
        session.output.show(&Found {
            name: &role,
            response,
        })
    })
}

fn list(global: &Global, given: &Ignored) -> Result<(), CommandError> {
    if !given.args.is_empty() {
        let reason = "role list command requires no arguments";
        return Err(CommandError::arguments(reason));
    }
    online(global, async |session| {
        let response = session.call().role_list(AuthRoleListRequest {}).await?;
        session.output.show(&response)
    })
}

fn grant(global: &Global, flags: &OnKeys) -> Result<(), CommandError> {
    let [role, kind, keys @ ..] = flags.args.as_slice() else {
        return Err(missing_permission());
    };
    if keys.is_empty() {
        return Err(missing_permission());
    }
    let perm_type = match kind.to_uppercase().as_str() {
        "READ" => Type::Read,
        "WRITE" => Type::Write,
        "READWRITE" => Type::Readwrite,
        _ => {
            let reason = format!("invalid permission type: {kind}");
            return Err(CommandError::BadArguments(reason));
        }
    };
    let range = range(keys, flags)?;
    online(global, async |session| {
        let request = AuthRoleGrantPermissionRequest {
            name: role.clone(),
            perm: Some(Permission {
                perm_type: perm_type.into(),
                key: range.key.into(),
                range_end: range.range_end.into(),
            }),
        };
        let response = session.call().role_grant_permission(request).await?;
        session.output.show(&Said {
            text: format!("Role {role} updated"),
            header: response.header,
            response,
        })
    })
}

fn missing_permission() -> CommandError {
    CommandError::arguments(
        "role grant command requires role name, permission type, and key [endkey] as its argument",
    )
}

fn revoke(global: &Global, flags: &OnKeys) -> Result<(), CommandError> {
    let [role, keys @ ..] = flags.args.as_slice() else {
        return Err(missing_key());
    };
    if keys.is_empty() {
        return Err(missing_key());
    }
    let range = range(keys, flags)?;
    online(global, async |session| {
        let what = match range.range_end.as_slice() {
            b"" => format!("key {}", String::from_utf8_lossy(&range.key)),
            _ => format!("range {}", interval(&range.key, &range.range_end)),
        };
        let request = AuthRoleRevokePermissionRequest {
            role: role.clone(),
            key: range.key.into(),
            range_end: range.range_end.into(),
        };
        let response = session.call().role_revoke_permission(request).await?;
        session.output.show(&Said {
            text: format!("Permission of {what} is revoked from role {role}"),
            header: response.header,
            response,
        })
    })
}

fn missing_key() -> CommandError {
    CommandError::arguments(
        "role revoke-permission command requires role name and key [endkey] as its argument",
    )
}

fn range(keys: &[String], flags: &OnKeys) -> Result<KeyRange, CommandError> {
    if flags.prefix && flags.from_key {
        let reason = "--from-key and --prefix flags are mutually exclusive";
        return Err(CommandError::arguments(reason));
    }
    let flag = if flags.prefix { "prefix" } else { "from-key" };
    if (flags.prefix || flags.from_key) && keys.len() > 1 {
        let reason = format!("unexpected endkey argument with --{flag} flag");
        return Err(CommandError::BadArguments(reason));
    }
    KeyRange::of(keys, flags.prefix, flags.from_key)
}

fn one(name: &Name, command: &str) -> Result<String, CommandError> {
    match name.names.as_slice() {
        [name] => Ok(name.clone()),
        _ => Err(CommandError::BadArguments(format!(
            "role {command} command requires role name as its argument"
        ))),
    }
}

fn interval(key: &[u8], end: &[u8]) -> String {
    let key = String::from_utf8_lossy(key);
    if end == OPEN {
        return format!("[{key}, <open ended>");
    }
    format!("[{key}, {})", String::from_utf8_lossy(end))
}

/// A role and what it permits.
pub(super) struct Found<'a> {
    pub(super) name: &'a str,
    pub(super) response: AuthRoleGetResponse,
}

impl Reply for Found<'_> {
    fn simple(&self, out: &mut Text) {
        out.line(format_args!("Role {}", self.name));
        for (title, kind) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
            out.line(title);
            let permissions = self.response.perm.iter();
            let fits = |permission: &&Permission| {
                [kind, Type::Readwrite].contains(&permission.perm_type())
            };
            for Permission { key, range_end, .. } in permissions.filter(fits) {
                let shown = match &range_end[..] {
                    b"" => String::from_utf8_lossy(key).into_owned(),
                    end => interval(key, end),
                };
                let is_prefix = !key.is_empty()
                    && &range_end[..] != OPEN
                    && end_of_prefix(key) == range_end[..];
                let prefix = if is_prefix {
                    format!(" (prefix {})", String::from_utf8_lossy(key))
                } else {
                    String::new()
                };
                out.line(format_args!("\t{shown}{prefix}"));
            }
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.response.header.as_ref());
        for permission in &self.response.perm {
            // The two spaces are etcd's.
            let kind = permission.perm_type().as_str_name();
            out.field("PermType", format_args!(" {kind}"));
            out.quoted("Key", &permission.key);
            out.quoted("RangeEnd", &permission.range_end);
        }
        Some(())
    }

    fn json(&self, ids: json::Ids) -> Option<Result<String, CommandError>> {
        Some(json::message(&self.response, ids))
    }

    fn protobuf(&self) -> Option<Vec<u8>> {
        Some(prost::Message::encode_to_vec(&self.response))
    }
}

impl Reply for AuthRoleListResponse {
    shown_as_message!();

    fn simple(&self, out: &mut Text) {
        for role in &self.roles {
            out.line(role);
        }
    }

    fn fields(&self, out: &mut Text) -> Option<()> {
        out.header(self.header.as_ref());
        let roles = self.roles.iter().map(|role| go::quoted(role.as_bytes()));
        out.field("Roles", roles.collect::<Vec<_>>().join(" "));
        Some(())
    }
}
