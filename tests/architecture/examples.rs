//! Small crates with one thing wrong in each, which has to be found, and where nothing is wrong.

use super::cfg::Platform;
use super::graph::{self, Sources};
use super::rules::{Room, Rules, check, check_page};
use super::text;

/// `low` ← `sys` ← `high`, where `sys` may import `low` alone, and `top` may import everything.
const RULES: Rules = Rules {
    root: "src/lib.rs",
    rooms: &[
        Room {
            name: "low",
            modules: &["low"],
            imports: None,
        },
        Room {
            name: "middle",
            modules: &["middle"],
            imports: None,
        },
        Room {
            name: "sys",
            modules: &["sys"],
            imports: Some(&["low"]),
        },
        Room {
            name: "high",
            modules: &["high"],
            imports: None,
        },
    ],
    unsafe_modules: &["sys"],
    platform_modules: &["sys"],
    lines: 20,
};

/// What every example has. An example adds files, or replaces some.
const BASE: &[(&str, &str)] = &[
    (
        "src/lib.rs",
        "mod high;\nmod low;\nmod middle;\nmod sys;\npub use high::High;\npub use low::Low;\n",
    ),
    ("src/low.rs", "pub struct Low;\n"),
    ("src/middle.rs", "pub struct Middle;\n"),
    ("src/sys/mod.rs", "pub(crate) struct Sys;\n"),
    ("src/high.rs", "pub struct High(crate::Low);\n"),
];

fn crate_with(files: &[(&str, &str)]) -> Sources {
    (BASE.iter().chain(files))
        .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()))
        .collect()
}

/// All that is wrong, as it is complained about.
fn complaint(files: &[(&str, &str)]) -> String {
    text(&check(&crate_with(files), &RULES))
}

#[track_caller]
fn nothing_is_wrong(files: &[(&str, &str)]) {
    assert_eq!(complaint(files), "");
}

#[test]
fn a_crate_that_follows_the_plan_passes() {
    nothing_is_wrong(&[]);
}

#[test]
fn an_import_upward_is_found_with_its_line() {
    assert_eq!(
        complaint(&[("src/low.rs", "pub struct Low;\n\nuse crate::high::High;\n")]),
        "src/low.rs (low) imports src/high.rs (high), which is higher\n    \
         src/low.rs:3: crate::high::High\n"
    );
}

#[test]
fn an_import_upward_is_found_however_it_is_written() {
    let high = "imports src/high.rs (high), which is higher";
    for text in [
        "use crate::High;",
        "use crate::High as Other;",
        "use crate::{Low, high::{self, High}};",
        "use super::High;",
        "use crate::high::*;",
        "use crate::*; fn f(_: high::High) {}",
        "use crate::high; fn f(_: high::High) {}",
        "fn f() { use crate::High; }",
        "fn f(_: crate::high::High) {}",
        "fn f(_: Vec<Option<super::High>>) {}",
        "fn f() { crate::high::run(); }",
        "fn f() { println!(\"{}\", crate::high::NUMBER + 1); }",
        "fn f(x: u8) { match x { super::high::NUMBER => {} _ => {} } }",
        "impl From<crate::High> for u8 {}",
        "mod inner { use super::super::High; }",
        "pub use crate::High;",
        "#[cfg(unix)] use crate::High;",
        "#[cfg(windows)] use crate::High;",
        "#[cfg(not(feature = \"x\"))] use crate::High;",
    ] {
        let text = format!("pub struct Low;\n{text}\n");
        let complaint = complaint(&[("src/low.rs", &text)]);
        assert!(complaint.contains(high), "{text}{complaint}");
    }
}

#[test]
fn what_is_no_import_passes() {
    for text in [
        "#[cfg(test)] mod tests { use crate::High; }",
        "#[cfg(all(test, unix))] mod tests { use crate::High; }",
        "#[cfg(all(unix, windows))] use crate::High;",
        "/// As [`High`](crate::High).\nfn f() {}",
        "fn f(high: &str) { println!(\"{high}\", high.len()); }",
        "use std::fmt; fn f(_: ::high::High, _: fmt::Error) {}",
        "pub(in crate::low) struct Other;",
        "fn f() -> &'static str { \"crate::high::High\" }",
    ] {
        let text = format!("pub struct Low;\n{text}\n");
        let complaint = complaint(&[("src/low.rs", &text)]);
        let complaint = complaint.replace("src/low.rs asks for the platform\n", "");
        assert!(!complaint.contains("imports"), "{text}{complaint}");
    }
}

