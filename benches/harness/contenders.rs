//! How each contender listens, connects and sends. All but ours frame with tokio-util's codec.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use asyncipc::{PipeClient, PipeConnection, PipeReceiver, PipeServer};
use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use interprocess::local_socket::{GenericFilePath, ListenerOptions, tokio::prelude::*};
use tipsy::{Endpoint, OnConflict};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio_util::codec::{Framed, FramedRead, FramedWrite, LengthDelimitedCodec};

use super::{Contender, Entry, Link, MAX_MESSAGE, Producer, Receiver, Sharing, answer};

/// Those that are measured everywhere; the plain one is what the others are compared with.
pub(crate) fn contenders() -> Vec<Entry> {
    vec![
        Entry::sharing::<Plain>(),
        Entry::sharing::<Asyncipc>(),
        Entry::sharing::<SharedSender>(),
        Entry::of::<LowLatency>(),
        #[cfg(windows)]
        Entry::of::<Overlapped>(),
        #[cfg(windows)]
        Entry::of::<MessageMode>(),
        Entry::sharing::<Interprocess>(),
        Entry::sharing::<Tipsy>(),
    ]
}

/// Whatever is a `Stream` of messages.
impl<T, E> Receiver for T
where
    T: Stream<Item = Result<BytesMut, E>> + Send + Unpin + 'static,
    E: Debug + Send,
{
    type Message = BytesMut;

    async fn next(&mut self) -> Option<BytesMut> {
        StreamExt::next(self).await.map(Result::unwrap)
    }
}

/// Whatever is a `Sink` of messages as well.
impl<T, E> Link for T
where
    T: Stream<Item = Result<BytesMut, E>> + Sink<Bytes, Error = E> + Send + Unpin + 'static,
    E: Debug + Send,
{
    async fn feed(&mut self, message: Bytes) {
        SinkExt::feed(self, message).await.unwrap();
    }

    async fn flush(&mut self) {
        SinkExt::flush(self).await.unwrap();
    }

    async fn send(&mut self, message: Bytes) {
        SinkExt::send(self, message).await.unwrap();
    }

    async fn close(mut self) {
        SinkExt::close(&mut self).await.unwrap();
    }
}

/// With its defaults, but for the longest message.
fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_MESSAGE)
        .new_codec()
}

fn framed<T: AsyncRead + AsyncWrite>(stream: T) -> Framed<T, LengthDelimitedCodec> {
    Framed::new(stream, codec())
}

/// What one would write to send from several tasks.
impl<S, E> Producer for Arc<Mutex<S>>
where
    S: Sink<Bytes, Error = E> + Send + Unpin + 'static,
    E: Debug + Send,
{
    async fn send(&self, message: Bytes) {
        SinkExt::send(&mut *self.lock().await, message)
            .await
            .unwrap();
    }
}

fn shared<R, W>((reader, writer): (R, W)) -> (impl Producer, impl Receiver)
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let sender = FramedWrite::new(writer, codec());
    (
        Arc::new(Mutex::new(sender)),
        FramedRead::new(reader, codec()),
    )
}

/// This crate.
pub(crate) struct Asyncipc;

impl Contender for Asyncipc {
    const NAME: &'static str = "asyncipc";
    type Listener = PipeServer;

    fn listen(path: &str) -> PipeServer {
        PipeServer::builder(path)
            .max_message_size(MAX_MESSAGE)
            .bind()
            .unwrap()
    }

    async fn serve(mut server: PipeServer) {
        loop {
            tokio::spawn(answer(server.accept().await.unwrap()));
        }
    }

    async fn connect(path: String) -> impl Link {
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        client.connect().await.unwrap()
    }
}

impl Sharing for Asyncipc {
    async fn share(path: String) -> (impl Producer, impl Receiver) {
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        let (sender, receiver) = client.connect().await.unwrap().split();
        (Arc::new(Mutex::new(sender)), receiver)
    }
}

/// This crate, both ends sending through its cloneable sender.
pub(crate) struct SharedSender;

struct SharedLink(asyncipc::SharedSender, PipeReceiver);

impl SharedLink {
    fn new(connection: PipeConnection) -> Self {
        let (sender, receiver) = connection.split();
        SharedLink(sender.into_shared(), receiver)
    }
}

