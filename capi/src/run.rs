//! The life of a pipe, from asyncipc_create() to its last callback: a thread with a runtime of its
//! own, so that the callbacks of one pipe never hold another one back.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use asyncipc::hub::{Event, HubBuilder, HubHandle};
use asyncipc::{ClientBuilder, Error, PipeHub, PipeName};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::runtime::{self, Runtime};
use tokio_util::sync::CancellationToken;

use crate::callbacks::Caller;
use crate::failure::{Code, Failure};
use crate::options::Options;
use crate::pipe::{Kind, Role};
use crate::sync::{lock, wait};
use crate::sys::{self, Process};

/// What callbacks in C are used to from main threads. Only what is used of it takes memory.
const STACK: usize = 8 << 20;

thread_local! {
    /// Where the run is that this thread is of; 0 in the program's own threads.
    #[allow(clippy::missing_const_for_thread_local, reason = "which it is")]
    static OURS: Cell<usize> = const { Cell::new(0) };
}

/// Whether this is called from a callback: there, nothing may wait.
pub(crate) fn is_callback() -> bool {
    // Nothing else that comes here runs on our threads.
    OURS.get() != 0
}

/// What a run begins with.
pub(crate) struct Start {
    pub(crate) name: PipeName,
    pub(crate) role: Role,
    pub(crate) kind: Kind,
    pub(crate) options: Options,
    pub(crate) caller: Caller,
    pub(crate) silenced: Arc<AtomicBool>,
    /// Over, but perhaps still in its last callback.
    pub(crate) previous: Option<Arc<Run>>,
}

#[derive(Debug)]
pub(crate) struct Run {
    name: PipeName,
    /// Where its thread is: a child that was forked has none.
    process: Process,
    send_timeout: Duration,
    max_message_size: usize,
    /// A client has it once it is connected.
    hub: OnceLock<HubHandle>,
    exit: CancellationToken,
    /// Whether nothing but its last callback is left.
    over: AtomicBool,
    /// Whether not even that is left.
    ended: AtomicBool,
    silenced: Arc<AtomicBool>,
    /// Whoever takes it waits for its end, and everybody else for the lock.
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What is left to be done in the thread.
enum Begun {
    Listening(PipeHub),
    Connecting(ClientBuilder, HubBuilder),
}

impl Run {
    /// Starts the thread; and whether there is more to do there than to tell of the failure.
    pub(crate) fn start(start: Start) -> Result<(Arc<Self>, Result<(), Failure>), Failure> {
        let Start {
            name,
            role,
            kind,
            options,
            caller,
            silenced,
            previous,
        } = start;
        let cannot = |error| Failure::new(Code::Io, format!("cannot start a thread: {error}"));
        sys::stay_loaded().map_err(cannot)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = Background(Some(runtime.map_err(cannot)?));
        let run = Arc::new(Run {
            name: name.clone(),
            process: Process::this(),
            send_timeout: options.send_timeout(),
            max_message_size: options.max_message_size(),
            hub: OnceLock::new(),
            exit: CancellationToken::new(),
            over: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            silenced,
            thread: Mutex::default(),
        });
        let begun = {
            let _entered = runtime.get().enter();
            match role {
                Role::Server => run.listen(&options, kind, name),
                Role::Client => {
                    let client = options.client(kind, name);
                    Ok(Begun::Connecting(client, options.hub()))
                }
            }
        };
        let (begun, outcome) = match begun {
            Ok(begun) => (Ok(begun), Ok(())),
            Err(failure) => (Err(failure.clone()), Err(failure)),
        };
        run.over.store(begun.is_err(), Ordering::Release);
        let life = {
            let run = run.clone();
            move || run.live(runtime, begun, &caller, previous)
        };
        let thread = thread::Builder::new().name("asyncipc".into());
        let thread = thread.stack_size(STACK);
        let thread = sys::without_signals(|| thread.spawn(life));
        *lock(&run.thread) = Some(thread.map_err(cannot)?);
        Ok((run, outcome))
    }

    fn listen(&self, options: &Options, kind: Kind, name: PipeName) -> Result<Begun, Failure> {
        let server = options.server(kind, name).bind()?;
        let hub = options.hub().serve(server);
        let _ = self.hub.set(hub.handle());
        Ok(Begun::Listening(hub))
    }

