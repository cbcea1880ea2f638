//! Ids: of a member, of a cluster (contract 2.11).

use std::collections::BTreeMap;

use sha1::{Digest as _, Sha1};

/// A bootstrap member's id: the first 8 bytes of SHA-1 over its sorted peer URLs and the token.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url);
    }
    hash.update(token);
    first_eight_bytes(&hash.finalize())
}

/// The cluster's id: the first 8 bytes of SHA-1 over the sorted member ids.
#[must_use]
pub fn cluster_id(member_ids: impl IntoIterator<Item = u64>) -> u64 {
    let mut ids: Vec<u64> = member_ids.into_iter().collect();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    first_eight_bytes(&hash.finalize())
}

/// The members of `--initial-cluster` by id.
#[must_use]
pub fn members<'a>(
    cluster: impl IntoIterator<Item = (&'a str, Vec<String>)>,
    token: &str,
) -> BTreeMap<u64, (&'a str, Vec<String>)> {
    cluster
        .into_iter()
        .map(|(name, urls)| (member_id(&urls, token), (name, urls)))
        .collect()
}

fn first_eight_bytes(hash: &[u8]) -> u64 {
    hash.iter()
        .take(8)
        .fold(0, |id, byte| id << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What genuine etcd 3.7.1 shows with its defaults.
    #[test]
    fn ids_of_a_default_member() {
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id([id])), "cdf818194e3a8c32");
    }
}
