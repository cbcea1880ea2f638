//! Both offline programs make data directories of the same snapshot: one that etcd's server has taken
//! in etcd's column, one of Keelson's in the other. They take turns; the figures are medians.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use super::calls::Caller;
use super::{Figures, fill, mib};
use crate::compare::cluster::Cluster;
use crate::compare::options::CompareOptions;
use crate::compare::table::median;

/// Restores by each program.
const TURNS: usize = 3;

pub(super) fn measure(
    cluster: &mut Cluster,
    options: &CompareOptions,
    place: &Path,
) -> anyhow::Result<Figures> {
    let etcdutl = options.etcdutl.as_deref();
    let etcdutl = etcdutl.context("restore needs --etcdutl")?;
    let keelctl = options.keelctl.as_deref();
    let keelctl = keelctl.context("restore needs --keelctl")?;
    fill(cluster, options)?;
    let path = place.join("snapshot");
    let mut file = File::create(&path)?;
    let bytes = Caller::connect(&cluster.endpoint(0)?)?.snapshot(&mut file)?;
    file.sync_all()?;
    cluster.stop()?;

    options.pin_server()?;
    let (mut by_etcdutl, mut by_keelctl) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        by_etcdutl.push(restore(etcdutl, &path, place)?);
        by_keelctl.push(restore(keelctl, &path, place)?);
    }
    options.pin_driver()?;
    let etcdutl = median(by_etcdutl.into_iter()).unwrap_or(f64::NAN);
    let keelctl = median(by_keelctl.into_iter()).unwrap_or(f64::NAN);
    Ok(vec![
        ("file, MiB", mib(bytes)),
        ("restore by etcdutl, s", etcdutl),
        ("restore by keelctl, s", keelctl),
        ("time of keelctl, of etcdutl", keelctl / etcdutl),
    ])
}

/// Seconds that a program takes; what it made is removed.
fn restore(program: &Path, snapshot: &Path, place: &Path) -> anyhow::Result<f64> {
    let target = place.join("restored");
    let began = Instant::now();
    let output = Command::new(program)
        .args(["snapshot", "restore"])
        .arg(snapshot)
        .arg("--data-dir")
        .arg(&target)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let seconds = began.elapsed().as_secs_f64();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the restore ended with {}: {said}", output.status);
    }
    std::fs::remove_dir_all(&target)?;
    Ok(seconds)
}
