//! iceoryx2: messages in shared memory, in two services, one for each direction. Both ends poll
//! without a pause, so that each takes a whole processor; nobody copies a message that is received.

use std::sync::Mutex;

use bytes::Bytes;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;

use crate::harness::{Contender, Link, Receiver, answer};

pub(crate) struct Iceoryx2;

type Service = ipc_threadsafe::Service;

pub(crate) struct Polled {
    publisher: Publisher<Service, [u8], ()>,
    subscriber: Subscriber<Service, [u8], ()>,
    _node: Node<Service>,
}

pub(crate) struct Message(Sample<Service, [u8], ()>);

impl Polled {
    fn new(to: &str, from: &str) -> Self {
        set_log_level(LogLevel::Error);
        let node = NodeBuilder::new().create::<Service>().unwrap();
        let service = |name: &str| {
            node.service_builder(&name.try_into().unwrap())
                .publish_subscribe::<[u8]>()
                // Nothing is lost: a publisher waits for room.
                .enable_safe_overflow(false)
                .subscriber_max_buffer_size(64)
                .open_or_create()
                .unwrap()
        };
        let subscriber = service(from).subscriber_builder().create().unwrap();
        let publisher = service(to)
            .publisher_builder()
            .initial_max_slice_len(64 << 10)
            .allocation_strategy(AllocationStrategy::PowerOfTwo)
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .unwrap();
        Polled {
            publisher,
            subscriber,
            _node: node,
        }
    }
}

/// The client of this process. A new one each time would mostly show how iceoryx2 finds its peers,
/// and sometimes hung in it.
static CLIENT: Mutex<Option<Polled>> = Mutex::new(None);

/// The names of both directions.
fn directions(path: &str) -> (String, String) {
    (format!("{path}/to-server"), format!("{path}/to-client"))
}

impl Contender for Iceoryx2 {
    const NAME: &'static str = "iceoryx2, polling";
    type Listener = Polled;

    fn listen(path: &str) -> Polled {
        let (to_server, to_client) = directions(path);
        Polled::new(&to_client, &to_server)
    }

    async fn serve(polled: Polled) {
        answer(polled).await;
    }

    async fn connect(path: String) -> impl Link {
        let (to_server, to_client) = directions(&path);
        let client = CLIENT.lock().unwrap().take();
        client.unwrap_or_else(|| Polled::new(&to_server, &to_client))
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.0.payload()
    }
}

impl From<Message> for Bytes {
    fn from(message: Message) -> Bytes {
        Bytes::copy_from_slice(message.as_ref())
    }
}

impl Receiver for Polled {
    type Message = Message;

    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some(sample) = self.subscriber.receive().unwrap() {
                return Some(Message(sample));
            }
            std::hint::spin_loop();
        }
    }
}

impl Link for Polled {
    async fn feed(&mut self, message: Bytes) {
        let sample = self.publisher.loan_slice_uninit(message.len()).unwrap();
        sample.write_from_slice(&message).send().unwrap();
    }

    async fn flush(&mut self) {}

    async fn close(self) {
        *CLIENT.lock().unwrap() = Some(self);
    }
}
