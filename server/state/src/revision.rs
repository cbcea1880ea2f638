//! The revision: a place in the one history that all members share.
//!
//! `main` counts changes of the store, `sub` the records within one change. The pair orders all
//! records, and it is also their address: the store finds a record by its revision alone (design 4).

use std::fmt;

/// A record's place in history: the `sub`-th record written by change `main`.
///
/// - Ordered by `main`, then `sub`.
/// - `main` is what clients see as `mod_revision`; `sub` never leaves the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The change, counted from 1 (a new store stands at 1, its first change is 2).
    pub main: i64,
    /// The record within the change, counted from 0.
    pub sub: u32,
}

impl Revision {
    /// Before every record.
    pub const MIN: Revision = Revision { main: 0, sub: 0 };
    /// Not before any record.
    pub const MAX: Revision = Revision {
        main: i64::MAX,
        sub: Revision::SUB_MAX,
    };
    /// The highest `sub`; the top bit belongs to the tombstone flag wherever a revision is packed.
    pub const SUB_MAX: u32 = (1 << 31) - 1;

    /// The revision `main/sub`.
    pub const fn new(main: i64, sub: u32) -> Revision {
        Revision { main, sub }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.main, self.sub)
    }
}
