//! Metrics with labels whose values are only known at run time: members, versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Label sets at most: members come and go, but not by the thousand (design R12).
const CHILDREN_MAX: usize = 1024;

/// One metric per set of label values. Those who count keep the handle.
#[derive(Debug)]
pub struct LabelVec<T> {
    pub(super) labels: &'static [&'static str],
    children: Mutex<BTreeMap<Vec<String>, Arc<T>>>,
    make: fn() -> T,
}

impl<T> LabelVec<T> {
    pub(super) fn new(labels: &'static [&'static str], make: fn() -> T) -> Self {
        Self {
            labels,
            children: Mutex::default(),
            make,
        }
    }

    /// The metric with these label values, in the order of the labels.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> Arc<T> {
        debug_assert_eq!(values.len(), self.labels.len());
        let key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut children = self.children.lock();
        if let Some(child) = children.get(&key) {
            return Arc::clone(child);
        }
        let child = Arc::new((self.make)());
        if children.len() < CHILDREN_MAX {
            children.insert(key, Arc::clone(&child));
        }
        child
    }

    /// Shows a metric that is kept elsewhere under these label values.
    pub(super) fn adopt(&self, values: &[&str], child: &Arc<T>) {
        let key: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let mut children = self.children.lock();
        if children.len() < CHILDREN_MAX || children.contains_key(&key) {
            children.insert(key, Arc::clone(child));
        }
    }

    /// Leaves only the metric with these values: what info-like gauges want.
    #[must_use]
    pub fn only(&self, values: &[&str]) -> Arc<T> {
        let child = self.with(values);
        self.children
            .lock()
            .retain(|_, other| Arc::ptr_eq(other, &child));
        child
    }

    pub(super) fn children(&self) -> Vec<(Vec<String>, Arc<T>)> {
        let children = self.children.lock();
        children
            .iter()
            .map(|(values, child)| (values.clone(), Arc::clone(child)))
            .collect()
    }
}
