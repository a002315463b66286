//! The plan of the crate's sources, which ARCHITECTURE.md describes, and whether they follow it.

mod cfg;
mod examples;
mod graph;
mod rules;
#[allow(unreachable_pub, reason = "other tests export it")]
#[path = "../common/skips.rs"]
mod skips;

use std::fs;
use std::path::Path;

use graph::Sources;
use rules::{Room, Rules, Violation, check, check_length, check_page};

/// The rooms from the lowest to the highest. A room imports only what is below it.
const ROOMS: &[Room] = &[
    Room {
        name: "tools",
        modules: &["access", "buffers", "sync", "turn"],
        imports: None,
    },
    Room {
        name: "sys",
        modules: &["sys"],
        imports: Some(&["tools"]),
    },
    Room {
        name: "names",
        modules: &["connection_id", "error", "name", "peer"],
        imports: None,
    },
    Room {
        name: "framing",
        modules: &["framing"],
        imports: None,
    },
    Room {
        name: "connection",
        modules: &["connection", "stats"],
        imports: None,
    },
    Room {
        name: "listener and client",
        modules: &["client", "listener"],
        imports: None,
    },
    Room {
        name: "server and worker",
        modules: &["server", "worker"],
        imports: None,
    },
    Room {
        name: "hub and endpoint",
        modules: &["endpoint", "hub", "tally"],
        imports: None,
    },
    Room {
        name: "platform",
        modules: &["unix", "windows"],
        imports: None,
    },
    Room {
        name: "guide",
        modules: &["guide"],
        imports: None,
    },
];

const CRATE: Rules = Rules {
    root: "src/lib.rs",
    rooms: ROOMS,
    unsafe_modules: &["sys"],
    platform_modules: &["sys", "unix", "windows"],
    lines: LINES,
};

/// As the front page of capi says.
const CAPI: Rules = Rules {
    root: "capi/src/lib.rs",
    rooms: &[
        Room {
            name: "leaves",
            modules: &["failure", "handle", "kind", "logging", "sync", "sys"],
            imports: None,
        },
        Room {
            name: "callbacks",
            modules: &["callbacks", "options"],
            imports: None,
        },
        Room {
            name: "run",
            modules: &["run"],
            imports: None,
        },
        Room {
            name: "thread and sending",
            modules: &["sending", "thread"],
            imports: None,
        },
        Room {
            name: "pipe",
            modules: &["pipe"],
            imports: None,
        },
        Room {
            name: "handle table",
            modules: &["handle_table"],
            imports: None,
        },
        Room {
            name: "api",
            modules: &["api"],
            imports: None,
        },
    ],
    unsafe_modules: &["api", "callbacks", "sys"],
    platform_modules: &["sys"],
    lines: LINES,
};

/// Describes the crate's rooms to people.
const PAGE: &str = "ARCHITECTURE.md";

/// The most lines that a file of sources or tests may have.
const LINES: usize = 600;

#[test]
fn the_sources_follow_the_plan() {
    let Some(sources) = sources(&["src", "tests", "capi/src"]) else {
        return;
    };
    let part = |folder: &str| -> Sources {
        (sources.iter())
            .filter(|(file, _)| file.starts_with(folder))
            .map(|(file, text)| (file.clone(), text.clone()))
            .collect()
    };
    let mut found = check(&part("src/"), &CRATE);
    found.extend(check(&part("capi/src/"), &CAPI));
    for (file, text) in &part("tests/") {
        check_length(file, text, LINES, &mut found);
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    found.extend(check_page(PAGE, &fs::read_to_string(page).unwrap(), &CRATE));
    let complaint = text(&found);
    assert!(complaint.is_empty(), "\n{complaint}");
}

fn text(found: &[Violation]) -> String {
    found.iter().map(Violation::to_string).collect()
}

/// The sources below these folders, unless the test runs where they are not.
fn sources(folders: &[&str]) -> Option<Sources> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("src/lib.rs").exists() {
        skips::skipped(format!("the sources are not here: {}", root.display()));
        return None;
    }
    let mut sources = Sources::new();
    let mut folders: Vec<_> = folders.iter().map(|it| (*it).to_owned()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if path.ends_with(".rs") {
                sources.insert(path, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    Some(sources)
}