impl Receiver for SharedLink {
    type Message = BytesMut;

    async fn next(&mut self) -> Option<BytesMut> {
        Receiver::next(&mut self.1).await
    }
}

impl Link for SharedLink {
    async fn feed(&mut self, message: Bytes) {
        self.0.send(message).await.unwrap();
    }

    async fn flush(&mut self) {
        self.0.flush().await.unwrap();
    }

    /// Without a flush, which it does not need.
    async fn send(&mut self, message: Bytes) {
        self.0.send(message).await.unwrap();
    }

    async fn close(self) {
        self.0.close().await.unwrap();
    }
}

impl Producer for asyncipc::SharedSender {
    async fn send(&self, message: Bytes) {
        self.send(message).await.unwrap();
    }
}

impl Contender for SharedSender {
    const NAME: &'static str = "asyncipc, shared sender";
    type Listener = PipeServer;

    fn listen(path: &str) -> PipeServer {
        Asyncipc::listen(path)
    }

    async fn serve(mut server: PipeServer) {
        loop {
            let connection = server.accept().await.unwrap();
            tokio::spawn(answer(SharedLink::new(connection)));
        }
    }

    async fn connect(path: String) -> impl Link {
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        SharedLink::new(client.connect().await.unwrap())
    }
}

impl Sharing for SharedSender {
    async fn share(path: String) -> (impl Producer, impl Receiver) {
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        let SharedLink(sender, receiver) = SharedLink::new(client.connect().await.unwrap());
        (sender, receiver)
    }
}

/// This crate, waiting busily for a while at both ends.
pub(crate) struct LowLatency;

/// Within what its documentation advises.
const BUSY: Duration = Duration::from_micros(50);

impl Contender for LowLatency {
    const NAME: &'static str = "asyncipc, low latency";
    type Listener = PipeServer;

    fn listen(path: &str) -> PipeServer {
        let server = PipeServer::builder(path).max_message_size(MAX_MESSAGE);
        server.low_latency(BUSY).bind().unwrap()
    }

    async fn serve(server: PipeServer) {
        Asyncipc::serve(server).await;
    }

    async fn connect(path: String) -> impl Link {
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        client.low_latency(BUSY).connect().await.unwrap()
    }
}

/// This crate over its own overlapped I/O.
#[cfg(windows)]
pub(crate) struct Overlapped;

#[cfg(windows)]
impl Contender for Overlapped {
    const NAME: &'static str = "asyncipc, overlapped";
    type Listener = PipeServer;

    fn listen(path: &str) -> PipeServer {
        use asyncipc::windows::ServerBuilderExt;
        let server = PipeServer::builder(path).max_message_size(MAX_MESSAGE);
        server
            .overlapped_io()
            .buffer_sizes(1 << 20, 1 << 20)
            .bind()
            .unwrap()
    }

    async fn serve(server: PipeServer) {
        Asyncipc::serve(server).await;
    }

    async fn connect(path: String) -> impl Link {
        use asyncipc::windows::ClientBuilderExt;
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        client.overlapped_io().connect().await.unwrap()
    }
}

/// This crate, the system keeping the messages apart.
#[cfg(windows)]
pub(crate) struct MessageMode;

#[cfg(windows)]
impl Contender for MessageMode {
    const NAME: &'static str = "asyncipc, message mode";
    type Listener = PipeServer;

    fn listen(path: &str) -> PipeServer {
        use asyncipc::windows::ServerBuilderExt;
        let server = PipeServer::builder(path).max_message_size(MAX_MESSAGE);
        server.message_mode().bind().unwrap()
    }

    async fn serve(server: PipeServer) {
        Asyncipc::serve(server).await;
    }

    async fn connect(path: String) -> impl Link {
        use asyncipc::windows::ClientBuilderExt;
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        client.message_mode().connect().await.unwrap()
    }
}

/// What one would write without it: tokio's own socket, or pipe.
pub(crate) struct Plain;

#[cfg(unix)]
impl Contender for Plain {
    const NAME: &'static str = "Framed";
    type Listener = tokio::net::UnixListener;

