//! How each contender listens, connects and sends. All but ours frame with tokio-util's codec.

use std::fmt::Debug;
use std::io;

use asyncipc::{PipeClient, PipeServer};
use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use interprocess::local_socket::{GenericFilePath, ListenerOptions, tokio::prelude::*};
use tipsy::{Endpoint, OnConflict};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Contender, Entry, Link, MAX_MESSAGE, answer};

/// Those that are measured everywhere; the plain one is what the others are compared with.
pub(crate) fn contenders() -> Vec<Entry> {
    vec![
        Entry::of::<Plain>(),
        Entry::of::<Asyncipc>(),
        #[cfg(windows)]
        Entry::of::<Overlapped>(),
        #[cfg(windows)]
        Entry::of::<MessageMode>(),
        Entry::of::<Interprocess>(),
        Entry::of::<Tipsy>(),
    ]
}

/// Whatever is a `Stream` and a `Sink` of messages.
impl<T, E> Link for T
where
    T: Stream<Item = Result<BytesMut, E>> + Sink<Bytes, Error = E> + Send + Unpin + 'static,
    E: Debug + Send,
{
    type Message = BytesMut;

    async fn feed(&mut self, message: Bytes) {
        SinkExt::feed(self, message).await.unwrap();
    }

    async fn flush(&mut self) {
        SinkExt::flush(self).await.unwrap();
    }

    async fn send(&mut self, message: Bytes) {
        SinkExt::send(self, message).await.unwrap();
    }

    async fn next(&mut self) -> Option<BytesMut> {
        StreamExt::next(self).await.map(Result::unwrap)
    }

    async fn close(mut self) {
        SinkExt::close(&mut self).await.unwrap();
    }
}

/// With its defaults, but for the longest message.
fn framed<T: AsyncRead + AsyncWrite>(stream: T) -> Framed<T, LengthDelimitedCodec> {
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(MAX_MESSAGE)
        .new_codec();
    Framed::new(stream, codec)
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

    async fn connect(path: &str) -> impl Link {
        let client = PipeClient::builder(path).max_message_size(MAX_MESSAGE);
        client.connect().await.unwrap()
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
        server.overlapped_io().bind().unwrap()
    }

    async fn serve(server: PipeServer) {
        Asyncipc::serve(server).await;
    }

    async fn connect(path: &str) -> impl Link {
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

    async fn connect(path: &str) -> impl Link {
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

    async fn connect(path: &str) -> impl Link {
        framed(tokio::net::UnixStream::connect(path).await.unwrap())
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

    async fn connect(path: &str) -> impl Link {
        const ERROR_PIPE_BUSY: i32 = 231;
        let options = tokio::net::windows::named_pipe::ClientOptions::new();
        loop {
            match options.open(path) {
                Err(e) if e.raw_os_error() == Some(ERROR_PIPE_BUSY) => {
                    tokio::task::yield_now().await;
                }
                opened => return framed(opened.unwrap()),
            }
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

    async fn connect(path: &str) -> impl Link {
        let name = path.to_fs_name::<GenericFilePath>().unwrap();
        framed(LocalSocketStream::connect(name).await.unwrap())
    }
}

/// The crate `tipsy`.
pub(crate) struct Tipsy;

impl Contender for Tipsy {
    const NAME: &'static str = "tipsy + Framed";
    type Listener = tipsy::IpcStream;

    fn listen(path: &str) -> Self::Listener {
        let endpoint = Endpoint::new(std::path::PathBuf::from(path), OnConflict::Ignore);
        endpoint.and_then(Endpoint::incoming).unwrap()
    }

    async fn serve(mut listener: Self::Listener) {
        while let Some(stream) = StreamExt::next(&mut listener).await {
            tokio::spawn(answer(framed(stream.unwrap())));
        }
    }

    async fn connect(path: &str) -> impl Link {
        let connection: io::Result<_> = Endpoint::connect(std::path::PathBuf::from(path)).await;
        framed(connection.unwrap())
    }
}
