//! The text format of Prometheus, version 0.0.4.

use std::fmt::Write as _;

use super::labels::LabelVec;
use super::types::{Counter, Gauge, Histogram};

/// A metric that can be written.
pub(super) trait Expose {
    /// `counter`, `gauge` or `histogram`.
    const TYPE: &'static str;

    /// Writes the samples; `labels` is the inside of the braces.
    fn write(&self, out: &mut String, name: &str, labels: &str);

    /// Whether there is anything to write; a family without samples is left out.
    fn is_present(&self) -> bool {
        true
    }
}

/// Writes a family: help, type, samples.
pub(super) fn family<T: Expose>(out: &mut String, name: &str, help: &str, metric: &T) {
    if metric.is_present() {
        head(out, name, help, T::TYPE);
        metric.write(out, name, "");
    }
}

/// Writes a family's help and type.
pub(super) fn head(out: &mut String, name: &str, help: &str, kind: &str) {
    // Writing to a string does not fail, here and below.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Writes one sample.
pub(super) fn sample(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(out, "{name} {value}")
    } else {
        writeln!(out, "{name}{{{labels}}} {value}")
    };
}

/// Label names and values as the inside of the braces.
pub(super) fn label_text(names: &[&str], values: &[String]) -> String {
    let mut text = String::new();
    for (name, value) in names.iter().zip(values) {
        if !text.is_empty() {
            text.push(',');
        }
        let value = value
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n");
        let _ = write!(text, "{name}=\"{value}\"");
    }
    text
}

impl Expose for Counter {
    const TYPE: &'static str = "counter";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, self.get());
    }
}

impl Expose for Gauge {
    const TYPE: &'static str = "gauge";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        sample(out, name, labels, self.get());
    }
}

impl Expose for Histogram {
    const TYPE: &'static str = "histogram";

    fn write(&self, out: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        let (buckets, total) = self.cumulative();
        for (bound, count) in buckets {
            let _ = writeln!(
                out,
                "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
            );
        }
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {total}");
        sample(out, &format!("{name}_sum"), labels, self.sum());
        sample(out, &format!("{name}_count"), labels, total);
    }
}

impl<T: Expose> Expose for LabelVec<T> {
    const TYPE: &'static str = T::TYPE;

    fn write(&self, out: &mut String, name: &str, _: &str) {
        for (values, child) in self.children() {
            child.write(out, name, &label_text(self.labels, &values));
        }
    }

    fn is_present(&self) -> bool {
        !self.children().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::types::Buckets;
    use super::*;

    #[test]
    fn families() {
        let mut out = String::new();
        let histogram = Histogram::new(Buckets::Seconds(0.25, 2));
        histogram.observe(Duration::from_millis(300));
        family(&mut out, "h", "Helps.", &histogram);
        let vec = LabelVec::new(&["a", "b"], Counter::default);
        family(&mut out, "absent", "Not there.", &vec);
        vec.with(&["x", "\"y\""]).add(2);
        family(&mut out, "c", "Counts.", &vec);
        assert_eq!(
            out,
            "# HELP h Helps.\n# TYPE h histogram\n\
             h_bucket{le=\"0.25\"} 0\nh_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 1\n\
             h_sum 0.3\nh_count 1\n\
             # HELP c Counts.\n# TYPE c counter\nc{a=\"x\",b=\"\\\"y\\\"\"} 2\n"
        );
    }

    #[test]
    fn only_one_child_stays() {
        let vec = LabelVec::new(&["version"], Gauge::default);
        vec.only(&["3.6"]).set(1);
        vec.only(&["3.7"]).set(1);
        assert_eq!(vec.children().len(), 1);
        assert_eq!(vec.with(&["3.7"]).get(), 1);
    }
}
