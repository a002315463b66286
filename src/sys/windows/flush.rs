//! Waiting until the peer has read everything.
//!
//! The system has one call for this, FlushFileBuffers. It blocks its thread for as long as the peer
//! takes, even on a handle for overlapped I/O. So a few threads of our own make the call. They exist
//! only while an end waits. When more ends wait than there are threads, the ends take turns: another
//! thread, the overseer, cancels a call that blocks, and a thread repeats it later. Ends that have not
//! had a turn yet go first. So an end whose peer has read learns it soon, however many others wait for
//! peers that do not read.
//!
//! Once the peer has left, the system says that everything was read. So when an end has had to wait for
//! its turn, the thread first checks that the peer is still there.
//!
//! CancelSynchronousIo cancels a call: it ends synchronous requests, whatever the handle was opened
//! for. Over the network it may not help. Then the thread is left behind until the peer reads or leaves.
//!
//! There is no other way. FilePipeLocalInformation says how much of the quota is left, but a read that
//! the peer has begun uses quota as unread bytes do, an empty message uses none, and Wine always says
//! 0. FSCTL_PIPE_FLUSH needs no thread, but only its name is documented, and Wine does not have it.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle, BorrowedHandle, FromRawHandle, OwnedHandle};
use std::pin::Pin;
use std::ptr::null_mut;
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use windows_sys::Win32::Foundation::{
    DUPLICATE_SAME_ACCESS, DuplicateHandle, ERROR_OPERATION_ABORTED,
};
use windows_sys::Win32::Storage::FileSystem::FlushFileBuffers;
use windows_sys::Win32::System::IO::CancelSynchronousIo;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetCurrentThread};

use super::peek;
use crate::sync::lock;

/// How many threads wait, not counting those left behind.
const THREADS: usize = 16;

/// How many threads left behind are replaced at most. There are never more than [`THREADS`] plus these.
const LEFT_BEHIND: usize = 112;

/// How long a call may block while others wait for their turn: `TURN` when each of them has had a turn
/// before, `FIRST_TURN` when one has not.
const TURN: Duration = Duration::from_millis(10);
const FIRST_TURN: Duration = Duration::from_millis(1);

/// How often the overseer tries to cancel a call, how many times before the thread counts as left behind,
/// and how often after that. At first the thread may not have entered the call yet: nothing to cancel.
const CALL_OFF_EVERY: Duration = Duration::from_millis(1);
const CALL_OFF_TIMES: u32 = 200;
const CALL_OFF_LATER: Duration = Duration::from_millis(100);

/// The threads' stack size. They run the system call and little else.
const STACK: usize = 64 << 10;

/// The error when an end had to wait for its turn, and nobody knows what its peer has read.
const LEFT_MEANWHILE: &str = "so many ends wait for their peers that the system could not be asked what the \
     peer had read before it left";

static CALLS: Calls = Calls::new(THREADS, LEFT_BEHIND, has_peer, wait_for_peer);

/// Waits until the peer has read everything that was written to `pipe`, including a write still in
/// flight. Dropping the future cancels the wait; what was written stays.
///
/// Needs no runtime. Duplicates the handle: the pipe itself may be an end that only its runtime can
/// close, and the blocked thread can outlive both.
///
/// # Errors
///
/// When the peer leaves before it has read everything, if it was still there at the beginning. If it had
/// left before, the system does not say what it had read. It is also an error when so many ends wait that
/// the peer leaves before this one has its turn.
pub(super) fn flush(pipe: BorrowedHandle<'_>) -> io::Result<Flush> {
    CALLS.ask(pipe.try_clone_to_owned()?)
}

/// A wait for the peer.
pub(super) struct Flush {
    calls: &'static Calls,
    wait: Arc<Wait>,
    answer: oneshot::Receiver<io::Result<()>>,
}

/// What the waiter and the threads know about a wait.
#[derive(Default)]
struct Wait {
    /// Whether the system was asked at least once.
    begun: AtomicBool,
    /// Whether the waiter has given up.
    called_off: AtomicBool,
}

impl Flush {
    /// Whether the system was asked at least once.
    pub(super) fn has_begun(&self) -> bool {
        self.wait.begun.load(Relaxed)
    }
}

impl Future for Flush {
    type Output = io::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The thread with the sender always answers, unless it panics.
        let gone = |_| Err(io::Error::other("the waiting thread has panicked"));
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answer| answer.unwrap_or_else(gone))
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        self.wait.called_off.store(true, Release);
        self.calls.called_off(&self.wait);
    }
}

