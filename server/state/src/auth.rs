//! Users, roles and whether authentication is on, as a snapshot of etcd brings them (contract 7.2).
//!
//! Kept, carried on and written to snapshots again. Nothing here is enforced yet: the server
//! refuses to start on a state with authentication on, rather than to serve it unprotected.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::items;

/// The revision of authentication before anything was changed.
const FIRST_REVISION: u64 = 1;

/// The stored part of authentication. Users and roles are encoded `authpb` messages, by name.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Whether it is on.
    pub enabled: bool,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// `authpb.User` by name.
    pub users: BTreeMap<Bytes, Bytes>,
    /// `authpb.Role` by name.
    pub roles: BTreeMap<Bytes, Bytes>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            enabled: false,
            revision: FIRST_REVISION,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
        }
    }
}

impl Auth {
    /// The state items that hold it.
    pub(crate) fn items(&self) -> Vec<(Bytes, Bytes)> {
        let mut all = Vec::with_capacity(2 + self.users.len() + self.roles.len());
        let fixed = Bytes::from_static;
        all.push((
            fixed(items::AUTH_ENABLED),
            vec![u8::from(self.enabled)].into(),
        ));
        let revision = self.revision.to_be_bytes().to_vec();
        all.push((fixed(items::AUTH_REVISION), revision.into()));
        for (prefix, named) in [
            (items::AUTH_USER, &self.users),
            (items::AUTH_ROLE, &self.roles),
        ] {
            let item = |(name, value): (&Bytes, &Bytes)| {
                (Bytes::from([prefix, name].concat()), value.clone())
            };
            all.extend(named.iter().map(item));
        }
        all
    }

    /// Takes an item; `None` if it is none of these, or cannot be read.
    pub(crate) fn restore(&mut self, key: &[u8], value: &Bytes) -> Option<()> {
        if let Some(name) = key.strip_prefix(items::AUTH_USER) {
            self.users
                .insert(Bytes::copy_from_slice(name), value.clone());
        } else if let Some(name) = key.strip_prefix(items::AUTH_ROLE) {
            self.roles
                .insert(Bytes::copy_from_slice(name), value.clone());
        } else if key == items::AUTH_ENABLED {
            self.enabled = *value.first()? != 0;
        } else if key == items::AUTH_REVISION {
            self.revision = u64::from_be_bytes(value.as_ref().try_into().ok()?);
        } else {
            return None;
        }
        Some(())
    }

    /// Bytes of the state items, for the db size; nothing while there is nothing.
    pub(crate) fn state_bytes(&self) -> u64 {
        let named = self.users.iter().chain(&self.roles);
        let bytes: usize = named
            .map(|(name, value)| 10 + name.len() + value.len())
            .sum();
        bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_back() {
        let mut auth = Auth {
            enabled: true,
            revision: 77,
            ..Auth::default()
        };
        auth.users
            .insert("root".into(), Bytes::from_static(b"\x0a\x04root"));
        auth.roles.insert("".into(), Bytes::new());
        let mut restored = Auth::default();
        for (key, value) in auth.items() {
            restored.restore(&key, &value).unwrap();
        }
        assert!(restored.enabled && restored.revision == 77);
        assert_eq!((restored.users, restored.roles), (auth.users, auth.roles));
        assert_eq!(Auth::default().restore(b"lease/", &Bytes::new()), None);
        assert_eq!(
            Auth::default().restore(items::AUTH_REVISION, &Bytes::new()),
            None
        );
    }
}
