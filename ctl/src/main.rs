//! `keelctl`: etcdctl and etcdutl in one program (contract 8).
//!
//! | module | what |
//! |---|---|
//! | [`cli`], [`global`] | commands, and the flags of all |
//! | [`flags`] | values of flags, read as Go reads them |
//! | [`environment`] | `ETCDCTL_…` for flags that are not given |
//! | [`usage`], [`help`] | what is said to wrong arguments, and to those who ask |
//! | [`connect`], [`password`] | a client as the flags describe it |
//! | [`commands`] | one file a command |
//! | [`output`] | simple, fields, json, table, protobuf |
//! | [`progress`], [`size`] | bytes and rate for people |
//! | [`exit`] | errors and their exit codes |
//!
//! Data goes to standard output, all else to standard error. It may be called `etcdctl` or
//! `etcdutl`; the commands are the same.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod connect;
mod environment;
mod exit;
mod flags;
mod global;
mod help;
mod output;
mod password;
mod progress;
mod size;
mod usage;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};

use crate::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = program();
    let command = help::grouped(flags::like_go(Cli::command()).bin_name(program.clone()));
    let mut args: Vec<OsString> = std::env::args_os().collect();
    let report = |error: &clap::Error| {
        let args = std::env::args_os().skip(1);
        let args: Vec<String> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
        usage::report(error, &command, &args)
    };
    let given = match matches(&command, &args) {
        Ok(given) => given,
        Err(error) => return report(&error),
    };
    match environment::flags(&command, &given) {
        Ok(flags) => drop(args.splice(1..1, flags.into_iter().map(OsString::from))),
        Err(error) => return error.report(),
    }
    let cli = matches(&command, &args).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match cli {
        Ok(cli) => cli,
        Err(error) => return report(&error),
    };
    match commands::run(&program, &cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

fn matches(command: &Command, args: &[OsString]) -> Result<ArgMatches, clap::Error> {
    command.clone().try_get_matches_from(args)
}

/// What the program was called as.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name();
    let name = name.map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "keelctl".to_owned())
}
