mod client;
mod delegate;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_core::stream::{FusedStream, Stream};
use futures_util::future::join_all;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use delegate::PipeDelegate;

use crate::server::Listening;
use crate::sync::lock;
use crate::tally::Tally;
use crate::{Error, MessageCodec, Peer, PipeConnection, PipeName, PipeServer, ShutdownHandle};

/// How many messages wait for a client, unless told otherwise.
const DEFAULT_QUEUE: usize = 64;

/// How many events wait for the application. Each client has one more of its own in hand.
const EVENTS: usize = 64;

/// All clients of a server in one object: a [`Stream`] of what happens to them, and a
/// [`HubHandle`] to send to them.
///
/// For programs that think in events. Where each client is a conversation of its own,
/// [`PipeServer::serve`] is simpler. [`run`](Self::run) calls a
/// [`PipeDelegate`](crate::PipeDelegate) with the same events. Made from a single
/// [`PipeConnection`], it is the same for a client.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), asyncipc::Error> {
/// use asyncipc::{Event, PipeClient, PipeServer};
/// use futures::{SinkExt, StreamExt};
///
/// let name = format!("doc-hub-{}", std::process::id());
/// let mut hub = PipeServer::bind(&name)?.into_hub();
/// let clients = hub.handle();
/// let serving = async {
///     while let Some(event) = hub.next().await {
///         match event {
///             Event::Connected { id, .. } => clients.send(id, "welcome".into()).await?,
///             Event::Received { id, message, .. } => clients.send(id, message).await?,
///             Event::Disconnected { .. } => clients.shutdown(),
///             _ => {}
///         }
///     }
///     Ok(())
/// };
/// let client = async {
///     let mut conn = PipeClient::connect(&name).await?;
///     assert_eq!(conn.next().await.unwrap()?, "welcome");
///     conn.send("hello".into()).await?;
///     assert_eq!(conn.next().await.unwrap()?, "hello");
///     Ok::<_, asyncipc::Error>(())
/// };
/// tokio::try_join!(serving, client)?;
/// # Ok(()) }
/// ```
///
/// # Order
///
/// For each client, `Connected` comes first and `Disconnected` last, each once, and its messages
/// come in the order in which it sent them. There is a `Sent` for what the system has taken, in the
/// order of sending: what had none when `Disconnected` comes was not sent, or not entirely.
///
/// # Slow ones
///
/// Each client has a task and a queue of its own. One that does not read fills its queue, and
/// [`Overflow`] says what happens then; others do not notice. An application that does not read
/// the events holds the clients back: nothing is read from them, and nobody is accepted, once a
/// few events wait for it. What it has sent still goes out.
///
/// # Ending
///
/// A client that ends its sending direction has left: what waits in its queue is still sent, and
/// nothing further.
///
/// [`HubHandle::shutdown`] ends it orderly; so does an error after which no client can come any more,
/// which is logged (see [`PipeServer::accept`]). Dropping the hub ends all connections at once, and
/// what waits in the queues is lost, which is logged as a warning; nobody can connect any more, and
/// the tasks end. [`HubHandle::flush_all`] waits before that until the system has everything.
///
/// # Cancel safety
///
/// `next` loses nothing when cancelled.
#[derive(Debug)]
#[must_use = "events have to be read for anything to happen"]
pub struct PipeHub {
    events: mpsc::Receiver<Event>,
    handle: HubHandle,
    /// That of the accept loop, if it is a server.
    listening: Option<Listening>,
    /// Everything else: the accept loop, which has the tasks of the clients.
    _task: AbortOnDropHandle<()>,
}

/// What happens in a [`PipeHub`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The server listens. Comes once and before all others; not when the hub is that of a client.
    Listening,
    /// A client is there. From now on it can be sent to.
    #[non_exhaustive]
    Connected {
        /// The connection's number, as [`PipeConnection::id`]: never used again in this process.
        id: u64,
        /// Who it is, as far as the system tells.
        peer: Peer,
    },
    /// A message came.
    #[non_exhaustive]
    Received {
        /// From whom.
        id: u64,
        /// What it says.
        message: Bytes,
    },
    /// The system has taken a message. The client may not have read it yet.
    #[non_exhaustive]
    Sent {
        /// To whom.
        id: u64,
        /// How many messages this is about: one, as long as the application reads the events.
        /// When it is a whole queue behind, further ones are told in one, for there is no end to
        /// them otherwise.
        messages: usize,
        /// How long they were, in bytes.
        len: usize,
    },
    /// A client is gone. Nothing comes from it any more, and nothing can be sent to it.
    #[non_exhaustive]
    Disconnected {
        /// Who.
        id: u64,
        /// Why.
        reason: DisconnectReason,
    },
}