#[test]
fn a_room_imports_only_what_it_may() {
    assert_eq!(
        complaint(&[(
            "src/sys/mod.rs",
            "use crate::Low;\nuse crate::middle::Middle;\n"
        )]),
        "src/sys/mod.rs (sys) imports src/middle.rs (middle), which is not among what it may import\n    \
         src/sys/mod.rs:2: crate::middle::Middle\n"
    );
}

#[test]
fn an_import_counts_for_the_file_that_defines_the_item() {
    let sources = crate_with(&[
        (
            "src/sys/mod.rs",
            "mod a;\nmod b;\npub(crate) use a::A as Other;\n",
        ),
        ("src/sys/a.rs", "pub(crate) use super::b::A;\n"),
        ("src/sys/b.rs", "pub(crate) struct A;\n"),
        ("src/high.rs", "use crate::sys::Other;\n"),
    ]);
    let graph = graph::read(&sources, RULES.root, Platform::Unix);
    assert_eq!(graph.errors, [""; 0]);
    let ends: Vec<_> = (graph.imports.keys())
        .map(|(from, to)| (from.as_str(), to.as_str()))
        .collect();
    assert_eq!(
        ends,
        [
            ("src/high.rs", "src/sys/b.rs"),
            ("src/sys/a.rs", "src/sys/b.rs")
        ]
    );
}

#[test]
fn each_platform_has_its_own_files() {
    let files: &[(&str, &str)] = &[
        (
            "src/sys/mod.rs",
            "#[cfg(unix)]\n#[path = \"unix/mod.rs\"]\nmod platform;\n\
             #[cfg(windows)]\n#[path = \"windows/mod.rs\"]\nmod platform;\n\
             pub(crate) use platform::Stream;\n",
        ),
        (
            "src/sys/unix/mod.rs",
            "mod stream;\npub(crate) use stream::Stream;\n",
        ),
        ("src/sys/unix/stream.rs", "pub(crate) struct Stream;\n"),
        ("src/sys/windows/mod.rs", "pub(crate) struct Stream;\n"),
        ("src/high.rs", "pub struct High(crate::sys::Stream);\n"),
    ];
    nothing_is_wrong(files);
    for (platform, file) in [
        (Platform::Unix, "src/sys/unix/stream.rs"),
        (Platform::Windows, "src/sys/windows/mod.rs"),
    ] {
        let graph = graph::read(&crate_with(files), RULES.root, platform);
        let ends = ("src/high.rs".to_owned(), file.to_owned());
        assert!(graph.imports.contains_key(&ends), "{graph:?}");
    }
    let mut upward = files.to_vec();
    upward.push((
        "src/sys/windows/mod.rs",
        "pub(crate) struct Stream(crate::High);\n",
    ));
    assert_eq!(
        complaint(&upward),
        "src/sys/windows/mod.rs (sys) imports src/high.rs (high), which is higher\n    \
         src/sys/windows/mod.rs:1: crate::High\n"
    );
}

/// Three modules, of which the last one imports what a test says.
fn three(last: &str) -> Vec<(&'static str, String)> {
    vec![
        ("src/sys/mod.rs", "mod a;\nmod b;\nmod c;\n".to_owned()),
        ("src/sys/a.rs", "pub struct A(super::b::B);\n".to_owned()),
        ("src/sys/b.rs", "pub struct B(super::c::C);\n".to_owned()),
        ("src/sys/c.rs", last.to_owned()),
    ]
}

#[test]
fn a_circle_of_three_files_is_found_with_its_imports() {
    let files = three("pub struct C(Box<super::a::A>);\n");
    let files: Vec<_> = files
        .iter()
        .map(|(file, text)| (*file, text.as_str()))
        .collect();
    assert_eq!(
        complaint(&files),
        "3 files import each other: src/sys/a.rs, src/sys/b.rs, src/sys/c.rs\n    \
         src/sys/a.rs:1: super::b::B (in src/sys/b.rs)\n    \
         src/sys/b.rs:1: super::c::C (in src/sys/c.rs)\n    \
         src/sys/c.rs:1: super::a::A (in src/sys/a.rs)\n"
    );
}

#[test]
fn a_circle_of_two_files_passes() {
    let files = three("pub struct C(Box<super::b::B>);\n");
    let files: Vec<_> = files
        .iter()
        .map(|(file, text)| (*file, text.as_str()))
        .collect();
    nothing_is_wrong(&files);
}

