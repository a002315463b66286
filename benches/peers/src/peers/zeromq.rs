//! ZeroMQ over its `ipc` transport: a DEALER at the client, a ROUTER at the server, since a PAIR
//! cannot have one client after the other. Calls block; its own threads do the input and output.

use bytes::Bytes;
use zmq::{Context, DEALER, ROUTER, Socket};

use crate::harness::{Contender, Link, Receiver, answer};

pub(crate) struct ZeroMq;

pub(crate) struct Dealer(Socket);

/// To the client whose message was the last.
pub(crate) struct Router {
    socket: Socket,
    client: Vec<u8>,
}

impl Contender for ZeroMq {
    const NAME: &'static str = "ZeroMQ";
    type Listener = Router;

    fn listen(path: &str) -> Router {
        let socket = Context::new().socket(ROUTER).unwrap();
        socket.bind(&format!("ipc://{path}")).unwrap();
        Router {
            socket,
            client: Vec::new(),
        }
    }

    async fn serve(router: Router) {
        answer(router).await;
    }

    async fn connect(path: String) -> impl Link {
        let socket = Context::new().socket(DEALER).unwrap();
        socket.connect(&format!("ipc://{path}")).unwrap();
        Dealer(socket)
    }
}

impl Receiver for Dealer {
    type Message = Vec<u8>;

    async fn next(&mut self) -> Option<Vec<u8>> {
        Some(self.0.recv_bytes(0).unwrap())
    }
}

impl Link for Dealer {
    async fn feed(&mut self, message: Bytes) {
        self.0.send(&message[..], 0).unwrap();
    }

    async fn flush(&mut self) {}

    async fn close(self) {}
}

impl Receiver for Router {
    type Message = Vec<u8>;

    async fn next(&mut self) -> Option<Vec<u8>> {
        self.client = self.socket.recv_bytes(0).unwrap();
        Some(self.socket.recv_bytes(0).unwrap())
    }
}

impl Link for Router {
    async fn feed(&mut self, message: Bytes) {
        self.socket.send(&self.client, zmq::SNDMORE).unwrap();
        self.socket.send(&message[..], 0).unwrap();
    }

    async fn flush(&mut self) {}

    async fn close(self) {}
}
