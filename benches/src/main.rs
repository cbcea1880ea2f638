//! Load for servers that speak etcd's v3 API, and Keelson measured beside etcd.
//!
//! | module | what |
//! |---|---|
//! | [`transport`] | gRPC over bare HTTP/2 connections, with as little work per call as possible |
//! | [`load`] | the workloads: put, fill, range, watch, lease |
//! | [`histogram`], [`report`] | latencies in constant space; what a run prints |
//! | [`compare`] | etcd and Keelson under the same load: ratios as Markdown |
//! | [`machine`] | processor affinity, CPU time and memory of a process |
//!
//! The driver shares the machine with the server that it measures, so it is built to stay out of
//! the way: one thread, one core if told so, requests encoded once and patched. `README.md` says
//! how to use it and what the numbers mean.

#![forbid(unsafe_code)]

mod compare;
mod histogram;
mod load;
mod machine;
mod report;
mod transport;

use clap::{Parser, Subcommand};

use crate::compare::options::CompareOptions;
use crate::load::options::{LeaseOptions, LoadOptions, PutOptions, RangeOptions, WatchOptions};

/// Much of a call's cost is a few short-lived allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "keelson-bench", version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes random keys of the key space.
    Put {
        #[command(flatten)]
        load: LoadOptions,
        #[command(flatten)]
        put: PutOptions,
    },
    /// Writes every key of the key space once, in order.
    Fill {
        #[command(flatten)]
        load: LoadOptions,
        #[command(flatten)]
        put: PutOptions,
    },
    /// Reads random keys of the key space, or lists from a random key on.
    Range {
        #[command(flatten)]
        load: LoadOptions,
        #[command(flatten)]
        range: RangeOptions,
    },
    /// Writes random keys while watchers receive them; latencies are from put to event.
    Watch {
        #[command(flatten)]
        load: LoadOptions,
        #[command(flatten)]
        put: PutOptions,
        #[command(flatten)]
        watch: WatchOptions,
    },
    /// Grants and revokes leases, or keeps leases alive.
    Lease {
        #[command(flatten)]
        load: LoadOptions,
        #[command(flatten)]
        lease: LeaseOptions,
    },
    /// Starts etcd and Keelson in turn, loads them and prints a table of ratios.
    Compare(CompareOptions),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Put { load, put } => load::run_put(&load, &put),
        Command::Fill { load, put } => load::run_fill(&load, &put),
        Command::Range { load, range } => load::run_range(&load, &range),
        Command::Watch { load, put, watch } => load::run_watch(&load, &put, &watch),
        Command::Lease { load, lease } => load::run_lease(&load, &lease),
        Command::Compare(options) => compare::run(&options),
    }
}
