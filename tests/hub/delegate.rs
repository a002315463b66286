//! The same events as callbacks.

use asyncipc::hub::{DisconnectReason, HubHandle, PipeDelegate};
use asyncipc::{ConnectionId, Peer, PipeClient, PipeServer};
use bytes::Bytes;
use futures::SinkExt;
use tokio::sync::mpsc;

use crate::common::{pair, unique_name, within};
use crate::received;

/// Writes down what is called.
struct Diary {
    calls: Vec<String>,
    greeting: &'static str,
    /// Says when a message has come.
    heard: mpsc::UnboundedSender<HubHandle>,
}

impl Diary {
    fn new(greeting: &'static str) -> (Self, mpsc::UnboundedReceiver<HubHandle>) {
        let (heard, hears) = mpsc::unbounded_channel();
        let calls = Vec::new();
        (
            Diary {
                calls,
                greeting,
                heard,
            },
            hears,
        )
    }
}

impl PipeDelegate for Diary {
    fn on_create(&mut self, _hub: &HubHandle) {
        self.calls.push("create".into());
    }

    fn on_connected(&mut self, hub: &HubHandle, id: ConnectionId, _peer: Peer) {
        self.calls.push("connected".into());
        hub.try_send(id, self.greeting.into()).unwrap();
    }

    fn on_send(&mut self, _hub: &HubHandle, _id: ConnectionId, messages: usize, len: usize) {
        self.calls.push(format!("sent {messages} {len}"));
    }

    fn on_recv(&mut self, hub: &HubHandle, _id: ConnectionId, message: Bytes) {
        self.calls.push(format!("received {message:?}"));
        self.heard.send(hub.clone()).unwrap();
    }

    fn on_disconnected(&mut self, hub: &HubHandle, _id: ConnectionId, reason: DisconnectReason) {
        self.calls.push(format!("disconnected: {reason}"));
        hub.shutdown();
    }
}

#[tokio::test]
async fn a_server_and_a_client_call_their_delegates_with_every_event_in_order() {
    let name = unique_name("delegate");
    let server = PipeServer::bind(&name).unwrap().into_hub();
    let client = within(PipeClient::connect(&name)).await.unwrap().into_hub();
    let (servers, mut server_hears) = Diary::new("from the server");
    let (clients, mut client_hears) = Diary::new("hello");
    let conversation = async {
        tokio::join!(server.run(servers), client.run(clients), async {
            server_hears.recv().await.unwrap();
            client_hears.recv().await.unwrap().shutdown();
        })
    };
    let (server, client, ()) = within(conversation).await;
    for (mut calls, sent, received, gone) in [
        (server.calls, 15, "received b\"hello\"", "it left"),
        (
            client.calls,
            5,
            "received b\"from the server\"",
            "the hub was shut down",
        ),
    ] {
        // Which of these two comes first is up to the other side.
        calls[2..4].sort_unstable();
        assert_eq!(
            calls,
            [
                "create".into(),
                "connected".into(),
                received.to_string(),
                format!("sent 1 {sent}"),
                format!("disconnected: {gone}"),
            ]
        );
    }
}

#[tokio::test]
async fn a_delegate_needs_no_callback_at_all() {
    struct Silent;
    impl PipeDelegate for Silent {}
    let (client, mut server) = pair().await;
    let id = client.id();
    let hub = client.into_hub();
    hub.handle().try_send(id, "hello".into()).unwrap();
    let running = tokio::spawn(hub.run(Silent));
    assert_eq!(received(&mut server).await, "hello");
    server.send("nobody hears".into()).await.unwrap();
    server.close().await.unwrap();
    within(running).await.unwrap();
}
