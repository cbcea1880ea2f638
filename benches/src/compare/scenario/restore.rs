//! The offline program makes a data directory of a snapshot that its server has taken.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use super::calls::Caller;
use super::{Figures, fill, mib};
use crate::compare::cluster::{Cluster, Program};
use crate::compare::options::CompareOptions;

pub(super) fn measure(
    program: &Program,
    cluster: &mut Cluster,
    options: &CompareOptions,
    place: &Path,
) -> anyhow::Result<Figures> {
    let (offline, flag) = match program.name {
        "etcd" => (&options.etcdutl, "--etcdutl"),
        _ => (&options.keelctl, "--keelctl"),
    };
    let offline = offline
        .as_deref()
        .with_context(|| format!("restore needs {flag}"))?;
    fill(cluster, options)?;
    let path = place.join("snapshot");
    let mut file = File::create(&path)?;
    let bytes = Caller::connect(&cluster.endpoint(0)?)?.snapshot(&mut file)?;
    file.sync_all()?;
    cluster.stop()?;

    options.pin_server()?;
    let began = Instant::now();
    let output = Command::new(offline)
        .args(["snapshot", "restore"])
        .arg(&path)
        .arg("--data-dir")
        .arg(place.join("restored"))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", offline.display()))?;
    let seconds = began.elapsed().as_secs_f64();
    options.pin_driver()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the restore ended with {}: {said}", output.status);
    }
    Ok(vec![
        ("file, MiB", mib(bytes)),
        ("restore, s", seconds),
        ("restore, MiB/s", mib(bytes) / seconds),
    ])
}