/// An end for which the system is to be asked.
struct Ask {
    pipe: OwnedHandle,
    wait: Arc<Wait>,
    answer: oneshot::Sender<io::Result<()>>,
    /// Whether the peer was there at the beginning.
    had_peer: bool,
    /// Whether the peer may have read and left without the system being asked.
    has_waited: bool,
}

/// A thread in a call, or about to enter it.
struct Caller {
    thread: OwnedHandle,
    /// While this is set, the thread does nothing but the call that could be cancelled.
    is_calling: Mutex<bool>,
}

impl Caller {
    /// Makes the system end the call, if the thread is still blocked in it.
    fn call_off(&self) {
        let is_calling = lock(&self.is_calling);
        if *is_calling {
            // SAFETY: the handle is a thread's, and is open while `self` holds it. The lock keeps the
            // thread from going on to anything else that could be cancelled.
            unsafe { CancelSynchronousIo(self.thread.as_raw_handle()) };
        }
    }
}

/// A call that has not returned.
struct Call {
    caller: Arc<Caller>,
    wait: Arc<Wait>,
    since: Instant,
    /// How many tries to cancel it there were, and the earliest time of the next one.
    tries: u32,
    again_from: Instant,
}

impl Call {
    fn is_left_behind(&self) -> bool {
        self.tries >= CALL_OFF_TIMES
    }
}

struct Calls {
    threads: usize,
    left_behind: usize,
    state: Mutex<FlushState>,
    has_peer: fn(&OwnedHandle) -> bool,
    /// Blocks until the peer has read everything.
    wait: fn(&OwnedHandle) -> io::Result<()>,
}

struct FlushState {
    /// Those that have not had a turn yet, and those whose turn ended without an answer.
    first: VecDeque<Ask>,
    again: VecDeque<Ask>,
    /// The oldest first.
    running: Vec<Call>,
    threads: usize,
    has_overseer: bool,
}

impl FlushState {
    fn next(&mut self) -> Option<Ask> {
        self.first.pop_front().or_else(|| self.again.pop_front())
    }

    fn left_behind(&self) -> usize {
        let behind = self.running.iter().filter(|it| it.is_left_behind());
        behind.count()
    }

    /// How many wait without a free thread that will take them.
    fn waiting(&self) -> usize {
        (self.first.len() + self.again.len()).saturating_sub(self.free())
    }

    /// How many threads are not in a call.
    fn free(&self) -> usize {
        self.threads - self.running.len()
    }

    /// How long a call may block: forever if nobody else waits.
    fn turn(&self) -> Option<Duration> {
        match self.waiting() {
            0 => None,
            _ if self.first.len() > self.free() => Some(FIRST_TURN),
            _ => Some(TURN),
        }
    }

    /// Whether a call must be cancelled now, or later.
    fn needs_overseer(&self) -> bool {
        let called_off = |it: &Call| it.wait.called_off.load(Acquire);
        !self.running.is_empty() && (self.waiting() > 0 || self.running.iter().any(called_off))
    }

    /// The callers whose calls must be cancelled now, and the pause before the next look.
    fn overdue(&mut self) -> (Vec<Arc<Caller>>, Duration) {
        let (now, turn) = (Instant::now(), self.turn());
        let mut waiting = self.waiting();
        let (mut overdue, mut pause) = (vec![], CALL_OFF_LATER);
        for call in &mut self.running {
            let has_had_its_turn = turn.is_some_and(|turn| now - call.since >= turn);
            let called_off = call.wait.called_off.load(Acquire);
            let is_to_end = called_off || (waiting > 0 && has_had_its_turn);
            let later = match (call.is_left_behind(), is_to_end) {
                (true, _) => CALL_OFF_LATER,
                (false, true) => {
                    waiting = waiting.saturating_sub(1);
                    CALL_OFF_EVERY
                }
                (false, false) => turn.map_or(CALL_OFF_LATER, |turn| turn / 2),
            };
            pause = pause.min(later);
            if is_to_end && now >= call.again_from {
                call.tries += 1;
                call.again_from = now + later;
                // If the thread is in another call by then, that call is repeated later.
                overdue.push(call.caller.clone());
            }
        }
        (overdue, pause)
    }
}

impl Calls {
    const fn new(
        threads: usize,
        left_behind: usize,
        has_peer: fn(&OwnedHandle) -> bool,
        wait: fn(&OwnedHandle) -> io::Result<()>,
    ) -> Self {
        let state = FlushState {
            first: VecDeque::new(),
            again: VecDeque::new(),
            running: Vec::new(),
            threads: 0,
            has_overseer: false,
        };
        Calls {
            threads,
            left_behind,
            state: Mutex::new(state),
            has_peer,
            wait,
        }
    }