/// Why a client of a [`PipeHub`] is gone.
#[derive(Debug)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// It left, between two messages.
    Left,
    /// The connection failed: the client left in the middle of a message, sent one above the
    /// limit, or the system has an error.
    Failed(Error),
    /// [`HubHandle::disconnect`] was called.
    Disconnected,
    /// Its queue was full, and the hub's policy is [`Overflow::Disconnect`].
    Overflow,
    /// The hub was shut down.
    ShutDown,
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DisconnectReason::Left => f.write_str("it left"),
            DisconnectReason::Failed(error) => error.fmt(f),
            DisconnectReason::Disconnected => f.write_str("it was disconnected"),
            DisconnectReason::Overflow => f.write_str("it does not read, and its queue is full"),
            DisconnectReason::ShutDown => f.write_str("the hub was shut down"),
        }
    }
}

/// What happens when a message is to be sent to a client whose queue is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// [`send`](HubHandle::send) waits for room. What cannot wait,
    /// [`try_send`](HubHandle::try_send) and [`broadcast`](HubHandle::broadcast), leaves the
    /// client out and says so.
    #[default]
    Wait,
    /// The client is disconnected, at once and without what waits for it. Nothing ever waits.
    Disconnect,
}

/// How a [`PipeHub`] deals with its clients.
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until it makes a hub"]
pub struct HubBuilder {
    queue: usize,
    overflow: Overflow,
}

impl Default for HubBuilder {
    fn default() -> Self {
        HubBuilder {
            queue: DEFAULT_QUEUE,
            overflow: Overflow::default(),
        }
    }
}

impl HubBuilder {
    /// How many messages may wait for a client, at least one. Default 64.
    pub fn queue(mut self, messages: usize) -> Self {
        self.queue = messages.clamp(1, Semaphore::MAX_PERMITS);
        self
    }

    /// What happens to a client whose queue is full. Default: [`Overflow::Wait`].
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// The hub of a server's clients. It ends with the server: when it is
    /// [shut down](HubHandle::shutdown), also by a [`ShutdownHandle`] of the server.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn serve(self, server: PipeServer) -> PipeHub {
        let shared = self.shared(
            server.name(),
            server.codec,
            server.shutdown_handle(),
            server.drain_timeout,
        );
        let (events_in, events) = mpsc::channel(EVENTS);
        let server = Listening::new(server);
        let accepting = accept(server.clone(), shared.clone(), events_in);
        PipeHub::spawn(shared, events, Some(server), accepting)
    }

    /// The hub of a client, with the server at the other end as its only client. It ends when the
    /// connection does. The connection's linger time is the drain timeout.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn connected(self, conn: PipeConnection) -> PipeHub {
        let (sender, receiver) = conn.split();
        let shutdown = ShutdownHandle(CancellationToken::new());
        let shared = self.shared(sender.name(), sender.codec, shutdown, sender.shared.linger);
        let (events_in, events) = mpsc::channel(EVENTS);
        let (connected, client) = client::enter(&shared, sender, receiver, &events_in);
        PipeHub::spawn(shared, events, None, async move {
            if events_in.send(connected).await.is_ok() {
                client.run().await;
            }
        })
    }

    fn shared(
        self,
        name: &PipeName,
        codec: MessageCodec,
        shutdown: ShutdownHandle,
        drain: Duration,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            name: name.clone(),
            codec,
            options: self,
            drain_timeout: drain,
            shutdown,
            clients: Mutex::default(),
            tallies: Mutex::default(),
        })
    }
}

impl PipeServer {
    /// Makes a [`PipeHub`] of it, with every default. [`PipeHub::builder`] has the knobs.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn into_hub(self) -> PipeHub {
        PipeHub::builder().serve(self)
    }
}

impl PipeConnection {
    /// Makes a [`PipeHub`] of it, with every default: for clients that think in events.
    /// [`PipeHub::builder`] has the knobs.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime.
    pub fn into_hub(self) -> PipeHub {
        PipeHub::builder().connected(self)
    }
}

