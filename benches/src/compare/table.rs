//! Medians and ratios, as Markdown.

use std::fmt::Write as _;

use crate::compare::measure::Sample;
use crate::compare::memory::MemorySample;
use crate::compare::options::CompareOptions;
use crate::compare::scenario::ScenarioSample;
use crate::machine::Memory;

const MIB: f64 = 1024.0 * 1024.0;

/// A quantity of the memory table: its name and where it stands in a sample.
type MemoryRow = (&'static str, fn(&MemorySample) -> f64);

/// How it was measured, and how much else went on.
pub(crate) fn conditions(options: &CompareOptions, samples: &[Sample]) -> String {
    let cores = match options.unpinned {
        true => "members and driver on all cores".to_string(),
        false => format!(
            "all members on core {}, driver on core {}",
            options.server_cpu, options.driver_cpu
        ),
    };
    let mut text = format!(
        "{} member(s), {cores}, fsync on, values of {} B; medians of {} rounds of {} s, each with \
         empty data directories.",
        options.members, options.value_size, options.rounds, options.seconds
    );
    if !samples.is_empty() {
        let worst = samples.iter().map(|s| s.other_busy).fold(0.0, f64::max);
        let _ = write!(
            text,
            " Others (the kernel's threads among them) kept the servers' core busy for {:.0} % of \
             the time, {:.0} % at worst.",
            100.0 * median(samples.iter().map(|s| s.other_busy)).unwrap_or(0.0),
            100.0 * worst
        );
    }
    text.push('\n');
    text
}

/// Rates, latencies and CPU time per operation; one row per workload, in the order measured.
pub(crate) fn rates(samples: &[Sample]) -> String {
    let mut text = String::from(
        "| workload | etcd /s | keelson /s | ratio | etcd p50 / p99 ms | keelson p50 / p99 ms \
         | etcd CPU µs | keelson CPU µs | ratio |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut names: Vec<&str> = samples.iter().map(|s| s.name.as_str()).collect();
    names.dedup();
    for name in names {
        let column = |program: &str, value: fn(&Sample) -> f64| {
            let of_both = samples.iter().filter(|s| s.name == name);
            median(of_both.filter(|s| s.program == program).map(value))
        };
        let both = |value| (column("etcd", value), column("keelson", value));
        let (etcd_rate, keelson_rate) = both(|s| s.report.per_second);
        let (etcd_p50, keelson_p50) = both(|s| s.report.latency.p50_us / 1e3);
        let (etcd_p99, keelson_p99) = both(|s| s.report.latency.p99_us / 1e3);
        let (etcd_cpu, keelson_cpu) = both(|s| s.cpu_us);
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} / {} | {} / {} | {} | {} | {} |",
            number(etcd_rate, 0),
            number(keelson_rate, 0),
            ratio(keelson_rate, etcd_rate),
            number(etcd_p50, 2),
            number(etcd_p99, 2),
            number(keelson_p50, 2),
            number(keelson_p99, 2),
            number(etcd_cpu, 1),
            number(keelson_cpu, 1),
            ratio(keelson_cpu, etcd_cpu),
        );
    }
    text
}

/// What the scenarios found; one row per figure, in the order measured.
pub(crate) fn scenarios(samples: &[ScenarioSample]) -> String {
    let mut text =
        String::from("| scenario | figure | etcd | keelson | ratio |\n|---|---|--:|--:|--:|\n");
    let mut rows: Vec<(&str, &str)> = Vec::new();
    for sample in samples {
        for figure in &sample.figures {
            let row = (sample.scenario, figure.name);
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    for (scenario, name) in rows {
        let column = |program: &str| {
            let of_both = samples.iter().filter(|sample| sample.scenario == scenario);
            let samples = of_both.filter(|sample| sample.program == program);
            let figures = samples.flat_map(|sample| &sample.figures);
            let of_name = figures.filter(|figure| figure.name == name);
            median(of_name.map(|figure| figure.value))
        };
        let (etcd, keelson) = (column("etcd"), column("keelson"));
        let _ = writeln!(
            text,
            "| {scenario} | {name} | {} | {} | {} |",
            number(etcd, 2),
            number(keelson, 2),
            ratio(keelson, etcd)
        );
    }
    text
}

/// Memory and restart times; one row per quantity.
pub(crate) fn memory(samples: &[MemorySample]) -> String {
    let keys = samples.first().map_or(0, |sample| sample.keys);
    let mut text = format!(
        "| {keys} keys of 16 B, values of 1 KiB | etcd | keelson | ratio |\n|---|--:|--:|--:|\n"
    );
    let rows: [MemoryRow; 8] = [
        ("resident after load, MiB", |s| {
            mib(&s.loaded, Memory::resident_bytes)
        }),
        ("… anonymous", |s| mib(&s.loaded, |m| m.anonymous_bytes)),
        ("… file-backed", |s| mib(&s.loaded, |m| m.file_bytes)),
        ("resident after restart, MiB", |s| {
            mib(&s.restarted, Memory::resident_bytes)
        }),
        ("… anonymous", |s| {
            mib(&s.restarted, |m| m.anonymous_bytes)
        }),
        ("… file-backed", |s| mib(&s.restarted, |m| m.file_bytes)),
        ("restart to serving, s", |s| s.restart_seconds),
        ("load, s", |s| s.load_seconds),
    ];
    for (name, value) in rows {
        let column =
            |program: &str| median(samples.iter().filter(|s| s.program == program).map(value));
        let (etcd, keelson) = (column("etcd"), column("keelson"));
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} |",
            number(etcd, 2),
            number(keelson, 2),
            ratio(keelson, etcd)
        );
    }
    text
}

fn mib(memory: &Memory, bytes: fn(&Memory) -> u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown to a hundredth")]
    let bytes = bytes(memory) as f64;
    bytes / MIB
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "failed".into(), |value| format!("{value:.decimals$}"))
}

fn ratio(keelson: Option<f64>, etcd: Option<f64>) -> String {
    match (keelson, etcd) {
        (Some(keelson), Some(etcd)) if etcd > 0.0 => format!("{:.2}×", keelson / etcd),
        _ => "–".into(),
    }
}

/// The one in the middle, or what lies between the two there.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(ratio(Some(3.0), Some(2.0)), "1.50×");
        assert_eq!(ratio(Some(3.0), None), "–");
        assert_eq!(ratio(Some(3.0), Some(0.0)), "–");
        assert_eq!(number(None, 1), "failed");
    }
}
