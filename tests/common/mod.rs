//! What the tests share.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "each test file uses its own part"
)]

mod skips;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

pub use skips::skipped;

/// A name that no other test, in this process or another, uses at the same time.
pub fn unique_name(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("asyncipc-test-{what}-{}-{n}", std::process::id())
}

/// Longer than anything takes, however busy the machine is.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Fails when `future` hangs, and names the caller's place.
#[track_caller]
pub fn within<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let place = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("hung for {PATIENCE:?} at {place}"),
        }
    }
}

/// Whether `future` is still pending after all other tasks had many chances to run.
pub async fn stays_pending<F: Future + Unpin>(future: &mut F) -> bool {
    let turns = async {
        for _ in 0..500 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = future => false,
        () = turns => true,
    }
}

/// A pipe holds at least this many bytes while nobody reads. macOS gives a socket 8 KiB.
pub const HOLDS: usize = if cfg!(any(windows, target_os = "linux")) {
    32 << 10
} else {
    4 << 10
};

/// Bytes that differ between neighbouring positions and between seeds, so that a test notices a piece
/// that is missing or in the wrong place.
pub fn sample(size: usize, seed: usize) -> bytes::Bytes {
    let period: Vec<u8> = (0..251).map(|i| ((i + seed) * 31 % 251) as u8).collect();
    let mut sample = period.repeat(size / 251 + 1);
    sample.truncate(size);
    sample.into()
}

/// The two ends of one connection: the client's, then the server's. The [`PipeServer`] is dropped.
///
/// [`PipeServer`]: asyncipc::PipeServer
pub async fn pair() -> (asyncipc::PipeConnection, asyncipc::PipeConnection) {
    let name = unique_name("pair");
    let server = asyncipc::PipeServer::builder(&name).linger(PATIENCE);
    let client = asyncipc::PipeClient::builder(&name).linger(PATIENCE);
    pair_of(&server, &client).await
}

/// As [`pair`], with these builders.
pub async fn pair_of(
    server: &asyncipc::ServerBuilder,
    client: &asyncipc::ClientBuilder,
) -> (asyncipc::PipeConnection, asyncipc::PipeConnection) {
    let mut server = server.bind().unwrap();
    let (client, accepted) =
        within(async { tokio::join!(client.connect(), server.accept()) }).await;
    (client.unwrap(), accepted.unwrap())
}

/// For each transport of this platform, its name and the builders of a server and a client. Each has
/// a pipe of its own.
pub fn transports(
    what: &str,
) -> Vec<(
    &'static str,
    asyncipc::ServerBuilder,
    asyncipc::ClientBuilder,
)> {
    let builders = || {
        let name = unique_name(what);
        (
            asyncipc::PipeServer::builder(&name),
            asyncipc::PipeClient::builder(&name),
        )
    };
    let (server, client) = builders();
    #[cfg(windows)]
    {
        use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
        let (bytes, messages) = (builders(), builders());
        vec![
            ("tokio's I/O", server, client),
            (
                "overlapped I/O",
                bytes.0.overlapped_io(),
                bytes.1.overlapped_io(),
            ),
            (
                "messages",
                messages.0.message_mode(),
                messages.1.message_mode(),
            ),
        ]
    }
    #[cfg(not(windows))]
    vec![("sockets", server, client)]
}

/// A connection for each transport and each direction: the end that the test is about, then its peer.
/// They linger for long, so that a test fails when ends wait for each other, but not on a slow machine.
pub async fn pairs(
    what: &str,
) -> Vec<(
    &'static str,
    asyncipc::PipeConnection,
    asyncipc::PipeConnection,
)> {
    let patient = || {
        transports(what)
            .into_iter()
            .map(|(transport, server, client)| {
                (transport, server.linger(PATIENCE), client.linger(PATIENCE))
            })
    };
    let mut pairs = vec![];
    for (transport, server, client) in patient() {
        let (client, server) = pair_of(&server, &client).await;
        pairs.push((transport, client, server));
    }
    for (transport, server, client) in patient() {
        let (client, server) = pair_of(&server, &client).await;
        pairs.push((transport, server, client));
    }
    pairs
}

/// As [`pair`], as streams of bytes.
pub async fn byte_pair() -> (asyncipc::PipeStream, asyncipc::PipeStream) {
    let name = unique_name("bytes");
    let mut server = asyncipc::PipeServer::builder(&name)
        .linger(PATIENCE)
        .bind_bytes()
        .unwrap();
    let client = asyncipc::PipeClient::builder(&name).linger(PATIENCE);
    let (client, accepted) =
        within(async { tokio::join!(client.connect_bytes(), server.accept()) }).await;
    (client.unwrap(), accepted.unwrap())
}

/// A new temporary folder, and the path of a socket in it.
#[cfg(unix)]
pub fn place() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("it.sock");
    (folder, path)
}

/// The mode of the file at the path. A symbolic link is not followed.
#[cfg(unix)]
pub fn mode(path: impl AsRef<std::path::Path>) -> u32 {
    let found = std::fs::symlink_metadata(path).unwrap();
    std::os::unix::fs::MetadataExt::mode(&found) & 0o7777
}

