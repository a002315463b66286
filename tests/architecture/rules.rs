//! What the sources may not do.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proc_macro2::TokenStream;
use syn::Item;

use super::cfg::{Platform, platform_lines, unsafe_lines};
use super::graph::{self, Graph, Sources};

/// Modules that belong together: one floor of the building.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: &'static str,
    /// Modules of the crate's root, each a file or a folder.
    pub(crate) modules: &'static [&'static str],
    /// Which lower rooms it may import. `None`: all of them.
    pub(crate) imports: Option<&'static [&'static str]>,
}

/// What holds for one crate.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The root's file, such as `src/lib.rs`. It may import every room, and no room may import it.
    pub(crate) root: &'static str,
    /// From the lowest to the highest.
    pub(crate) rooms: &'static [Room],
    /// Modules that may be `unsafe`.
    pub(crate) unsafe_modules: &'static [&'static str],
    /// Modules that may ask for the platform. The root may for its modules.
    pub(crate) platform_modules: &'static [&'static str],
    /// The most lines that a file may have.
    pub(crate) lines: usize,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    /// The same wherever in the file it is.
    pub(crate) what: String,
    pub(crate) lines: Vec<String>,
}

impl Violation {
    fn new(what: String, lines: Vec<String>) -> Self {
        Violation { what, lines }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        (self.lines.iter()).try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// All that is wrong in a crate's sources.
pub(crate) fn check(sources: &Sources, rules: &Rules) -> Vec<Violation> {
    let graphs = [Platform::Unix, Platform::Windows].map(|platform| {
        let graph = graph::read(sources, rules.root, platform);
        (platform, graph)
    });
    let mut found = vec![];
    let mut files = BTreeSet::new();
    let mut imports = BTreeMap::new();
    for (platform, graph) in &graphs {
        for e in &graph.errors {
            let what = format!("cannot be read for {platform:?}: {e}");
            found.push(Violation::new(what, vec![]));
        }
        files.extend(graph.files.iter().cloned());
        for (ends, import) in &graph.imports {
            imports
                .entry(ends.clone())
                .or_insert_with(|| import.clone());
        }
    }
    check_rooms(&files, &imports, rules, &mut found);
    let circles: BTreeSet<_> = graphs.iter().flat_map(|(_, it)| circles(it)).collect();
    for circle in circles {
        found.push(circle);
    }
    for (file, text) in sources {
        if in_folder_of(rules.root, file) && !files.contains(file) {
            let what = format!("{file} belongs to no module");
            found.push(Violation::new(what, vec![]));
        }
        check_length(file, text, rules.lines, &mut found);
        if in_folder_of(rules.root, file) {
            check_words(file, text, rules, &mut found);
        }
    }
    found.sort();
    found
}

fn check_rooms(
    files: &BTreeSet<String>,
    imports: &BTreeMap<(String, String), graph::Import>,
    rules: &Rules,
    found: &mut Vec<Violation>,
) {
    let room = |file: &str| {
        let module = module_of(rules.root, file);
        (rules.rooms.iter()).position(|it| it.modules.contains(&module))
    };
    for file in files {
        if file != rules.root && room(file).is_none() {
            let what = format!("{file} belongs to no room: add its module to the table of rooms");
            found.push(Violation::new(what, vec![]));
        }
    }
    for module in rules.rooms.iter().flat_map(|it| it.modules) {
        if !files.iter().any(|it| module_of(rules.root, it) == *module) {
            let what = format!("the table of rooms has the module {module}, which does not exist");
            found.push(Violation::new(what, vec![]));
        }
    }
    for ((from, to), import) in imports {
        let line = format!("{from}:{}: {}", import.line, import.path);
        if to == rules.root && from != rules.root {
            let what = format!("{from} imports {to}, which is above every room");
            found.push(Violation::new(what, vec![line]));
            continue;
        }
        let (Some(a), Some(b)) = (room(from), room(to)) else {
            continue;
        };
        let (low, high) = (&rules.rooms[a], &rules.rooms[b]);
        let names = format!("{from} ({}) imports {to} ({})", low.name, high.name);
        if a < b {
            let what = format!("{names}, which is higher");
            found.push(Violation::new(what, vec![line]));
        } else if a != b && low.imports.is_some_and(|it| !it.contains(&high.name)) {
            let what = format!("{names}, which is not among what it may import");
            found.push(Violation::new(what, vec![line]));
        }
    }
}

/// Whether the page's table of rooms, in which each row begins with the names of modules, has the same
/// modules in the same order.
pub(crate) fn check_page(name: &str, page: &str, rules: &Rules) -> Vec<Violation> {
    let mut found = vec![];
    let mut complain = |what: String| found.push(Violation::new(what, vec![]));
    let mut named = BTreeSet::new();
    let mut highest = 0;
    for row in page.lines().filter(|it| it.starts_with("| `")) {
        let cell = row.split('|').nth(1).unwrap_or_default();
        let modules = cell.split('`').skip(1).step_by(2);
        for module in modules.map(|it| it.trim_end_matches('/')) {
            if rules.root.ends_with(&format!("/{module}")) {
                continue;
            }
            named.insert(module);
            let room = (rules.rooms.iter()).position(|it| it.modules.contains(&module));
            match room {
                None => complain(format!(
                    "{name} has the module {module}, which is in no room"
                )),
                Some(room) if room < highest => {
                    complain(format!("{name} has the module {module} above a higher one"));
                }
                Some(room) => highest = room,
            }
        }
    }
    for module in rules.rooms.iter().flat_map(|it| it.modules) {
        if !named.contains(module) {
            complain(format!("{name} does not have the module {module}"));
        }
    }
    found
}

/// The groups of more than two files in which each needs each other.
fn circles(graph: &Graph) -> Vec<Violation> {
    let mut imports: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in graph.imports.keys() {
        imports.entry(from).or_default().push(to);
    }
    let reached: BTreeMap<&str, BTreeSet<&str>> = (graph.files.iter())
        .map(|file| (file.as_str(), reached_from(&imports, file)))
        .collect();
    let mut groups = BTreeSet::new();
    for (file, to) in &reached {
        let group: BTreeSet<&str> = (to.iter())
            .filter(|it| reached[*it].contains(file))
            .copied()
            .collect();
        if group.len() > 2 {
            groups.insert(group);
        }
    }
    let mut circles = vec![];
    for group in groups {
        let files: Vec<&str> = group.iter().copied().collect();
        let what = format!(
            "{} files import each other: {}",
            files.len(),
            files.join(", ")
        );
        let inside = (graph.imports.iter())
            .filter(|((from, to), _)| group.contains(&**from) && group.contains(&**to));
        let lines = inside.map(|((from, to), import)| {
            format!("{from}:{}: {} (in {to})", import.line, import.path)
        });
        circles.push(Violation::new(what, lines.collect()));
    }
    circles
}

fn reached_from<'a>(imports: &BTreeMap<&str, Vec<&'a str>>, file: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![file];
    while let Some(from) = next.pop() {
        for to in imports.get(from).into_iter().flatten().copied() {
            if reached.insert(to) {
                next.push(to);
            }
        }
    }
    reached
}

/// Whether the file may have a word, and else the lines that do.
fn check_words(file: &str, text: &str, rules: &Rules, found: &mut Vec<Violation>) {
    let Ok(tokens) = text.parse::<TokenStream>() else {
        // Said where its module is read.
        return;
    };
    let at = |lines: Vec<usize>| lines.iter().map(|it| format!("{file}:{it}")).collect();
    let module = module_of(rules.root, file);
    let lines = unsafe_lines(tokens.clone());
    if !lines.is_empty() && !rules.unsafe_modules.contains(&module) {
        found.push(Violation::new(format!("{file} is unsafe"), at(lines)));
    }
    let mut lines = platform_lines(tokens);
    if file == rules.root
        && let Ok(root) = syn::parse_file(text)
    {
        for item in &root.items {
            if let Item::Mod(it) = item
                && it.content.is_none()
            {
                let own: Vec<usize> = it.attrs.iter().map(line_of).collect();
                lines.retain(|it| !own.contains(it));
            }
        }
    }
    if !lines.is_empty() && !rules.platform_modules.contains(&module) {
        let what = format!("{file} asks for the platform");
        found.push(Violation::new(what, at(lines)));
    }
}

fn line_of(attribute: &syn::Attribute) -> usize {
    attribute.bracket_token.span.open().start().line
}

pub(crate) fn check_length(file: &str, text: &str, most: usize, found: &mut Vec<Violation>) {
    let lines = text.lines().count();
    if lines > most {
        let what = format!("{file} has more than {most} lines");
        found.push(Violation::new(
            what,
            vec![format!("{file}:{lines}: the last line")],
        ));
    }
}

fn in_folder_of(root: &str, file: &str) -> bool {
    let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
    file.strip_prefix(folder)
        .is_some_and(|it| it.starts_with('/'))
}

/// Which of the root's modules a file belongs to: `sys` for `src/sys/unix/peer.rs` and `src/sys.rs`.
fn module_of<'a>(root: &str, file: &'a str) -> &'a str {
    let folder = root.rsplit_once('/').map_or("", |(folder, _)| folder);
    let below = file
        .strip_prefix(folder)
        .unwrap_or(file)
        .trim_start_matches('/');
    let first = below.split('/').next().unwrap_or(below);
    first.strip_suffix(".rs").unwrap_or(first)
}
