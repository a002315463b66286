//! The other end in a process of its own: this program, started once more.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use tokio::runtime::{Builder, Runtime};

use super::Entry;

/// The first argument of the process that is a server.
const SERVE: &str = "--serve";

/// A path for a server to listen on, which nobody else uses, and the folder that goes with it.
pub(crate) struct Path {
    pub(crate) path: String,
    #[cfg(unix)]
    _folder: tempfile::TempDir,
}

impl Path {
    pub(crate) fn unique() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "asyncipc-bench-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        #[cfg(unix)]
        {
            let folder = tempfile::TempDir::with_prefix(name).unwrap();
            Path {
                path: folder.path().join("socket").to_str().unwrap().to_owned(),
                _folder: folder,
            }
        }
        #[cfg(windows)]
        Path {
            path: format!(r"\\.\pipe\{name}"),
        }
    }
}

/// A server process. Dropping ends it.
pub(crate) struct Server {
    pub(crate) child: Child,
    path: Path,
}

impl Server {
    /// Returns when clients can connect.
    pub(crate) fn start(contender: &Entry, processor: Option<usize>) -> Self {
        let path = Path::unique();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([SERVE, contender.name, &path.path])
            .args(processor.map(|it| it.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready", "the server of {}", contender.name);
        Server { child, path }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended by itself, which its client has noticed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// To be called first of all: in the process of a [`Server`], it does not return.
pub(crate) fn serve_if_asked(contenders: &[Entry]) {
    let args: Vec<String> = std::env::args().collect();
    let [_, serve, contender, path, processor @ ..] = &args[..] else {
        return;
    };
    if serve != SERVE {
        return;
    }
    if let [processor] = processor {
        pin(processor.parse().unwrap());
    }
    raise_descriptor_limit();
    // A task that panics must not leave a server that seems to work.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(101);
    }));
    // However the client's process ends, this one does as well.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let contender = contenders.iter().find(|it| it.name == contender).unwrap();
    one_thread().block_on(async {
        let serving = (contender.serve)(path);
        println!("ready");
        serving.await;
    });
}

/// Keeps this process, and what it starts, on one processor.
pub(crate) fn pin(processor: usize) {
    #[cfg(target_os = "linux")]
    {
        let mut only = rustix::thread::CpuSet::new();
        only.set(processor);
        rustix::thread::sched_setaffinity(None, &only).unwrap();
    }
    #[cfg(not(target_os = "linux"))]
    panic!("cannot pin to processor {processor} on this system");
}

/// Takes as many file descriptors as are allowed.
pub(crate) fn raise_descriptor_limit() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
    }
}

pub(crate) fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// Each end can have a thread of its own.
pub(crate) fn two_threads() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
