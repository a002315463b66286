//! The options that can be set before a pipe is created.

use std::collections::BTreeMap;
use std::time::Duration;

use asyncipc::hub::HubBuilder;
use asyncipc::{ClientBuilder, PipeClient, PipeHub, PipeName, PipeServer, ServerBuilder};

use crate::failure::{Code, Failure};
use crate::kind::Kind;
use crate::sys::{self, Transport};

/// How long `send` waits for room, unless the option says otherwise.
const DEFAULT_SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// What asyncipc_set_option() sets. Options that are on or off are 1 or 0. Times are in milliseconds;
/// UINT64_MAX is forever.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Key {
    /// Whether the system keeps messages apart, for programs that use raw message pipes. Default 0.
    /// Both ends must have the same. Only on Windows: elsewhere 1 is ASYNCIPC_RESULT_UNSUPPORTED.
    MessageMode = 0,
    /// The longest message that is sent or received, in bytes. Default 16 MiB, at most UINT32_MAX.
    MaxMessageSize,
    /// How many messages may wait for a client, or for the server. Default 64, at least 1.
    Queue,
    /// How long asyncipc_send() and asyncipc_send_to() wait for room in the queue, outside of
    /// callbacks. Default 5000.
    SendTimeout,
    /// After asyncipc_exit() or asyncipc_disconnect(): how long it may take until what waits in the queues
    /// is sent and the other end has read it. Default 10000 for servers, 5000 for clients.
    DrainTimeout,
    /// Server: how many clients may be connected at a time, at least 1; others wait. Default: as many
    /// as the system allows.
    MaxConnections,
    /// Client: how long to wait for a server that is busy, or missing. Default 5000; 0 tries once.
    ConnectTimeout,
    /// Client: whether to wait for a server that does not listen yet. Default 0.
    WaitForServer,
    /// Client: whether to refuse a server that does not run as the same user. Default 0.
    VerifyServer,
}

/// In the order of their numbers.
const KEYS: [Key; 9] = [
    Key::MessageMode,
    Key::MaxMessageSize,
    Key::Queue,
    Key::SendTimeout,
    Key::DrainTimeout,
    Key::MaxConnections,
    Key::ConnectTimeout,
    Key::WaitForServer,
    Key::VerifyServer,
];

impl Key {
    pub(crate) fn from_number(number: i32) -> Result<Self, Failure> {
        let key = usize::try_from(number).ok().and_then(|it| KEYS.get(it));
        key.copied().ok_or_else(|| {
            let text = format!("there is no asyncipc_option {number}");
            Failure::new(Code::InvalidArgument, text)
        })
    }

    /// From the least value to the greatest.
    fn range(self) -> (u64, u64) {
        match self {
            Key::MessageMode | Key::WaitForServer | Key::VerifyServer => (0, 1),
            Key::MaxMessageSize => (1, u32::MAX.into()),
            Key::Queue | Key::MaxConnections => (1, usize::MAX as u64),
            Key::SendTimeout | Key::DrainTimeout | Key::ConnectTimeout => (0, u64::MAX),
        }
    }
}

/// The options that were set. All others have the defaults of the builders.
#[derive(Clone, Debug, Default)]
pub(crate) struct PipeOptions(BTreeMap<Key, u64>);

impl PipeOptions {
    pub(crate) fn set(&mut self, key: Key, value: u64) -> Result<(), Failure> {
        let (least, most) = key.range();
        if !(least..=most).contains(&value) {
            let text = format!("{value} is not from {least} to {most}, as {key:?} must be");
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        if key == Key::MessageMode && value == 1 && !sys::HAS_MESSAGE_MODE {
            let text = "only Windows has pipes of messages";
            return Err(Failure::new(Code::Unsupported, text));
        }
        self.0.insert(key, value);
        Ok(())
    }

    pub(crate) fn server(&self, kind: Kind, name: PipeName) -> ServerBuilder {
        let mut server = sys::server(PipeServer::builder(name), self.transport(kind));
        if let Some(bytes) = self.size(Key::MaxMessageSize) {
            server = server.max_message_size(bytes);
        }
        if let Some(clients) = self.size(Key::MaxConnections) {
            server = server.max_connections(clients);
        }
        if let Some(time) = self.time(Key::DrainTimeout) {
            // The drain timeout is for the hub, the linger time for each connection.
            server = server.drain_timeout(time).linger(time);
        }
        server
    }

    pub(crate) fn client(&self, kind: Kind, name: PipeName) -> ClientBuilder {
        let mut client = sys::client(PipeClient::builder(name), self.transport(kind))
            .wait_for_server(self.is_set(Key::WaitForServer))
            .verify_server(self.is_set(Key::VerifyServer));
        if let Some(bytes) = self.size(Key::MaxMessageSize) {
            client = client.max_message_size(bytes);
        }
        if let Some(time) = self.time(Key::ConnectTimeout) {
            client = client.timeout(time);
        }
        if let Some(time) = self.time(Key::DrainTimeout) {
            client = client.linger(time);
        }
        client
    }

    pub(crate) fn hub(&self) -> HubBuilder {
        let hub = PipeHub::builder();
        match self.size(Key::Queue) {
            Some(messages) => hub.queue(messages),
            None => hub,
        }
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.time(Key::SendTimeout).unwrap_or(DEFAULT_SEND_TIMEOUT)
    }

    fn transport(&self, kind: Kind) -> Transport {
        match kind {
            _ if self.is_set(Key::MessageMode) => Transport::Messages,
            Kind::Async => Transport::Default,
            Kind::Overlapped => Transport::Overlapped,
        }
    }

    fn is_set(&self, key: Key) -> bool {
        self.0.get(&key) == Some(&1)
    }

    fn size(&self, key: Key) -> Option<usize> {
        let size = self.0.get(&key)?;
        Some(usize::try_from(*size).unwrap_or(usize::MAX))
    }

    fn time(&self, key: Key) -> Option<Duration> {
        self.0.get(&key).copied().map(|millis| match millis {
            u64::MAX => Duration::MAX,
            millis => Duration::from_millis(millis),
        })
    }
}