impl PipeHub {
    /// Every knob, each with its default.
    ///
    /// ```no_run
    /// # fn doc() -> Result<(), asyncipc::Error> {
    /// use asyncipc::{Overflow, PipeHub, PipeServer};
    ///
    /// let hub = PipeHub::builder()
    ///     .queue(256)
    ///     .overflow(Overflow::Disconnect)
    ///     .serve(PipeServer::bind("news")?);
    /// # Ok(()) }
    /// ```
    pub fn builder() -> HubBuilder {
        HubBuilder::default()
    }

    fn spawn(
        shared: Arc<Shared>,
        events: mpsc::Receiver<Event>,
        listening: Option<Listening>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        // However that task ends, with its runtime too: nothing can be sent any more.
        let over = shared.shutdown.0.clone().drop_guard();
        let task = async move {
            let _over = over;
            task.await;
        };
        PipeHub {
            events,
            listening,
            handle: HubHandle(shared),
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        }
    }

    /// The pipe's name.
    pub fn name(&self) -> &PipeName {
        &self.handle.0.name
    }

    /// Sends to the clients, from anywhere.
    pub fn handle(&self) -> HubHandle {
        self.handle.clone()
    }
}

impl Stream for PipeHub {
    type Item = Event;

    /// What happens next; `None` once the hub is shut down and all its clients are gone, or the
    /// runtime in which it was made has ended.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.events.poll_recv(cx)
    }
}

impl FusedStream for PipeHub {
    fn is_terminated(&self) -> bool {
        self.events.is_closed() && self.events.is_empty()
    }
}

impl Drop for PipeHub {
    fn drop(&mut self) {
        // For the handles: there is nobody to send to any more.
        self.handle.shutdown();
        self.events.close();
        let mut messages = 0;
        while let Ok(event) = self.events.try_recv() {
            messages += usize::from(matches!(event, Event::Received { .. }));
        }
        if messages > 0 {
            let pipe = self.name();
            tracing::warn!(%pipe, messages, "a hub was dropped, and messages that it had received were not read");
        }
        if let Some(listening) = &self.listening {
            listening.stop();
        }
    }
}

/// Sends to the clients of a [`PipeHub`]. Any number of tasks can have one.
///
/// It does not keep the hub alive.
#[derive(Clone, Debug)]
pub struct HubHandle(Arc<Shared>);

impl HubHandle {
    /// The pipe's name.
    pub fn name(&self) -> &PipeName {
        &self.0.name
    }

    /// Puts a message into a client's queue, from which it goes out by itself. With
    /// [`Overflow::Wait`] this waits for room.
    ///
    /// Whoever waits here in the task that reads the events reads none meanwhile: a client that
    /// never reads would keep it there, and so would one that waits in the same way for this hub to
    /// read. Where clients are not to be trusted, or send much in answer to what they get, use
    /// [`try_send`](Self::try_send), [`Overflow::Disconnect`], or another task.
    ///
    /// # Errors
    ///
    /// - [`Error::UnknownClient`]: there is no such client, or it has left, also while this waits
    /// - [`Error::QueueFull`]: with [`Overflow::Disconnect`]; the client is being disconnected
    /// - [`Error::MessageTooLarge`]
    /// - [`Error::ShutDown`]: also when the hub was dropped or has ended
    ///
    /// # Cancel safety
    ///
    /// Cancelled, it has sent nothing.
    ///
    /// # What `Ok` means
    ///
    /// That the hub has the message. [`flush`](Self::flush) waits until the system has it, and
    /// [`Event::Sent`] tells: what is still in the queue when the hub is dropped, or the process
    /// ends, is lost.
    pub async fn send(&self, id: u64, message: Bytes) -> Result<(), Error> {
        if self.0.options.overflow == Overflow::Disconnect {
            return self.try_send(id, message);
        }
        let queue = {
            let clients = self.0.open()?;
            let client = clients.get(&id).ok_or_else(|| self.0.unknown(id))?;
            self.0.codec.header(message.len())?;
            client.queue.clone()
        };
        let place = queue.reserve_owned().await;
        let place = place.map_err(|_| self.0.gone(id))?;
        // Under the lock, so that it is counted in its turn.
        let clients = self.0.open()?;
        let client = clients.get(&id).ok_or_else(|| self.0.unknown(id))?;
        place.send(message);
        client.tally.accept();
        Ok(())
    }

