//! URLs compared by what their hosts resolve to (contract 4.1). Asks the system's resolver.

use std::net::ToSocketAddrs as _;

use super::url::{Scheme, Url};

/// Whether two lists of URLs are of the same schemes, addresses and ports.
#[must_use]
pub fn same_addresses(left: &[Url], right: &[Url]) -> bool {
    match (resolved(left), resolved(right)) {
        (Some(left), Some(right)) => left == right,
        _ => false,
    }
}

fn resolved(urls: &[Url]) -> Option<Vec<(Scheme, String)>> {
    let mut addresses = Vec::new();
    for url in urls {
        match url.host_port() {
            None => addresses.push((url.scheme(), url.to_string())),
            Some(host_port) => {
                // A host may have several addresses; the first one is what peers dial.
                let first = host_port.to_socket_addrs().ok()?.next()?;
                addresses.push((url.scheme(), first.to_string()));
            }
        }
    }
    addresses.sort();
    Some(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_compared_resolved() {
        let urls = |text| Url::parse_list(text).unwrap();
        assert!(same_addresses(
            &urls("http://127.0.0.1:1"),
            &urls("http://127.0.0.1:1")
        ));
        assert!(!same_addresses(
            &urls("http://127.0.0.1:1"),
            &urls("http://127.0.0.1:2")
        ));
        assert!(!same_addresses(
            &urls("http://127.0.0.1:1"),
            &urls("https://127.0.0.1:1")
        ));
    }
}
