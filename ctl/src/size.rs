//! Sizes as etcd's tools show them: powers of ten, two digits.

/// For example `25 kB`, `1.5 MB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut unit = UNITS.iter();
    let mut shown = unit.next().copied().unwrap_or_default();
    let mut value = bytes as f64;
    for next in unit {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        shown = next;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 {
        format!("{value:.1} {shown}")
    } else {
        format!("{value:.0} {shown}")
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_etcds() {
        let shown = [
            (0, "0 B"),
            (9, "9 B"),
            (82, "82 B"),
            (24_576, "25 kB"),
            (1_500_000, "1.5 MB"),
            (2_147_483_648, "2.1 GB"),
        ];
        for (bytes, text) in shown {
            assert_eq!(human(bytes), text);
        }
    }
}