    fn live(
        &self,
        runtime: Background,
        begun: Result<Begun, Failure>,
        caller: &Caller,
        previous: Option<Arc<Run>>,
    ) {
        OURS.set(ptr::from_ref(self).addr());
        let _end = End(self);
        if let Some(previous) = previous {
            previous.wait_for_end();
        }
        match begun {
            Ok(begun) => {
                self.call(|| caller.on_create(None));
                runtime.get().block_on(self.converse(begun, caller));
            }
            Err(failure) => self.call(|| caller.on_create(Some(failure))),
        }
        // Before another run may begin.
        drop(runtime);
    }

    async fn converse(&self, begun: Begun, caller: &Caller) {
        let (mut hub, role) = match begun {
            Begun::Listening(hub) => (hub, Role::Server),
            Begun::Connecting(client, hub) => match self.connect(client, hub).await {
                Ok(hub) => (hub, Role::Client),
                Err(failure) => {
                    self.over.store(true, Ordering::Release);
                    return self.call(|| caller.on_connected(0, Some(failure)));
                }
            },
        };
        let mut open = true;
        loop {
            let event = tokio::select! {
                () = self.exit.cancelled(), if open => {
                    open = false;
                    hub.handle().shutdown();
                    continue;
                }
                event = hub.next() => event,
            };
            let Some(event) = event else {
                if open && role == Role::Server {
                    self.over.store(true, Ordering::Release);
                    self.call(|| caller.on_disconnected(0, Some(self.has_failed())));
                }
                return;
            };
            self.call(|| match event {
                Event::Connected { id, .. } => caller.on_connected(id, None),
                Event::Received { id, message, .. } => caller.on_recv(id, &message),
                Event::Sent {
                    id, messages, len, ..
                } => caller.on_send(id, messages, len),
                Event::Disconnected { id, reason, .. } => {
                    // There it can connect again.
                    if role == Role::Client {
                        self.over.store(true, Ordering::Release);
                    }
                    caller.on_disconnected(id, Failure::reason(reason));
                }
                // Listening, of which on_create has told.
                _ => {}
            });
        }
    }

    async fn connect(&self, client: ClientBuilder, hub: HubBuilder) -> Result<PipeHub, Failure> {
        let conn = tokio::select! {
            biased;
            () = self.exit.cancelled() => return Err(self.was_shut_down()),
            conn = client.connect() => conn?,
        };
        let hub = hub.connected(conn);
        let _ = self.hub.set(hub.handle());
        Ok(hub)
    }

    fn call(&self, callback: impl FnOnce()) {
        if !self.silenced.load(Ordering::Acquire) {
            callback();
        }
    }

    /// Whether another run may begin: also in the last callback of this one, unless somebody waits
    /// for the end of all.
    pub(crate) fn may_be_followed(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.is_over() && !self.exit.is_cancelled()
    }

    /// Whether this is called from its own last callback.
    pub(crate) fn is_in_its_last_callback(&self) -> bool {
        OURS.get() == ptr::from_ref(self).addr() && self.is_over()
    }

    /// Why no other run may begin.
    pub(crate) fn is_in_the_way(&self) -> Failure {
        let text = match self.exit.is_cancelled() {
            true => "asyncipc_exit was called, and the last callback has not returned yet",
            false => "the pipe was created already",
        };
        Failure::new(Code::WrongState, format!("{}: {text}", self.name))
    }

