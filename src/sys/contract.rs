//! What every platform offers to the layers above, item by item. This module is compiled but never run:
//! if a platform drifts from it, it does not compile.
//!
//! `unix.rs` and `windows.rs` each use more of their own platform.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::future::Future;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;

use super::platform::{
    Capabilities, ConnectOptions, ListenOptions, Listener, Stream, check_length, check_user,
    connect, current_user, elsewhere, full_path, is_transient, resolve, wait_until_free,
};
use super::{Address, Credentials, Flushed, Limits, Lingering, PlatformError, Received, Waited};

// Names.

/// The path, if the name is a full one; the rule that it breaks, if it cannot be a name here.
const _: fn(&OsStr) -> Option<Result<PathBuf, &'static str>> = full_path;
/// Where a logical name leads.
const _: fn(&str) -> PathBuf = resolve;
/// The rule that a path breaks when it is too long.
const _: fn(&Path) -> Result<(), String> = check_length;
/// Where a server of the same logical name listens if it sees another environment.
const _: fn(Address<'_>) -> Option<PathBuf> = elsewhere;

// Users, as text.

const _: fn() -> io::Result<String> = current_user;
/// A user's text as the system would write it, or the rule that it breaks.
const _: fn(&str) -> Result<String, &'static str> = check_user;

// Listening. The listener is always called in the runtime in which it was bound.

const _: fn(Address<'_>, &Limits, &ListenOptions, Lingering) -> Result<Listener, PlatformError> =
    Listener::bind;
const _: fn(&mut Listener, &mut Context<'_>) -> Poll<io::Result<Stream>> = Listener::poll_accept;
/// Whether to try accepting again after this error.
const _: fn(&io::Error) -> bool = is_transient;
/// Lets nobody connect any more. Returns those who have connected but were not accepted yet.
#[cfg(feature = "endpoint")]
const _: fn(Listener) -> Vec<Stream> = Listener::close;

// Connecting.

const _: fn(&ConnectOptions) -> Result<(), PlatformError> = ConnectOptions::check;

#[allow(dead_code, reason = "compiled, never run")]
async fn connecting(address: Address<'_>, options: &ConnectOptions, left: Option<Duration>) {
    // Tries once.
    let _: Result<Stream, PlatformError> = send(connect(address, options)).await;
    // Waits until a busy server may be free, for the time left at most.
    let _: Waited = send(wait_until_free(address, options, left)).await;
}

// A connected stream. Reading and writing take `&self`: two tasks share it.

/// The runtime in which it was made. It runs the stream's tasks and timers, whoever polls.
const _: fn(&Stream) -> &Handle = Stream::runtime;
const _: fn(&Stream) -> io::Result<Credentials> = Stream::peer;
/// Whether the peer has not closed its end.
const _: fn(&Stream) -> bool = Stream::has_peer;
const _: fn(&Stream, &mut Context<'_>) -> Poll<io::Result<()>> = Stream::poll_read_ready;
/// Reads what is there. `Ok(0)` is the end, or a buffer without room.
const _: fn(&Stream, &mut BytesMut) -> io::Result<usize> = Stream::try_read;
/// The same, without knowing whether there is anything.
const _: fn(&Stream, &mut BytesMut) -> io::Result<usize> = Stream::read_now;
const _: fn(&Stream, &mut Context<'_>, &[u8]) -> Poll<io::Result<usize>> = Stream::poll_write;
const _: fn(&Stream, &mut Context<'_>, &[IoSlice<'_>]) -> Poll<io::Result<usize>> =
    Stream::poll_write_vectored;
/// Waits until the system has taken what was written, where it says so. Returns the buffer of
/// `start_send` once, whether or not the write has failed.
const _: fn(&Stream, &mut Context<'_>) -> Poll<Flushed> = Stream::poll_flush;
/// Whether no write is in flight.
const _: fn(&Stream) -> bool = Stream::is_idle;
/// Notifies the peer that nothing more will come.
const _: fn(&Stream) -> io::Result<()> = Stream::shutdown;
/// From now on, this end reads no more from the pipe, unless it has to.
const _: fn(&Stream) = Stream::refuse;
const _: fn(&Stream) -> bool = Stream::has_refused;
/// Whether the system was asked what the peer has read.
const _: fn(&Stream) -> bool = Stream::was_asked;
/// For a stream that keeps messages: waits for one of this size at most.
const _: fn(&Stream, &mut Context<'_>, usize) -> Poll<io::Result<Received>> = Stream::poll_recv;
/// For a stream that owns buffers: begins to write. Only after `poll_flush` was ready.
const _: fn(&Stream, Bytes) = Stream::start_send;

#[allow(dead_code, reason = "compiled, never run")]
async fn closing(stream: &Stream) {
    // Waits until the peer has read everything that was written. Fails when it never will.
    let _: io::Result<()> = send(stream.drained()).await;
    // Discards what has arrived and nobody has read.
    send(stream.take_rest()).await;
}

// What a stream can do. This never changes, so the layers above ask once.

const _: fn(&Stream) -> Capabilities = Stream::capabilities;
/// Whether the system preserves message boundaries: `poll_recv` takes a message, `start_send` sends one.
const _: fn(Capabilities) -> bool = Capabilities::keeps_messages;
/// Whether a write owns its buffer until it is done, by `start_send`.
const _: fn(Capabilities) -> bool = Capabilities::owns_buffers;
/// Whether one write takes several buffers.
const _: fn(Capabilities) -> bool = Capabilities::writes_vectored;
/// Whether `shutdown` notifies the peer.
const _: fn(Capabilities) -> bool = Capabilities::half_closes;

/// A channel to a child process.
#[cfg(feature = "worker")]
mod worker {
    use tokio::process::{Child, Command};

    use super::super::platform::{ChildEnd, Inherited, ParentEnd, channel};
    use super::*;

    const _: fn() -> io::Result<(ParentEnd, ChildEnd)> = channel;
    const _: fn(&ParentEnd) -> &str = ParentEnd::name;
    /// Where the child finds its end: what `Inherited::find` takes.
    const _: fn(&ChildEnd) -> String = ChildEnd::address;
    /// Lets the command's children have the end. The number is for the command's next end.
    const _: fn(&mut ChildEnd, &mut Command, Option<u64>) -> Option<u64> = ChildEnd::give_to;
    /// Whether the child that was started has got it.
    const _: fn(&ChildEnd) -> io::Result<()> = ChildEnd::was_given;
    /// Checks that the end is there, or says why not.
    const _: fn(&str) -> Result<Inherited, String> = Inherited::find;
    const _: fn(&Inherited) -> &str = Inherited::name;

    #[allow(dead_code, reason = "compiled, never run")]
    async fn ends(parent: ParentEnd, child: &mut Child, linger: Duration, inherited: Inherited) {
        // Waits until the child has connected, or has ended without.
        let _: Result<Stream, PlatformError> = send(parent.connected(child, linger)).await;
        let _: Result<Stream, PlatformError> = send(inherited.open()).await;
    }
}

// Any task can have them.
const _: fn() = || {
    fn can_be_shared<T: Debug + Send + Sync + 'static>() {}
    fn is_a_builders<T: Clone + Debug + Default + Send + Sync + 'static>() {}
    can_be_shared::<Listener>();
    can_be_shared::<Stream>();
    is_a_builders::<ListenOptions>();
    is_a_builders::<ConnectOptions>();
};

fn send<F: Future + Send>(future: F) -> F {
    future
}
