//! nng over its `ipc` transport: a pair of sockets. Calls block; its own threads do the input and
//! output.

use bytes::Bytes;
use nng::options::{Options, RecvMaxSize};
use nng::{Protocol, Socket};

use crate::harness::{Contender, Link, MAX_MESSAGE, Receiver, answer};

pub(crate) struct Nng;

pub(crate) struct Pair(Socket);

impl Pair {
    fn new() -> Self {
        let socket = Socket::new(Protocol::Pair0).unwrap();
        socket.set_opt::<RecvMaxSize>(MAX_MESSAGE).unwrap();
        Pair(socket)
    }
}

impl Contender for Nng {
    const NAME: &'static str = "nng";
    type Listener = Pair;

    fn listen(path: &str) -> Pair {
        let pair = Pair::new();
        pair.0.listen(&format!("ipc://{path}")).unwrap();
        pair
    }

    async fn serve(pair: Pair) {
        answer(pair).await;
    }

    async fn connect(path: String) -> impl Link {
        let pair = Pair::new();
        pair.0.dial(&format!("ipc://{path}")).unwrap();
        pair
    }
}

impl Receiver for Pair {
    type Message = Vec<u8>;

    async fn next(&mut self) -> Option<Vec<u8>> {
        Some(self.0.recv().unwrap().to_vec())
    }
}

impl Link for Pair {
    async fn feed(&mut self, message: Bytes) {
        self.0.send(&message[..]).unwrap();
    }

    async fn flush(&mut self) {}

    async fn close(self) {}
}