    fn listen(path: &str) -> Self::Listener {
        tokio::net::UnixListener::bind(path).unwrap()
    }

    async fn serve(listener: Self::Listener) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(framed(stream)));
        }
    }

    async fn connect(path: String) -> impl Link {
        framed(tokio::net::UnixStream::connect(path).await.unwrap())
    }
}

#[cfg(unix)]
impl Sharing for Plain {
    async fn share(path: String) -> (impl Producer, impl Receiver) {
        let stream = tokio::net::UnixStream::connect(path).await.unwrap();
        shared(stream.into_split())
    }
}

#[cfg(windows)]
impl Contender for Plain {
    const NAME: &'static str = "Framed";
    type Listener = (String, tokio::net::windows::named_pipe::NamedPipeServer);

    fn listen(path: &str) -> Self::Listener {
        let options = tokio::net::windows::named_pipe::ServerOptions::new();
        (path.to_owned(), options.create(path).unwrap())
    }

    async fn serve((path, mut pipe): Self::Listener) {
        let options = tokio::net::windows::named_pipe::ServerOptions::new();
        loop {
            pipe.connect().await.unwrap();
            // The next instance exists before this one is handed on, so that clients find one.
            let next = options.create(&path).unwrap();
            tokio::spawn(answer(framed(std::mem::replace(&mut pipe, next))));
        }
    }

    async fn connect(path: String) -> impl Link {
        framed(open(&path).await)
    }
}

#[cfg(windows)]
impl Sharing for Plain {
    async fn share(path: String) -> (impl Producer, impl Receiver) {
        shared(tokio::io::split(open(&path).await))
    }
}

#[cfg(windows)]
async fn open(path: &str) -> tokio::net::windows::named_pipe::NamedPipeClient {
    const ERROR_PIPE_BUSY: i32 = 231;
    let options = tokio::net::windows::named_pipe::ClientOptions::new();
    loop {
        match options.open(path) {
            Err(e) if e.raw_os_error() == Some(ERROR_PIPE_BUSY) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

/// The crate `interprocess`, with its own support of Tokio.
pub(crate) struct Interprocess;

impl Contender for Interprocess {
    const NAME: &'static str = "interprocess + Framed";
    type Listener = LocalSocketListener;

    fn listen(path: &str) -> Self::Listener {
        let name = path.to_fs_name::<GenericFilePath>().unwrap();
        ListenerOptions::new().name(name).create_tokio().unwrap()
    }

    async fn serve(listener: Self::Listener) {
        loop {
            tokio::spawn(answer(framed(listener.accept().await.unwrap())));
        }
    }

    async fn connect(path: String) -> impl Link {
        let name = path.to_fs_name::<GenericFilePath>().unwrap();
        framed(LocalSocketStream::connect(name).await.unwrap())
    }
}

impl Sharing for Interprocess {
    #[expect(
        deprecated,
        reason = "the way that it advises has no halves that own the stream"
    )]
    async fn share(path: String) -> (impl Producer, impl Receiver) {
        let name = path.to_fs_name::<GenericFilePath>().unwrap();
        shared(LocalSocketStream::connect(name).await.unwrap().split())
    }
}

/// The crate `tipsy`.
pub(crate) struct Tipsy;

impl Contender for Tipsy {
    const NAME: &'static str = "tipsy + Framed";
    type Listener = tipsy::IpcStream;

    fn listen(path: &str) -> Self::Listener {
        let endpoint = Endpoint::new(PathBuf::from(path), OnConflict::Ignore);
        endpoint.and_then(Endpoint::incoming).unwrap()
    }

    async fn serve(mut listener: Self::Listener) {
        while let Some(stream) = StreamExt::next(&mut listener).await {
            tokio::spawn(answer(framed(stream.unwrap())));
        }
    }

    async fn connect(path: String) -> impl Link {
        let connection: io::Result<_> = Endpoint::connect(PathBuf::from(path)).await;
        framed(connection.unwrap())
    }
}

impl Sharing for Tipsy {
    async fn share(path: String) -> (impl Producer, impl Receiver) {
        let connection: io::Result<_> = Endpoint::connect(PathBuf::from(path)).await;
        // It has no halves of its own.
        shared(tokio::io::split(connection.unwrap()))
    }
}
