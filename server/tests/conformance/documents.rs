//! The page of guarantees names tests that exist.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_test_named_in_the_guarantees_exists() {
    let page = std::fs::read_to_string(root().join("docs/GUARANTEES.md")).unwrap();
    let mut missing = Vec::new();
    let mut named = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let Some((place, test)) = name.rsplit_once("::") else {
            if name.ends_with(".rs") && !root().join(name).exists() {
                missing.push(name);
            }
            continue;
        };
        if test == "…" {
            continue;
        }
        named += 1;
        let file = if place.ends_with(".rs") {
            root().join(place)
        } else {
            root().join(format!("server/tests/conformance/{place}.rs"))
        };
        let source = std::fs::read_to_string(file).unwrap_or_default();
        if !source.contains(&format!("fn {test}(")) {
            missing.push(name);
        }
    }
    assert!(named > 100, "the page names {named} tests");
    assert_eq!(missing, Vec::<&str>::new());
}