    pub(crate) fn is_of_this_process(&self) -> Result<(), Failure> {
        if self.process == Process::this() {
            return Ok(());
        }
        let (name, process) = (&self.name, self.process.id);
        let text = format!("{name} was created in process {process}, of which this is a fork");
        Err(Failure::new(Code::WrongState, text))
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// To everybody.
    pub(crate) fn send(&self, message: &[u8]) -> Result<(), Failure> {
        let hub = self.hub()?;
        match hub.clients()[..] {
            [] => return Err(self.nobody("nobody is connected to")),
            // Here nothing is in doubt when it leaves meanwhile.
            [only] => return self.send_to(only, message),
            _ => {}
        }
        let message = self.copy(message)?;
        let full = hub.broadcast(message.clone())?;
        // Who leaves meanwhile is not missed: its on_disconnected tells.
        self.send_when_there_is_room(hub, full, message, |_| Ok(()))
    }

    pub(crate) fn send_to(&self, client: u64, message: &[u8]) -> Result<(), Failure> {
        let hub = self.hub()?;
        let message = self.copy(message)?;
        let full = match hub.try_send(client, message.clone()) {
            Err(Error::QueueFull { .. }) => vec![client],
            sent => return Ok(sent?),
        };
        self.send_when_there_is_room(hub, full, message, |gone| Err(gone.into()))
    }

    /// A copy for the queues, if the message may be sent at all.
    fn copy(&self, message: &[u8]) -> Result<Bytes, Failure> {
        let (size, max) = (message.len(), self.max_message_size);
        if size > max {
            let text = format!("a message of {size} bytes is above the limit of {max} bytes");
            return Err(Failure::new(Code::MessageTooLarge, text));
        }
        let mut copy = Vec::new();
        copy.try_reserve_exact(size).map_err(|_| {
            let text = format!("there is no memory for a message of {size} bytes");
            Failure::new(Code::NoMemory, text)
        })?;
        copy.extend_from_slice(message);
        Ok(copy.into())
    }

    fn send_when_there_is_room(
        &self,
        hub: &HubHandle,
        full: Vec<u64>,
        message: Bytes,
        gone: impl Fn(Error) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut full: BTreeSet<u64> = full.into_iter().collect();
        let timeout = match is_callback() {
            true => Duration::ZERO,
            false => self.send_timeout,
        };
        if !timeout.is_zero() {
            let send = async |client| (client, hub.send(client, message.clone()).await);
            let mut sends: FuturesUnordered<_> = full.iter().copied().map(send).collect();
            let all = async {
                while let Some((client, sent)) = sends.next().await {
                    full.remove(&client);
                    match sent {
                        Err(error @ Error::UnknownClient { .. }) => gone(error)?,
                        sent => sent?,
                    }
                }
                Ok(())
            };
            if let Some(sent) = wait(Instant::now().checked_add(timeout), all) {
                return sent;
            }
        }
        if full.is_empty() {
            return Ok(());
        }
        let clients: Vec<_> = full.iter().map(u64::to_string).collect();
        let (clients, name) = (clients.join(", "), &self.name);
        let text = match timeout.is_zero() {
            true => format!("the queue of client {clients} of {name} is full"),
            false => format!("the queue of client {clients} of {name} was full for {timeout:.1?}"),
        };
        Err(Failure::new(Code::QueueFull, text))
    }

    pub(crate) fn disconnect(&self, client: u64) -> Result<(), Failure> {
        Ok(self.hub()?.disconnect(client)?)
    }

    /// The hub, if messages can be sent.
    fn hub(&self) -> Result<&HubHandle, Failure> {
        if self.exit.is_cancelled() {
            return Err(self.was_shut_down());
        }
        match self.hub.get() {
            Some(_) if self.is_over() => Err(self.nobody("no longer connected to")),
            Some(hub) => Ok(hub),
            None => Err(self.nobody("not connected to")),
        }
    }

    fn nobody(&self, what: &str) -> Failure {
        Failure::new(Code::NotConnected, format!("{what} {}", self.name))
    }

    /// Why a server has ended by itself. What the system said was logged.
    fn has_failed(&self) -> Failure {
        let text = format!("{}: accepting has failed for good, see the log", self.name);
        Failure::new(Code::Io, text)
    }

    fn was_shut_down(&self) -> Failure {
        let text = format!("asyncipc_exit was called for {}", self.name);
        Failure::new(Code::ShutDown, text)
    }

    /// Ends it orderly. Does not wait.
    pub(crate) fn shut_down(&self) {
        self.exit.cancel();
    }

    /// Not to be called from its callbacks.
    pub(crate) fn wait_for_end(&self) {
        let mut thread = lock(&self.thread);
        if let Some(thread) = thread.take() {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// A runtime that is not waited for at its end: an attempt to reach another machine may still block
/// a thread, and in a callback nothing may wait.
#[derive(Debug)]
struct Background(Option<Runtime>);

impl Background {
    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("taken only at the end")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// That a thread is at its end, also by a panic.
struct End<'a>(&'a Run);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Release);
        self.0.ended.store(true, Ordering::Release);
    }
}