#[test]
fn a_module_imports_of_its_children_what_its_own_code_names() {
    let files = |own: &'static str| {
        vec![
            ("src/sys/mod.rs", own),
            ("src/sys/a.rs", "pub(crate) struct A(super::Own);\n"),
            ("src/sys/b.rs", "pub(crate) struct B(super::Own);\n"),
        ]
    };
    nothing_is_wrong(&files(
        "mod a;\nmod b;\npub(crate) use a::A;\npub(crate) use b::B;\npub(crate) struct Own;\n",
    ));
    let complaint = complaint(&files(
        "mod a;\nmod b;\npub(crate) use a::A;\npub(crate) struct Own(Option<Box<A>>, b::B);\n",
    ));
    assert!(
        complaint.starts_with("3 files import each other"),
        "{complaint}"
    );
}

#[test]
fn unsafe_is_found_outside_of_its_modules() {
    let text = "/// Not unsafe.\nfn f() {\n    unsafe { g() }\n}\n";
    assert_eq!(
        complaint(&[("src/low.rs", text), ("src/sys/mod.rs", text)]),
        "src/low.rs is unsafe\n    src/low.rs:3\n"
    );
}

#[test]
fn asking_for_the_platform_is_found_outside_of_its_modules() {
    for text in [
        "#[cfg(unix)]\nfn f() {}\n",
        "#[cfg(all(feature = \"x\", not(target_os = \"macos\")))]\nfn f() {}\n",
        "#[cfg_attr(windows, allow(dead_code))]\nfn f() {}\n",
        "fn f() -> bool {\n    cfg!(target_family = \"unix\")\n}\n",
        "fn f() {\n    g!(if cfg!(windows) {})\n}\n",
    ] {
        let line = 1 + text.lines().position(|it| it.contains("cfg")).unwrap();
        let complaint = complaint(&[("src/low.rs", text), ("src/sys/mod.rs", text)]);
        let expected = format!("src/low.rs asks for the platform\n    src/low.rs:{line}\n");
        assert_eq!(complaint.replace("src/lib.rs", ""), expected, "{text}");
    }
    nothing_is_wrong(&[(
        "src/middle.rs",
        "#[cfg(feature = \"unix\")]\n#[cfg_attr(test, allow(unix))]\nfn windows() {}\n",
    )]);
}

#[test]
fn the_root_may_ask_for_the_platform_of_a_module_and_of_nothing_else() {
    let root = |more: &str| format!("{}{more}", BASE[0].1);
    let modules = root("#[cfg(unix)]\nmod u;\n#[cfg(windows)]\nmod w;\n");
    let more = complaint(&[("src/lib.rs", &modules), ("src/u.rs", ""), ("src/w.rs", "")]);
    assert!(!more.contains("platform"), "{more}");
    let item = root("#[cfg(unix)]\nfn f() {}\n");
    assert_eq!(
        complaint(&[("src/lib.rs", &item)]),
        "src/lib.rs asks for the platform\n    src/lib.rs:7\n"
    );
}

#[test]
fn a_file_that_is_too_long_is_found() {
    nothing_is_wrong(&[("src/low.rs", &"\n".repeat(20))]);
    assert_eq!(
        complaint(&[("src/low.rs", &"\n".repeat(21))]),
        "src/low.rs has more than 20 lines\n    src/low.rs:21: the last line\n"
    );
}

#[test]
fn a_file_without_a_module_and_a_module_without_a_room_or_a_file_are_found() {
    let forgotten = complaint(&[("src/forgotten.rs", "")]);
    assert_eq!(forgotten, "src/forgotten.rs belongs to no module\n");
    let root = format!("{}mod other;\n", BASE[0].1);
    assert_eq!(
        complaint(&[("src/lib.rs", &root), ("src/other.rs", "")]),
        "src/other.rs belongs to no room: add its module to the table of rooms\n"
    );
    let missing = complaint(&[("src/lib.rs", &root)]);
    assert!(missing.contains("src/other.rs: no such file"), "{missing}");
    let fewer = BASE[0].1.replace("mod middle;\n", "");
    let gone = complaint(&[("src/lib.rs", &fewer)]);
    assert!(
        gone.contains("has the module middle, which does not exist"),
        "{gone}"
    );
}

#[test]
fn a_page_with_another_table_of_rooms_is_found() {
    let wrong = |page: &str| text(&check_page("PAGE", page, &RULES));
    let page = "| room | what |\n|---|---|\n| `low` | a |\n| `middle/`, `sys` | b |\n| `high` | c |\n| `lib.rs` | |\n";
    assert_eq!(wrong(page), "");
    assert_eq!(
        wrong(&page.replace("`high`", "`highest`")),
        "PAGE has the module highest, which is in no room\n\
         PAGE does not have the module high\n"
    );
    assert_eq!(
        wrong("| `low` |\n| `high` |\n| `middle`, `sys` |\n"),
        "PAGE has the module middle above a higher one\n\
         PAGE has the module sys above a higher one\n"
    );
}
