//! ipc-channel, with its channels of bytes. Calls block.

use bytes::Bytes;
use ipc_channel::IpcError;
use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};

use crate::harness::{Contender, Link, Receiver, answer};

pub(crate) struct IpcChannel;

pub(crate) struct Channel(IpcBytesSender, IpcBytesReceiver);

/// What a client hands to the server.
type Ends = (IpcBytesSender, IpcBytesReceiver);

/// Its servers choose their names and have one client each: the name of the next one is in a file.
pub(crate) struct Listener {
    next: IpcOneShotServer<Ends>,
    path: String,
}

impl Listener {
    fn new(path: String) -> Self {
        let (next, name) = IpcOneShotServer::new().unwrap();
        let written = format!("{path}.new");
        std::fs::write(&written, name).unwrap();
        std::fs::rename(written, &path).unwrap();
        Listener { next, path }
    }
}

impl Contender for IpcChannel {
    const NAME: &'static str = "ipc-channel";
    type Listener = Listener;

    fn listen(path: &str) -> Listener {
        Listener::new(path.to_owned())
    }

    async fn serve(mut listener: Listener) {
        loop {
            let (_, (sender, receiver)) = listener.next.accept().unwrap();
            listener = Listener::new(listener.path);
            answer(Channel(sender, receiver)).await;
        }
    }

    async fn connect(path: String) -> impl Link {
        let server = IpcSender::connect(std::fs::read_to_string(path).unwrap()).unwrap();
        let (to_server, at_server) = bytes_channel().unwrap();
        let (to_client, at_client) = bytes_channel().unwrap();
        server.send((to_client, at_server)).unwrap();
        let mut channel = Channel(to_server, at_client);
        // Once this is answered, the file has the name for the next one.
        let first = crate::harness::message(crate::harness::COUNT, 1);
        channel.feed(first).await;
        channel.next().await.expect("the server left");
        channel
    }
}

impl Receiver for Channel {
    type Message = Vec<u8>;

    async fn next(&mut self) -> Option<Vec<u8>> {
        match self.1.recv() {
            Err(IpcError::Disconnected) => None,
            received => Some(received.unwrap()),
        }
    }
}

impl Link for Channel {
    async fn feed(&mut self, message: Bytes) {
        self.0.send(&message).unwrap();
    }

    async fn flush(&mut self) {}

    async fn close(self) {}
}