    fn lock(&self) -> MutexGuard<'_, FlushState> {
        lock(&self.state)
    }

    fn ask(&'static self, pipe: OwnedHandle) -> io::Result<Flush> {
        let wait = Arc::new(Wait::default());
        let (sender, answer) = oneshot::channel();
        let ask = Ask {
            had_peer: (self.has_peer)(&pipe),
            has_waited: false,
            pipe,
            wait: wait.clone(),
            answer: sender,
        };
        let mut state = self.lock();
        state.first.push_back(ask);
        let made = self.make_thread(&mut state);
        let rejected = match made {
            // Nobody would ever take it.
            Err(error) if state.threads == 0 => Some((error, state.first.pop_back())),
            _ => None,
        };
        if state.waiting() > 0
            && let Some(ask) = state.first.back_mut()
        {
            ask.has_waited = true;
        }
        self.see_to(state);
        match rejected {
            Some((error, _)) => Err(error),
            None => Ok(Flush {
                calls: self,
                wait,
                answer,
            }),
        }
    }

    /// How many threads there may be.
    fn most(&self, state: &FlushState) -> usize {
        self.threads + state.left_behind().min(self.left_behind)
    }

    /// Makes a thread for what waits, if there may be one more.
    fn make_thread(&'static self, state: &mut FlushState) -> io::Result<()> {
        if state.waiting() > 0 && state.threads < self.most(state) {
            let named = thread::Builder::new().name("asyncipc-flush".into());
            named.stack_size(STACK).spawn(move || ask_all(self))?;
            state.threads += 1;
        }
        Ok(())
    }

    /// The waiter has given up.
    fn called_off(&'static self, wait: &Arc<Wait>) {
        let mut state = self.lock();
        let FlushState { first, again, .. } = &mut *state;
        let mut dropped = None;
        for queue in [first, again] {
            if let Some(place) = queue.iter().position(|it| Arc::ptr_eq(&it.wait, wait)) {
                dropped = queue.remove(place);
            }
        }
        self.see_to(state);
        // Closes the handle.
        drop(dropped);
    }

    /// Starts the overseer if one is needed and there is none.
    fn see_to(&'static self, mut state: MutexGuard<'_, FlushState>) {
        if state.has_overseer || !state.needs_overseer() {
            return;
        }
        let named = thread::Builder::new().name("asyncipc-flush-overseer".into());
        let made = named.stack_size(STACK).spawn(move || self.oversee());
        state.has_overseer = made.is_ok();
        // A log subscriber may call into this code.
        drop(state);
        // The next caller tries again. Until then, calls that block keep their turn.
        if let Err(error) = made {
            tracing::warn!(%error, "cannot make a thread that gives others their turn");
        }
    }

    /// Runs until there is nothing left to oversee.
    fn oversee(&'static self) {
        let mut state = self.lock();
        while state.needs_overseer() {
            let (overdue, pause) = state.overdue();
            // Replaces threads that were left behind. If it fails, the next caller tries again.
            let _ = self.make_thread(&mut state);
            drop(state);
            for caller in overdue {
                caller.call_off();
            }
            thread::sleep(pause);
            state = self.lock();
        }
        state.has_overseer = false;
    }
}

