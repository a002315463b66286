//! What the tests share: programs in C, C++ and Python, and what they say.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file uses its own part"
)]

#[path = "../../../tests/common/skips.rs"]
mod skips;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Duration;

pub use skips::skipped;

/// Longer than anything takes, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A name that no other test, in this process or another, uses at the same time.
pub fn unique_name(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("asyncipc-capi-{what}-{}-{n}", std::process::id())
}

/// Where cargo has put the library, and this test beside it.
fn library_folder() -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    folder.pop();
    folder
}

/// The shared library.
pub fn library() -> PathBuf {
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    library_folder().join(format!("{prefix}asyncipc_capi{suffix}"))
}

/// How a program is built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Build {
    Plain,
    /// Looks for what is wrong with memory, its own and the library's.
    Sanitized,
}

/// A program of this folder's parent, built: `source` is as "examples/demo.c". `None` where that
/// cannot be done, which is said.
pub fn program(source: &str, build: Build) -> Option<Command> {
    let source = Path::new(source);
    let language = source.extension().unwrap().to_str().unwrap();
    let name = format!("{}-{language}", source.file_stem().unwrap().display());
    if cfg!(windows) {
        // Built before, by `scripts/build-capi-programs`.
        let Some(folder) = std::env::var_os("ASYNCIPC_C_PROGRAMS") else {
            skipped("no programs in C were built: ASYNCIPC_C_PROGRAMS is not set");
            return None;
        };
        return Some(Command::new(PathBuf::from(folder).join(name + ".exe")));
    }

    static BUILT: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let (compiler, standard, kind) = match language {
        "c" => ("cc", "-std=c11", "c"),
        _ => ("c++", "-std=c++11", "c++"),
    };
    let mut path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if build == Build::Sanitized {
        path.set_extension("sanitized");
    }
    let mut built = BUILT.lock().unwrap();
    if built.contains(&path) {
        return Some(Command::new(path));
    }
    if Command::new(compiler).arg("--version").output().is_err() {
        skipped(format!("{compiler} is missing"));
        return None;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(compiler);
    command.args([standard, "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    if build == Build::Sanitized {
        command.arg("-fsanitize=address,undefined");
        if !compiles_nothing(&command, kind, &path) {
            skipped(format!(
                "{compiler} has no -fsanitize=address,undefined here"
            ));
            return None;
        }
    }
    command.arg("-I").arg(here.join("include"));
    command.arg(here.join(source)).arg("-o").arg(&path);
    // The classes with the static library, everything else with the shared one.
    if language == "cpp" && cfg!(target_os = "linux") {
        command.arg(library_folder().join("libasyncipc_capi.a"));
        // What `rustc --print native-static-libs` says.
        command.args([
            "-lgcc_s",
            "-lutil",
            "-lrt",
            "-lpthread",
            "-lm",
            "-ldl",
            "-lc",
        ]);
    } else {
        command.arg(library()).arg("-lpthread");
        let mut run_path = std::ffi::OsString::from("-Wl,-rpath,");
        run_path.push(library_folder());
        command.arg(run_path);
    }
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    built.insert(path.clone());
    Some(Command::new(path))
}

/// Whether an empty program can be built so.
fn compiles_nothing(command: &Command, kind: &str, path: &Path) -> bool {
    let mut command = {
        let mut same = Command::new(command.get_program());
        same.args(command.get_args());
        same
    };
    command.args(["-x", kind, "-", "-o"]).arg(path);
    command.stdin(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let source = b"int main() { return 0; }\n";
    child.stdin.take().unwrap().write_all(source).unwrap();
    child.wait().unwrap().success()
}

/// A program that runs, what is typed to it, and what it says.
pub struct Running {
    what: String,
    child: Child,
    keyboard: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (said, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in output.lines() {
                let _ = said.send(line.unwrap());
            }
        });
        Running {
            what: format!("{command:?}"),
            keyboard: child.stdin.take(),
            child,
            lines,
        }
    }

    pub fn types(&mut self, line: &str) {
        let mut line = line.to_owned();
        line.push('\n');
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(line.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    /// What it says next; `None` at its end.
    #[track_caller]
    fn next(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line.trim_end_matches('\r').to_owned()),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{} says nothing for {PATIENCE:?}", self.what),
        }
    }

    #[track_caller]
    pub fn says(&self, line: &str) {
        assert_eq!(self.next().as_deref(), Some(line), "{}", self.what);
    }

    /// The number of the client that it says this of.
    #[track_caller]
    pub fn says_of_a_client(&self, what: &str) -> u64 {
        let line = self.next().unwrap_or_default();
        let number = line.strip_prefix('[').and_then(|it| it.split_once("] "));
        match number {
            Some((number, rest)) if rest.starts_with(what) => number.parse().unwrap(),
            _ => panic!("{} says {line:?} and not {what:?}", self.what),
        }
    }

    /// Waits for its end: the code, and what else it has said.
    #[track_caller]
    pub fn ends(mut self) -> (Option<i32>, Vec<String>) {
        drop(self.keyboard.take());
        let mut rest = Vec::new();
        while let Some(line) = self.next() {
            rest.push(line);
        }
        let mut complaints = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut complaints).unwrap();
            rest.extend(complaints.lines().map(str::to_owned));
        }
        (self.child.wait().unwrap().code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
