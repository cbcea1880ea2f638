//! `version`.

/// Prints the version that the program speaks as.
pub(super) fn run(program: &str) {
    println!("{program} version: {}", keelson_proto::SERVER_VERSION);
    println!("API version: 3.7");
}
