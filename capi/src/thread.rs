//! A pipe's thread. It has a runtime of its own, so that the callbacks of one pipe never hold another
//! one back.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use asyncipc::hub::{Event, HubBuilder};
use asyncipc::{ClientBuilder, PipeHub, PipeName};
use futures_util::StreamExt;
use tokio::runtime::{self, Runtime};

use crate::callbacks::Caller;
use crate::failure::{Code, Failure};
use crate::kind::{Kind, Role};
use crate::options::PipeOptions;
use crate::run::Run;
use crate::sys;

/// As large as main threads usually have it, for callbacks in C. Only the used part takes memory.
const STACK: usize = 8 << 20;

/// What a run begins with.
pub(crate) struct Start {
    pub(crate) name: PipeName,
    pub(crate) role: Role,
    pub(crate) kind: Kind,
    pub(crate) options: PipeOptions,
    pub(crate) caller: Caller,
    pub(crate) silenced: Arc<AtomicBool>,
    /// The previous run, which may still be in its last callback.
    pub(crate) previous: Option<Arc<Run>>,
}

/// What is left to be done in the thread.
enum Task {
    Serve(PipeHub),
    Connect(ClientBuilder, HubBuilder),
}

impl Start {
    /// Binds the server, if this is one, and starts the thread. If the server cannot be bound, there is a
    /// thread all the same: it calls on_create(), and [`Run::outcome`] has the failure.
    ///
    /// # Errors
    ///
    /// The thread cannot be started: then there is no run.
    pub(crate) fn run(self) -> Result<Arc<Run>, Failure> {
        let cannot = |error| Failure::new(Code::Io, format!("cannot start a thread: {error}"));
        sys::stay_loaded().map_err(cannot)?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = BackgroundRuntime(Some(runtime.map_err(cannot)?));
        let task = {
            let _entered = runtime.get().enter();
            self.task()
        };
        let outcome = task.as_ref().map(drop).map_err(Failure::clone);
        let run = Run::new(
            self.name,
            self.options.send_timeout(),
            outcome,
            self.silenced,
        );
        let run = Arc::new(run);
        if let Ok(Task::Serve(hub)) = &task {
            run.set_hub(hub.handle());
        }
        let (caller, previous) = (self.caller, self.previous);
        let life = {
            let run = run.clone();
            move || live(&run, runtime, task, &caller, previous)
        };
        let thread = thread::Builder::new().name("asyncipc".into());
        let thread = thread.stack_size(STACK);
        let thread = sys::without_signals(|| thread.spawn(life));
        run.set_thread(thread.map_err(cannot)?);
        Ok(run)
    }

    fn task(&self) -> Result<Task, Failure> {
        let (options, kind, name) = (&self.options, self.kind, self.name.clone());
        Ok(match self.role {
            Role::Server => {
                let server = options.server(kind, name).bind()?;
                Task::Serve(options.hub().serve(server))
            }
            Role::Client => Task::Connect(options.client(kind, name), options.hub()),
        })
    }
}

/// The whole life of the thread.
fn live(
    run: &Run,
    runtime: BackgroundRuntime,
    task: Result<Task, Failure>,
    caller: &Caller,
    previous: Option<Arc<Run>>,
) {
    let _thread = run.enter_thread();
    if let Some(previous) = previous {
        previous.wait_for_end();
    }
    match task {
        Ok(task) => {
            run.call(|| caller.on_create(None));
            runtime.get().block_on(converse(run, task, caller));
        }
        Err(failure) => run.call(|| caller.on_create(Some(failure))),
    }
    // The runtime ends before another run may begin.
    drop(runtime);
}

/// Connects, if it is a client, and turns events into callbacks until the hub has ended.
async fn converse(run: &Run, task: Task, caller: &Caller) {
    let (mut hub, role) = match task {
        Task::Serve(hub) => (hub, Role::Server),
        Task::Connect(client, hub) => match connect(run, client, hub).await {
            Ok(hub) => (hub, Role::Client),
            Err(failure) => {
                run.finish();
                return run.call(|| caller.on_connected(0, Some(failure)));
            }
        },
    };
    let mut open = true;
    loop {
        let event = tokio::select! {
            () = run.shutdown_requested(), if open => {
                open = false;
                hub.handle().shutdown();
                continue;
            }
            event = hub.next() => event,
        };
        let Some(event) = event else {
            if open && role == Role::Server {
                run.finish();
                run.call(|| caller.on_disconnected(0, Some(accepting_failed(run))));
            }
            return;
        };
        run.call(|| match event {
            Event::Connected { id, .. } => caller.on_connected(id.get(), None),
            Event::Received { id, message, .. } => caller.on_recv(id.get(), &message),
            Event::Sent {
                id, messages, len, ..
            } => caller.on_send(id.get(), messages, len),
            Event::Disconnected { id, reason, .. } => {
                // A client can connect again from this callback.
                if role == Role::Client {
                    run.finish();
                }
                caller.on_disconnected(id.get(), Failure::reason(reason));
            }
            // Listening: on_create has said so.
            _ => {}
        });
    }
}

async fn connect(run: &Run, client: ClientBuilder, hub: HubBuilder) -> Result<PipeHub, Failure> {
    let conn = tokio::select! {
        biased;
        () = run.shutdown_requested() => return Err(run.was_shut_down()),
        conn = client.connect() => conn?,
    };
    let hub = hub.connected(conn);
    run.set_hub(hub.handle());
    Ok(hub)
}

/// The failure of a server that has ended by itself. The error of the system was logged.
fn accepting_failed(run: &Run) -> Failure {
    let text = format!("{}: accepting has failed for good, see the log", run.name());
    Failure::new(Code::Io, text)
}

/// A runtime that ends in the background, without anybody waiting for it: an attempt to reach another machine
/// may still block one of its threads, and in a callback nothing may wait.
#[derive(Debug)]
struct BackgroundRuntime(Option<Runtime>);

impl BackgroundRuntime {
    fn get(&self) -> &Runtime {
        self.0.as_ref().expect("taken only at the end")
    }
}

impl Drop for BackgroundRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
