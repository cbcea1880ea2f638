//! `--initial-cluster`: names and peer URLs of the members at bootstrap.

use std::collections::{BTreeMap, BTreeSet};

use super::url::Url;

/// Members by name, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InitialCluster {
    members: BTreeMap<String, Vec<Url>>,
}

impl InitialCluster {
    /// Reads `a=http://10.0.0.1:2380,b=http://10.0.0.2:2380`; a name may be repeated with more
    /// URLs, parts without a name are skipped, as etcd skips them.
    ///
    /// # Errors
    /// For the first URL that is malformed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for part in text.split(',').map(str::trim) {
            let Some((name, url)) = part.split_once('=') else {
                continue;
            };
            if name.is_empty() || url.is_empty() {
                continue;
            }
            members
                .entry(name.to_owned())
                .or_default()
                .push(Url::parse(url)?);
        }
        for urls in members.values_mut() {
            urls.sort();
        }
        Ok(Self { members })
    }

    /// Names and URLs.
    pub fn members(&self) -> impl Iterator<Item = (&str, &[Url])> {
        self.members
            .iter()
            .map(|(name, urls)| (name.as_str(), urls.as_slice()))
    }

    /// Names and URLs, in text.
    #[must_use]
    pub fn texts(&self) -> Vec<(String, Vec<String>)> {
        let texts = |urls: &[Url]| urls.iter().map(|url| url.as_str().to_owned()).collect();
        self.members()
            .map(|(name, urls)| (name.to_owned(), texts(urls)))
            .collect()
    }

    /// The URLs of a member.
    #[must_use]
    pub fn urls(&self, name: &str) -> Option<&[Url]> {
        self.members.get(name).map(Vec::as_slice)
    }

    /// How many members it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether two members, or one of them twice, have the same URL.
    #[must_use]
    pub fn repeats_url(&self) -> bool {
        let mut seen = BTreeSet::new();
        self.members
            .values()
            .flatten()
            .any(|url| !seen.insert(url.as_str()))
    }
}

impl std::fmt::Display for InitialCluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut comma = "";
        for (name, urls) in &self.members {
            for url in urls {
                write!(f, "{comma}{name}={url}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_members_and_urls() {
        let text = "b=http://b:1, a=http://a:2,a=http://a:1,nameless";
        let cluster = InitialCluster::parse(text).unwrap();
        assert_eq!(cluster.len(), 2);
        assert_eq!(
            cluster.to_string(),
            "a=http://a:1,a=http://a:2,b=http://b:1"
        );
        assert!(!cluster.repeats_url());
        assert!(
            InitialCluster::parse("a=http://a:1,b=http://a:1")
                .unwrap()
                .repeats_url()
        );
        assert!(InitialCluster::parse("a=http://a:1,b=foo").is_err());
        assert!(InitialCluster::parse("").unwrap().is_empty());
    }
}
