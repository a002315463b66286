//! tarpc over a Unix socket, with bincode: each message is a request. A stream of them has many
//! requests on their way at a time; a `send` waits for the answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tarpc::client::Config;
use tarpc::context::{self, Context};
use tarpc::serde_transport::unix;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tokio::net::UnixListener;

use crate::harness::{COUNT, Contender, ECHO, Link, MAX_MESSAGE, Receiver, receipt};

/// How many requests are on their way at a time; more were not faster.
const AT_ONCE: usize = 100;

/// With what comes around a message of the greatest size.
const MAX_FRAME: usize = MAX_MESSAGE + 1024;

pub(crate) struct Tarpc;

#[tarpc::service]
trait Messages {
    async fn message(message: Bytes) -> Bytes;
}

#[derive(Clone, Default)]
struct Taken {
    messages: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Messages for Taken {
    async fn message(self, _: Context, message: Bytes) -> Bytes {
        match message[0] {
            ECHO => message,
            COUNT => receipt(self.messages.swap(0, Relaxed), self.bytes.swap(0, Relaxed)),
            _ => {
                self.messages.fetch_add(1, Relaxed);
                self.bytes.fetch_add(message.len() as u64, Relaxed);
                Bytes::new()
            }
        }
    }
}

pub(crate) struct Client {
    client: MessagesClient,
    waiting: FuturesUnordered<BoxFuture<'static, Bytes>>,
    answers: VecDeque<Bytes>,
}

impl Client {
    async fn answered(&mut self) {
        if let Some(answer) = self.waiting.next().await
            && !answer.is_empty()
        {
            self.answers.push_back(answer);
        }
    }
}

impl Contender for Tarpc {
    const NAME: &'static str = "tarpc";
    type Listener = UnixListener;

    fn listen(path: &str) -> UnixListener {
        UnixListener::bind(path).unwrap()
    }

    async fn serve(listener: UnixListener) {
        let listening = unix::listen_on(listener, Bincode::default);
        let mut clients = listening.await.unwrap();
        clients.config_mut().max_frame_length(MAX_FRAME);
        while let Some(transport) = clients.next().await {
            let channel = BaseChannel::with_defaults(transport.unwrap());
            tokio::spawn(
                channel
                    .execute(Taken::default().serve())
                    .for_each(async |answering| {
                        tokio::spawn(answering);
                    }),
            );
        }
    }

    async fn connect(path: String) -> impl Link {
        let mut connecting = unix::connect(path, Bincode::default);
        connecting.config_mut().max_frame_length(MAX_FRAME);
        Client {
            client: MessagesClient::new(Config::default(), connecting.await.unwrap()).spawn(),
            waiting: FuturesUnordered::new(),
            answers: VecDeque::new(),
        }
    }
}

impl Receiver for Client {
    type Message = Bytes;

    async fn next(&mut self) -> Option<Bytes> {
        self.answers.pop_front()
    }
}

impl Link for Client {
    async fn feed(&mut self, message: Bytes) {
        if message[0] == COUNT {
            self.flush().await;
        }
        if self.waiting.len() >= AT_ONCE {
            self.answered().await;
        }
        let client = self.client.clone();
        self.waiting.push(Box::pin(async move {
            client.message(context::current(), message).await.unwrap()
        }));
    }

    async fn flush(&mut self) {
        while !self.waiting.is_empty() {
            self.answered().await;
        }
    }

    async fn close(self) {}
}
