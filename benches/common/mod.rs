//! Two ways to send messages between two ends, to be measured side by side.

use std::fmt::Debug;

use asyncipc::{PipeClient, PipeConnection, PipeServer};
use bytes::{Bytes, BytesMut};
use futures::{Sink, Stream};
use tokio::runtime::{Builder, Runtime};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// One end that sends and receives messages.
pub(crate) trait Messages:
    Stream<Item = Result<BytesMut, Self::Fault>>
    + Sink<Bytes, Error = Self::Fault>
    + Send
    + Unpin
    + 'static
{
    type Fault: Debug + Send;
}

impl<T, E> Messages for T
where
    T: Stream<Item = Result<BytesMut, E>> + Sink<Bytes, Error = E> + Send + Unpin + 'static,
    E: Debug + Send,
{
    type Fault = E;
}

fn unique_name() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("asyncipc-bench-{}-{n}", std::process::id())
}

/// This crate.
pub(crate) async fn asyncipc() -> (PipeConnection, PipeConnection) {
    let name = unique_name();
    let mut server = PipeServer::bind(&name).unwrap();
    let (client, server) = tokio::join!(PipeClient::connect(&name), server.accept());
    (client.unwrap(), server.unwrap())
}

/// This crate over its own overlapped I/O.
#[cfg(windows)]
pub(crate) async fn overlapped() -> (PipeConnection, PipeConnection) {
    use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
    let name = unique_name();
    let mut server = PipeServer::builder(&name).overlapped_io().bind().unwrap();
    let client = PipeClient::builder(&name).overlapped_io().connect();
    let (client, server) = tokio::join!(client, server.accept());
    (client.unwrap(), server.unwrap())
}

/// This crate, the system keeping the messages apart.
#[cfg(windows)]
pub(crate) async fn message_mode() -> (PipeConnection, PipeConnection) {
    use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
    let name = unique_name();
    let mut server = PipeServer::builder(&name).message_mode().bind().unwrap();
    let client = PipeClient::builder(&name).message_mode().connect();
    let (client, server) = tokio::join!(client, server.accept());
    (client.unwrap(), server.unwrap())
}

/// What one would write without it: tokio-util's codec over tokio's socket.
#[cfg(unix)]
pub(crate) async fn framed() -> (impl Messages, impl Messages) {
    let (client, server) = tokio::net::UnixStream::pair().unwrap();
    let codec = LengthDelimitedCodec::new;
    (Framed::new(client, codec()), Framed::new(server, codec()))
}

/// What one would write without it: tokio-util's codec over tokio's pipe.
#[cfg(windows)]
pub(crate) async fn framed() -> (impl Messages, impl Messages) {
    use tokio::net::windows::named_pipe::{ClientOptions, ServerOptions};
    let path = format!(r"\\.\pipe\{}", unique_name());
    let server = ServerOptions::new().create(&path).unwrap();
    let client = ClientOptions::new().open(&path).unwrap();
    server.connect().await.unwrap();
    let codec = LengthDelimitedCodec::new;
    (Framed::new(client, codec()), Framed::new(server, codec()))
}

/// One thread shows what the software itself costs, and repeats well. With two, each end has its
/// own, and the figures depend on what it takes to wake a sleeping one.
pub(crate) fn runtimes() -> [(&'static str, Runtime); 2] {
    let one = Builder::new_current_thread().enable_all().build();
    let two = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    [("one thread", one.unwrap()), ("two threads", two.unwrap())]
}

pub(crate) fn label(size: usize) -> String {
    match size {
        0..1024 => format!("{size} B"),
        1024..1_048_576 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

/// Measures each way to connect, by what `$drive` does with the two ends.
macro_rules! contend {
    ($group:ident, $runtime:ident, $size:ident, $drive:ident; $($name:literal: $connect:path),+) => {$(
        $group.bench_function(criterion::BenchmarkId::new($name, $crate::common::label($size)), |b| {
            b.to_async($runtime).iter_custom(async |messages| {
                let (one, other) = $connect().await;
                $drive(one, other, messages, $size).await
            });
        });
    )+};
}
pub(crate) use contend;
