//! Work on data directories that no server uses: what keelctl does offline (contract 8.4).
//!
//! | module | what |
//! |---|---|
//! | [`restore`] | a snapshot file made into a data directory |
//! | [`defrag`] | a data directory rewritten without garbage |

pub mod defrag;
pub mod restore;