/// A handler that sends back what its client sends.
pub async fn echo(mut conn: asyncipc::PipeConnection) -> Result<(), asyncipc::BoxError> {
    use futures::{SinkExt, StreamExt};

    while let Some(message) = conn.next().await {
        conn.send(message?.freeze()).await?;
    }
    Ok(())
}

/// A client's shared sender, and the server's end.
pub async fn shared() -> (asyncipc::SharedSender, asyncipc::PipeConnection) {
    let (client, server) = pair().await;
    (client.split().0.into_shared(), server)
}

/// Sends until that has to wait, and says how often that worked.
pub async fn fill_sender(sender: &asyncipc::SharedSender, message: &bytes::Bytes) -> usize {
    let mut sent = 0;
    let mut sending = Box::pin(async {
        loop {
            sender.send(message.clone()).await.unwrap();
            sent += 1;
        }
    });
    assert!(stays_pending(&mut sending).await);
    drop(sending);
    sent
}

/// Connects clients until the server has room for no more. The server must not accept meanwhile.
pub async fn fill(name: &str) -> Vec<asyncipc::PipeConnection> {
    let builder = asyncipc::PipeClient::builder(name).no_wait();
    let mut clients = Vec::new();
    loop {
        match builder.connect().await {
            Ok(client) => clients.push(client),
            Err(asyncipc::Error::Busy { .. }) => return clients,
            Err(e) => panic!("neither connected nor busy: {e}"),
        }
        assert!(clients.len() < 100, "the server is never busy");
    }
}

/// A command that runs one test of this binary in a new process, for a test that changes the
/// environment or needs the process for itself. `test` is its name with its modules: `topic::test`.
pub fn itself(test: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--include-ignored"]);
    command
}

/// Runs a command from [`itself`], and fails unless the test passes there. The test reads `role` with
/// [`role`].
pub fn run_as(role: &str, command: &mut std::process::Command) {
    let output = command.env(ROLE, role).output().unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy);
    assert!(
        output.status.success() && text[0].contains("1 passed"),
        "as {role}: {}\n{}",
        output.status,
        text.concat()
    );
}

/// The role that [`run_as`] gave this process; `None` in the process that the user started.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// The environment variable with the role.
pub const ROLE: &str = "ASYNCIPC_TEST_ROLE";

/// Whether this runs under Wine, which does not enforce every rule of Windows.
pub fn under_wine() -> bool {
    #[cfg(windows)]
    {
        use std::ffi::{c_char, c_void};
        #[link(name = "kernel32")]
        unsafe extern "system" {
            fn GetModuleHandleA(name: *const c_char) -> *mut c_void;
            fn GetProcAddress(module: *mut c_void, name: *const c_char) -> *mut c_void;
        }
        // SAFETY: both texts end with NUL, and ntdll is never unloaded.
        let found = unsafe {
            GetProcAddress(
                GetModuleHandleA(c"ntdll.dll".as_ptr()),
                c"wine_get_version".as_ptr(),
            )
        };
        !found.is_null()
    }
    #[cfg(not(windows))]
    false
}

/// How many handles this process has. GetProcessHandleCount says 0 under Wine.
#[cfg(windows)]
pub fn handles() -> usize {
    use windows_sys::Wdk::System::SystemInformation::NtQuerySystemInformation;
    use windows_sys::Win32::Foundation::STATUS_INFO_LENGTH_MISMATCH;

    /// SystemExtendedHandleInformation: the handles of all processes.
    const CLASS: i32 = 64;
    /// SYSTEM_HANDLE_TABLE_ENTRY_INFO_EX.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Entry {
        object: usize,
        process: usize,
        handle: usize,
        access: u32,
        creator: u16,
        kind: u16,
        attributes: u32,
        reserved: u32,
    }
    let head = 2 * size_of::<usize>();
    let mut buffer = vec![0_usize; 8 << 10];
    loop {
        let bytes = size_of_val(&buffer[..]) as u32;
        let mut needed = 0;
        // SAFETY: the buffer's size is given in bytes.
        let status = unsafe {
            NtQuerySystemInformation(CLASS, buffer.as_mut_ptr().cast(), bytes, &mut needed)
        };
        if status == STATUS_INFO_LENGTH_MISMATCH {
            buffer = vec![0; 2 * buffer.len()];
            continue;
        }
        assert!(status >= 0, "NtQuerySystemInformation says {status:#x}");
        let count = buffer[0];
        assert!(head + count * size_of::<Entry>() <= bytes as usize);
        // SAFETY: after the count and a reserved word come that many aligned entries.
        let entries = unsafe {
            let first = buffer.as_ptr().add(2).cast::<Entry>();
            std::slice::from_raw_parts(first, count)
        };
        let own = std::process::id() as usize;
        return entries.iter().filter(|it| it.process == own).count();
    }
}

/// What a test logs on its own thread while the guard of [`Log::begin`] lives.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
