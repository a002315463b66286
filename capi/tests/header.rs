//! The header says what the library does.

use std::path::Path;

/// Where what C sees is.
const SOURCES: [&str; 6] = [
    "kind.rs",
    "failure.rs",
    "options.rs",
    "handle.rs",
    "callbacks.rs",
    "api.rs",
];

/// Writes the header, in place of comparing it.
const UPDATE: &str = "ASYNCIPC_UPDATE_HEADER";

#[test]
fn the_header_is_that_of_the_sources() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(folder.join("src").join(source));
    }
    let mut made = Vec::new();
    builder.generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();

    let path = folder.join("include/asyncipc.h");
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    // A checkout may have other ends of lines.
    let kept = std::fs::read_to_string(&path)
        .unwrap()
        .replace("\r\n", "\n");
    let differs = kept.lines().zip(made.lines()).position(|(a, b)| a != b);
    assert!(
        kept == made.replace("\r\n", "\n"),
        "include/asyncipc.h is of other sources, from line {} on: set {UPDATE}=1 to write it",
        differs.map_or(0, |line| line + 1),
    );
}