/// A thread's work: asks the system for one end after the other, while there are any.
fn ask_all(calls: &'static Calls) {
    let caller = current_thread().map(|thread| {
        Arc::new(Caller {
            thread,
            is_calling: Mutex::new(false),
        })
    });
    let mut state = calls.lock();
    while state.threads <= calls.most(&state)
        && let Some(mut ask) = state.next()
    {
        let answer = match &caller {
            Ok(caller) => {
                let since = Instant::now();
                state.running.push(Call {
                    caller: caller.clone(),
                    wait: ask.wait.clone(),
                    since,
                    tries: 0,
                    again_from: since,
                });
                calls.see_to(state);
                let answer = if ask.has_waited && ask.had_peer && !(calls.has_peer)(&ask.pipe) {
                    Err(io::Error::other(LEFT_MEANWHILE))
                } else {
                    *lock(&caller.is_calling) = true;
                    ask.wait.begun.store(true, Relaxed);
                    let answer = (calls.wait)(&ask.pipe);
                    *lock(&caller.is_calling) = false;
                    answer
                };
                state = calls.lock();
                state.running.retain(|it| !Arc::ptr_eq(&it.wait, &ask.wait));
                answer
            }
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let was_called_off = answer.as_ref().is_err_and(|error| {
            error.raw_os_error() == Some(ERROR_OPERATION_ABORTED.cast_signed())
        });
        if was_called_off && !ask.wait.called_off.load(Acquire) {
            // Cancelled to give others their turn.
            ask.has_waited = true;
            state.again.push_back(ask);
            continue;
        }
        drop(state);
        // The handle first: whoever closes must not hold the pipe any more when the answer comes.
        drop(ask.pipe);
        let _ = ask.answer.send(answer);
        state = calls.lock();
    }
    state.threads -= 1;
    calls.see_to(state);
}

fn has_peer(pipe: &OwnedHandle) -> bool {
    peek::has_peer(pipe.as_handle())
}

/// Blocks until the peer has read everything or has left, or until the call is cancelled.
fn wait_for_peer(pipe: &OwnedHandle) -> io::Result<()> {
    // SAFETY: the handle is open for as long as `pipe` is borrowed.
    match unsafe { FlushFileBuffers(pipe.as_raw_handle()) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// A handle to the current thread that other threads can use.
fn current_thread() -> io::Result<OwnedHandle> {
    let mut handle = null_mut();
    // SAFETY: pseudo-handles are always valid; `handle` is written on success.
    let done = unsafe {
        let process = GetCurrentProcess();
        let (thread, same) = (GetCurrentThread(), DUPLICATE_SAME_ACCESS);
        DuplicateHandle(process, thread, process, &mut handle, 0, 0, same)
    };
    if done == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just given us this handle, and nobody else has it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::ptr::null;

    use tokio::time::timeout;
    use windows_sys::Win32::System::Threading::{
        CreateEventW, INFINITE, SetEvent, WaitForSingleObject,
    };

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    impl FlushState {
        fn is_at_rest(&self) -> bool {
            self.threads == 0 && !self.has_overseer
        }
    }

    /// Stands for a pipe whose peer reads when the event is set, and for a call that cannot be
    /// cancelled: CancelSynchronousIo does not end a wait for an event.
    struct Event(OwnedHandle);

    impl Event {
        fn new() -> Self {
            // SAFETY: no attributes, no name.
            let handle = unsafe { CreateEventW(null(), 1, 0, null()) };
            assert!(!handle.is_null());
            // SAFETY: the call has just given us this handle, and nobody else has it.
            Event(unsafe { OwnedHandle::from_raw_handle(handle) })
        }

        fn set(&self) {
            // SAFETY: the handle is open.
            assert_ne!(unsafe { SetEvent(self.0.as_raw_handle()) }, 0);
        }

        fn asked_about(&self, calls: &'static Calls) -> Flush {
            calls.ask(self.0.try_clone().unwrap()).unwrap()
        }
    }

    fn wait(event: &OwnedHandle) -> io::Result<()> {
        // SAFETY: the handle is open.
        match unsafe { WaitForSingleObject(event.as_raw_handle(), INFINITE) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn calls(threads: usize, left_behind: usize) -> &'static Calls {
        Box::leak(Box::new(Calls::new(threads, left_behind, |_| true, wait)))
    }

    /// Waits until other threads have done something.
    async fn until(mut happened: impl FnMut() -> bool) {
        let waiting = async {
            while !happened() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap();
    }

    #[tokio::test]
    async fn a_thread_whose_call_cannot_be_called_off_is_left_behind_and_others_are_asked_about() {
        let calls = calls(1, 1);
        let (stuck, read) = (Event::new(), Event::new());
        read.set();
        let mut first = pin!(stuck.asked_about(calls));
        let second = read.asked_about(calls);
        tokio::select! {
            biased;
            it = &mut first => panic!("nobody has read: {it:?}"),
            it = timeout(PATIENCE, second) => it.unwrap().unwrap(),
        }
        // The call that was left behind still gives its answer.
        stuck.set();
        timeout(PATIENCE, first).await.unwrap().unwrap();
        until(|| calls.lock().is_at_rest()).await;
    }

    #[tokio::test]
    async fn no_more_threads_are_made_than_may_be_left_behind_and_the_rest_was_not_asked_about() {
        let calls = calls(2, 3);
        let stuck = Event::new();
        let mut waits: Vec<Flush> = (0..20).map(|_| stuck.asked_about(calls)).collect();
        let begun = |waits: &[Flush]| waits.iter().filter(|it| it.has_begun()).count();
        until(|| begun(&waits) == 5).await;
        // The last two can be left behind as well, but not be replaced.
        until(|| calls.lock().left_behind() == 5).await;
        assert_eq!(begun(&waits), 5);
        assert_eq!(calls.lock().threads, 5);
        // Waiters that give up do not wait for their threads, and those that had no turn yet are gone.
        waits.truncate(3);
        assert_eq!(calls.lock().waiting(), 0);
        stuck.set();
        for wait in waits {
            timeout(PATIENCE, wait).await.unwrap().unwrap();
        }
        until(|| calls.lock().is_at_rest()).await;
    }
}
