//! `keelctl`: etcdctl and etcdutl in one program (contract 8).
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | flags and commands |
//! | [`environment`] | `ETCDCTL_…` for flags that are not given |
//! | [`connect`] | a channel to an endpoint |
//! | [`output`] | simple, fields, json, table |
//! | [`progress`] | bytes and rate on a terminal |
//! | [`exit`] | errors and their exit codes |
//! | [`commands`] | one file a command |
//!
//! Data goes to standard output, all else to standard error. It may be called `etcdctl` or
//! `etcdutl`; the commands are the same.

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod connect;
mod environment;
mod exit;
mod output;
mod progress;
mod size;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::cli::Cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = program();
    let command = Cli::command().bin_name(program.clone());
    let matches = match command.try_get_matches() {
        Ok(matches) => matches,
        Err(error) => return exit::usage(&error, &program),
    };
    let mut cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return exit::usage(&error, &program),
    };
    let ran =
        environment::apply(&mut cli.global, &matches).and_then(|()| commands::run(&program, &cli));
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}

/// What the program was called as.
fn program() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    let name = std::path::Path::new(&path).file_name();
    let name = name.map(|name| name.to_string_lossy().into_owned());
    name.unwrap_or_else(|| "keelctl".to_owned())
}