    /// Waits until the system has all messages that were accepted for this client before this call.
    /// The client need not have read them, but while it does not read, this can wait for ever.
    ///
    /// After that, the process can end without losing them. Not so on Windows, unless the pipe is in
    /// message mode: the last write goes on in the background, and ends with the process. There, call
    /// [`shutdown`](Self::shutdown) and read the events to their end.
    ///
    /// Also works after [`disconnect`](Self::disconnect) and [`shutdown`](Self::shutdown), while what
    /// waits is being sent. A task that reads the events and waits here reads none meanwhile.
    ///
    /// # Errors
    ///
    /// - [`Error::UnknownClient`]: there is no such client, or it is gone already
    /// - [`Error::Unsent`]: it is gone now, or the hub is, and some were not sent
    ///
    /// # Cancel safety
    ///
    /// Cancelling changes nothing.
    pub async fn flush(&self, id: u64) -> Result<(), Error> {
        let tally = lock(&self.0.tallies).get(&id).cloned();
        let tally = tally.ok_or_else(|| self.0.unknown(id))?;
        self.0.all_sent(id, tally.flushed().await)
    }

    /// As [`flush`](Self::flush), for all clients: the error is that of the first one that has any,
    /// and comes when there is nobody left to wait for.
    ///
    /// # Errors
    ///
    /// [`Error::Unsent`]
    ///
    /// # Cancel safety
    ///
    /// The same.
    pub async fn flush_all(&self) -> Result<(), Error> {
        let tallies = lock(&self.0.tallies).clone();
        // All from this moment on, and not each from when its turn comes.
        let flushing = tallies.iter().map(|(id, tally)| (*id, tally.flushed()));
        let flushing: Vec<_> = flushing.collect();
        let flushed = flushing.into_iter().map(async |(id, it)| (id, it.await));
        let flushed = join_all(flushed).await;
        let mut flushed = flushed.into_iter();
        flushed.try_for_each(|(id, lost)| self.0.all_sent(id, lost))
    }

    /// As [`send`](Self::send), without ever waiting.
    ///
    /// # Errors
    ///
    /// The same, and [`Error::QueueFull`] with either policy.
    pub fn try_send(&self, id: u64, message: Bytes) -> Result<(), Error> {
        let mut clients = self.0.open()?;
        let client = clients.get(&id).ok_or_else(|| self.0.unknown(id))?;
        self.0.codec.header(message.len())?;
        let sent = client.queue.try_send(message);
        let result = match &sent {
            Ok(()) => {
                client.tally.accept();
                Ok(())
            }
            Err(TrySendError::Closed(_)) => Err(self.0.gone(id)),
            Err(TrySendError::Full(_)) => {
                self.0.overflowed(&mut clients, id);
                Err(Error::QueueFull {
                    pipe: self.0.name.clone(),
                    id,
                })
            }
        };
        drop(clients);
        // The message that was not taken. Its bytes may be the application's, with code of its own.
        drop(sent);
        result
    }

    /// Puts a message into the queue of every client, and says which ones had no room for it.
    ///
    /// Never waits, not even with [`Overflow::Wait`], because one client that does not read would
    /// keep the next message from all others. Those that had no room do not get this message: the
    /// caller can [`send`](Self::send) it to them in a task of their own, or disconnect them. With
    /// [`Overflow::Disconnect`], that is being done.
    ///
    /// Everyone gets the messages of one task in the order of its calls.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`] and [`Error::ShutDown`]: then nobody gets it.
    pub fn broadcast(&self, message: Bytes) -> Result<Vec<u64>, Error> {
        let mut clients = self.0.open()?;
        self.0.codec.header(message.len())?;
        let mut full = Vec::new();
        for (id, client) in clients.iter() {
            match client.queue.try_send(message.clone()) {
                Ok(()) => client.tally.accept(),
                Err(TrySendError::Full(_)) => full.push(*id),
                // It is gone.
                Err(TrySendError::Closed(_)) => {}
            }
        }
        for id in &full {
            self.0.overflowed(&mut clients, *id);
        }
        Ok(full)
    }

    /// Ends a client's connection. What waits in its queue is sent before, for up to the server's
    /// drain timeout; nothing is received from it any more. Does not wait:
    /// [`Event::Disconnected`] says when it is done.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownClient`], also when this was called before; [`Error::ShutDown`].
    pub fn disconnect(&self, id: u64) -> Result<(), Error> {
        let mut clients = self.0.open()?;
        let client = clients.remove(&id).ok_or_else(|| self.0.unknown(id))?;
        // If it is about to end anyway, it has a reason already.
        let _ = client.end.send(DisconnectReason::Disconnected);
        Ok(())
    }

    /// The numbers of those that can be sent to, the oldest first: nobody once the hub is shut
    /// down.
    pub fn clients(&self) -> Vec<u64> {
        let clients = self.0.open();
        clients.map_or_else(|_| Vec::new(), |it| it.keys().copied().collect())
    }

