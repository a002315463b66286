use tokio::sync::Semaphore;

/// How many messages wait for a client, unless the builder says otherwise.
const DEFAULT_QUEUE: usize = 64;

/// What happens when a message is to be sent to a client whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// [`send`](super::HubHandle::send) waits for room. [`try_send`](super::HubHandle::try_send) and
    /// [`broadcast`](super::HubHandle::broadcast), which never wait, leave the client out and report it.
    #[default]
    Wait,
    /// The client is disconnected at once, and the messages that wait for it are lost. No call ever waits.
    Disconnect,
}

/// How a hub deals with its clients.
#[derive(Clone, Copy, Debug)]
pub(super) struct HubOptions {
    /// How many messages may wait for a client.
    pub(super) queue: usize,
    pub(super) overflow: Overflow,
}

impl HubOptions {
    pub(super) fn set_queue(&mut self, messages: usize) {
        self.queue = messages.clamp(1, Semaphore::MAX_PERMITS);
    }
}

impl Default for HubOptions {
    fn default() -> Self {
        HubOptions {
            queue: DEFAULT_QUEUE,
            overflow: Overflow::default(),
        }
    }
}
