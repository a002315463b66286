//! gRPC by tonic over a Unix socket: one call with a stream in each direction. The messages are
//! bytes, so that nothing is spent on Protocol Buffers.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes};
use futures::channel::mpsc::{self, Sender};
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use http::uri::PathAndQuery;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, StreamingService};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

use crate::harness::{Contender, Link, MAX_MESSAGE, Receiver, answer};

/// What may be on its way, per stream and connection: the default of 64 KiB would hold large
/// messages up.
const WINDOW: u32 = 1 << 20;

/// Messages that wait between a task and its connection.
const QUEUE: usize = 64;

pub(crate) struct Tonic;

pub(crate) struct Call {
    sender: Sender<Bytes>,
    receiver: Streaming<Bytes>,
}

impl Contender for Tonic {
    const NAME: &'static str = "tonic";
    type Listener = UnixListener;

    fn listen(path: &str) -> UnixListener {
        UnixListener::bind(path).unwrap()
    }

    async fn serve(listener: UnixListener) {
        let server = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_service(Talk);
        let incoming = UnixListenerStream::new(listener);
        server.serve_with_incoming(incoming).await.unwrap();
    }

    async fn connect(path: String) -> impl Link {
        let endpoint = Endpoint::from_shared(format!("unix://{path}")).unwrap();
        let channel = endpoint
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect()
            .await
            .unwrap();
        let mut grpc = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        grpc.ready().await.unwrap();
        let (sender, messages) = mpsc::channel(QUEUE);
        let path = PathAndQuery::from_static("/bench.Bench/Talk");
        let talking = grpc.streaming(Request::new(messages), path, Raw);
        Call {
            sender,
            receiver: talking.await.unwrap().into_inner(),
        }
    }
}

impl Receiver for Call {
    type Message = Bytes;

    async fn next(&mut self) -> Option<Bytes> {
        self.receiver.next().await.map(Result::unwrap)
    }
}

impl Link for Call {
    async fn feed(&mut self, message: Bytes) {
        self.sender.feed(message).await.unwrap();
    }

    /// There is none: the connection has a task of its own.
    async fn flush(&mut self) {}

    async fn close(mut self) {
        self.sender.close_channel();
        assert!(self.next().await.is_none());
    }
}

#[derive(Clone)]
struct Talk;

impl NamedService for Talk {
    const NAME: &'static str = "bench.Bench";
}

impl Service<http::Request<Body>> for Talk {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async {
            let mut grpc = tonic::server::Grpc::new(Raw)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE);
            Ok(grpc.streaming(Talk, request).await)
        })
    }
}

impl StreamingService<Bytes> for Talk {
    type Response = Bytes;
    type ResponseStream = BoxStream;
    type Future = BoxFuture<'static, Result<Response<BoxStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (sender, messages) = mpsc::channel(QUEUE);
        let receiver = request.into_inner();
        tokio::spawn(answer(Call { sender, receiver }));
        Box::pin(async { Ok(Response::new(messages.map(Ok as fn(_) -> _).boxed())) })
    }
}

type BoxStream = futures::stream::BoxStream<'static, Result<Bytes, Status>>;

/// Bytes as they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(message.copy_to_bytes(message.remaining())))
    }
}