    /// Shuts the hub down: nobody is accepted, nothing is received, and nothing new can be sent.
    /// What waits in the queues is sent for up to the server's drain timeout, then each client
    /// gets its [`Event::Disconnected`], and the stream ends. Does not wait.
    pub fn shutdown(&self) {
        self.0.shutdown.shutdown();
    }
}

/// What the hub, its handles and the tasks of its clients have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: PipeName,
    codec: MessageCodec,
    options: HubBuilder,
    pub(crate) drain_timeout: Duration,
    pub(crate) shutdown: ShutdownHandle,
    /// Those that can be sent to.
    clients: Mutex<BTreeMap<u64, Client>>,
    /// Those and the ones that are ending.
    tallies: Mutex<BTreeMap<u64, Arc<Tally>>>,
}

/// What the handles need of a client.
#[derive(Debug)]
struct Client {
    queue: mpsc::Sender<Bytes>,
    tally: Arc<Tally>,
    end: oneshot::Sender<DisconnectReason>,
}

impl Shared {
    /// From now on messages can be sent to this client. What its task gets: the queue, whose
    /// bound comes with it, and the reason to end when the hub has one.
    pub(crate) fn register(
        &self,
        id: u64,
        tally: &Arc<Tally>,
    ) -> (mpsc::Receiver<Bytes>, oneshot::Receiver<DisconnectReason>) {
        let (queue, messages) = mpsc::channel(self.options.queue);
        let (end, ended) = oneshot::channel();
        lock(&self.tallies).insert(id, tally.clone());
        let tally = tally.clone();
        self.lock().insert(id, Client { queue, tally, end });
        (messages, ended)
    }

    pub(crate) fn remove(&self, id: u64) {
        let client = self.lock().remove(&id);
        let tally = lock(&self.tallies).remove(&id);
        drop((client, tally));
    }

    fn all_sent(&self, id: u64, lost: u64) -> Result<(), Error> {
        match lost {
            0 => Ok(()),
            messages => Err(Error::Unsent {
                pipe: self.name.clone(),
                id,
                messages,
            }),
        }
    }

    fn overflowed(&self, clients: &mut BTreeMap<u64, Client>, id: u64) {
        if self.options.overflow == Overflow::Disconnect
            && let Some(client) = clients.remove(&id)
        {
            let _ = client.end.send(DisconnectReason::Overflow);
        }
    }

    /// The clients, unless the hub is shut down.
    fn open(&self) -> Result<MutexGuard<'_, BTreeMap<u64, Client>>, Error> {
        match self.shutdown.is_shut_down() {
            false => Ok(self.lock()),
            true => Err(Error::ShutDown {
                pipe: self.name.clone(),
            }),
        }
    }

    fn unknown(&self, id: u64) -> Error {
        Error::UnknownClient {
            pipe: self.name.clone(),
            id,
        }
    }

    /// Why a client that was there takes nothing any more.
    fn gone(&self, id: u64) -> Error {
        match self.shutdown.is_shut_down() {
            true => Error::ShutDown {
                pipe: self.name.clone(),
            },
            false => self.unknown(id),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Client>> {
        lock(&self.clients)
    }
}

/// Accepts clients until the server is shut down, and ends when all of them have.
async fn accept(server: Listening, shared: Arc<Shared>, events: mpsc::Sender<Event>) {
    // Aborted when this is.
    let mut clients = JoinSet::new();
    let _ = events.send(Event::Listening).await;
    loop {
        // Nobody is let in whom the application has no time for.
        let permit = tokio::select! {
            biased;
            _ = shared.shutdown.requested() => break,
            permit = events.reserve() => permit,
        };
        let Ok(permit) = permit else { break };
        let conn = match server.accept().await {
            Ok(conn) => conn,
            Err(error) => {
                if !shared.shutdown.is_shut_down() {
                    tracing::error!(pipe = %shared.name, %error, "shutting down");
                    shared.shutdown.shutdown();
                }
                break;
            }
        };
        let (sender, receiver) = conn.split();
        let (connected, client) = client::enter(&shared, sender, receiver, &events);
        permit.send(connected);
        clients.spawn(client.run());
        // Those that ended meanwhile.
        while clients.try_join_next().is_some() {}
    }
    server.stop();
    tracing::debug!(pipe = %shared.name, clients = clients.len(), "draining");
    while clients.join_next().await.is_some() {}
}
