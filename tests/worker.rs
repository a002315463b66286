//! Worker processes with a private channel. Each is this test program, in a part of its own.

mod common;

use std::future::pending;
use std::io::Read;
use std::process::{Stdio, exit};

use asyncipc::{Error, Event, PipeClient, PipeConnection, PipeServer};
use bytes::Bytes;
use common::{PATIENCE, ROLE, itself, role, sample, stays_pending, unique_name, within};
use futures::{FutureExt, SinkExt, StreamExt};
use tokio::process::{Child, Command};

/// Tells a worker where its channel is.
const CHANNEL: &str = "ASYNCIPC_CHANNEL";

/// Where a process reports to its test, past the channel.
const REPORT: &str = "ASYNCIPC_TEST_REPORT";

/// This program, to play a part of [`plays_its_part`].
fn program(part: &str) -> Command {
    let mut command = Command::from(itself("plays_its_part"));
    command
        .env(ROLE, part)
        .env_remove(CHANNEL)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn start(command: &mut Command) -> (Child, PipeConnection) {
    let worker = PipeServer::channel_for(command).linger(PATIENCE);
    within(worker.spawn()).await.unwrap()
}

/// Where the processes of one test report.
struct Reports {
    server: PipeServer,
    name: String,
}

impl Reports {
    fn listen() -> Self {
        let name = unique_name("report");
        let server = PipeServer::bind(&name).unwrap();
        Reports { server, name }
    }

    async fn next(&mut self) -> PipeConnection {
        within(self.server.accept()).await.unwrap()
    }
}

/// The way to the test, from a process that plays a part.
async fn report() -> PipeConnection {
    let name = std::env::var(REPORT).unwrap();
    PipeClient::connect(name).await.unwrap()
}

async fn said(conn: &mut PipeConnection) -> String {
    let message = within(conn.next()).await.expect("it has ended").unwrap();
    String::from_utf8(message.to_vec()).unwrap()
}

async fn ended(conn: &mut PipeConnection) {
    let end = within(conn.next()).await;
    assert!(end.is_none(), "{end:?}");
}

/// Sends messages of many sizes, and checks that each comes back.
async fn exchange(conn: PipeConnection) -> PipeConnection {
    let sizes = [5, 0, 1, 4096, 65_536, 1 << 20, 1 << 20, 100];
    let (mut sender, mut receiver) = conn.split();
    let sending = async {
        for (n, size) in sizes.into_iter().enumerate() {
            sender.send(sample(size, n)).await.unwrap();
        }
    };
    let receiving = async {
        for (n, size) in sizes.into_iter().enumerate() {
            let received = receiver.next().await.unwrap().unwrap();
            assert!(
                received == sample(size, n),
                "message {n} came back otherwise"
            );
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
    receiver.reunite(sender).unwrap()
}

/// What the processes do that the other tests start.
#[tokio::test]
#[ignore = "a part for the processes that the other tests start"]
async fn plays_its_part() {
    let Some(part) = role() else {
        return common::skipped("the other tests say which part");
    };
    match part.as_str() {
        "echo" => {
            let mut conn = PipeClient::from_parent().linger(PATIENCE).await.unwrap();
            while let Some(message) = conn.next().await {
                conn.send(message.unwrap().freeze()).await.unwrap();
            }
            conn.close().await.unwrap();
        }
        "echo of another" => {
            let (mut child, inner) = start(&mut program("echo")).await;
            let mut conn = PipeClient::from_parent().await.unwrap();
            conn.send("ready".into()).await.unwrap();
            exchange(inner).await.close().await.unwrap();
            assert!(child.wait().await.unwrap().success());
            conn.send("done".into()).await.unwrap();
            conn.close().await.unwrap();
        }
        "introduces itself" => {
            let mut conn = PipeClient::from_parent().await.unwrap();
            let peer = conn.peer().unwrap();
            let text = format!(
                "{} {} {}",
                conn.name(),
                peer.process_id.unwrap_or_default(),
                peer.is_same_user()
            );
            conn.send(text.into()).await.unwrap();
            conn.close().await.unwrap();
        }
        "says a word and ends" => {
            let mut conn = PipeClient::from_parent().await.unwrap();
            conn.send("a word".into()).await.unwrap();
            exit(0);
        }
        "says a word, and has a report that ends with it" => {
            let mut test = report().await;
            let mut conn = PipeClient::from_parent().await.unwrap();
            conn.send("a word".into()).await.unwrap();
            test.send("said".into()).await.unwrap();
            exit(0);
        }
        "ends without a word" => exit(3),
        "says ready and waits" => {
            let mut conn = PipeClient::from_parent().await.unwrap();
            conn.send("ready".into()).await.unwrap();
            ended(&mut conn).await;
        }
        "never connects" => {
            let mut test = report().await;
            test.send("here".into()).await.unwrap();
            ended(&mut test).await;
        }
        "takes its channel twice" => {
            let mut conn = PipeClient::from_parent().await.unwrap();
            let error = PipeClient::from_parent().await.unwrap_err();
            assert!(matches!(error, Error::NoChannel { .. }), "{error:?}");
            conn.send(error.to_string().into()).await.unwrap();
            drop(conn);
            let error = PipeClient::from_parent().await.unwrap_err();
            assert!(matches!(error, Error::NoChannel { .. }), "{error:?}");
        }
        "has no channel" => {
            let error = PipeClient::from_parent().await.unwrap_err();
            assert!(matches!(error, Error::NoChannel { .. }), "{error:?}");
            report().await.send(error.to_string().into()).await.unwrap();
        }
        "is refused" => {
            let error = PipeClient::from_parent().await.unwrap_err();
            assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
            report().await.send(error.to_string().into()).await.unwrap();
        }
        "lets another take it" => {
            let mut conn = PipeClient::from_parent().await.unwrap();
            let channel = std::env::var(CHANNEL).unwrap();
            let mut other = program("has no channel");
            let status = other.env(CHANNEL, channel).status().await.unwrap();
            conn.send(format!("success: {}", status.success()).into())
                .await
                .unwrap();
            conn.close().await.unwrap();
        }
        "leaves a process behind" => {
            let mut conn = PipeClient::from_parent().await.unwrap();
            let mut other = program("lives while stdin does");
            other.stdin(Stdio::inherit()).kill_on_drop(false);
            let _other = other.spawn().unwrap();
            conn.send("ready".into()).await.unwrap();
            ended(&mut conn).await;
        }
        "lives while stdin does" => {
            std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
        }
        "has a worker, which reports its end" => {
            let _worker = start(&mut program("reports its parent's end")).await;
            pending().await
        }
        "reports its parent's end" => {
            let mut test = report().await;
            let mut conn = PipeClient::from_parent().await.unwrap();
            test.send("ready".into()).await.unwrap();
            ended(&mut conn).await;
            test.send("end".into()).await.unwrap();
            test.close().await.unwrap();
        }
        "reads when it is told to" => {
            let mut test = report().await;
            let mut conn = PipeClient::from_parent().await.unwrap();
            assert_eq!(said(&mut test).await, "read");
            for n in 0..3 {
                let message = within(conn.next()).await.unwrap().unwrap();
                assert_eq!(message, sample(1000, n));
            }
            ended(&mut conn).await;
        }
        "connects when it is told to" => {
            let mut test = report().await;
            let channel = std::env::var(CHANNEL).unwrap();
            test.send(channel.into()).await.unwrap();
            assert_eq!(said(&mut test).await, "connect");
            let mut conn = PipeClient::from_parent().timeout(PATIENCE).await.unwrap();
            conn.send("the worker".into()).await.unwrap();
            conn.close().await.unwrap();
        }
        "listens" => {
            let mut server = PipeServer::bind(unique_name("impostor")).unwrap();
            let name = server.name().to_string();
            report().await.send(name.into()).await.unwrap();
            loop {
                drop(server.accept().await);
            }
        }
        part => panic!("no part {part:?}"),
    }
}

#[tokio::test]
async fn messages_go_both_ways_and_closing_ends_the_worker() {
    let (mut child, conn) = start(&mut program("echo")).await;
    within(exchange(conn).await.close()).await.unwrap();
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn a_worker_has_workers_of_its_own() {
    let (mut child, mut conn) = start(&mut program("echo of another")).await;
    assert_eq!(said(&mut conn).await, "ready");
    assert_eq!(said(&mut conn).await, "done");
    ended(&mut conn).await;
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn both_ends_know_each_other() {
    let (child, mut conn) = start(&mut program("introduces itself")).await;
    let peer = conn.peer().unwrap();
    assert_eq!(peer.process_id, child.id());
    assert!(peer.is_same_user());
    let introduction = said(&mut conn).await;
    let parent = std::process::id();
    assert_eq!(introduction, format!("{} {parent} true", conn.name()));
}

#[tokio::test]
async fn the_worker_sees_the_end_when_the_parent_drops_the_connection() {
    let (mut child, conn) = start(&mut program("echo")).await;
    drop(conn);
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn what_a_worker_says_before_it_ends_is_read_and_then_the_end() {
    for _ in 0..5 {
        let (mut child, mut conn) = start(&mut program("says a word and ends")).await;
        assert!(within(child.wait()).await.unwrap().success());
        assert_eq!(said(&mut conn).await, "a word");
        ended(&mut conn).await;
    }
}

#[tokio::test]
async fn a_worker_that_has_ended_before_the_parent_looks_is_heard_nevertheless() {
    let (named, name) = std::sync::mpsc::channel();
    let (ending, end) = std::sync::mpsc::channel();
    let reporting = std::thread::spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(async {
            let mut reports = Reports::listen();
            named.send(reports.name.clone()).unwrap();
            let mut worker = reports.next().await;
            assert_eq!(said(&mut worker).await, "said");
            ended(&mut worker).await;
            ending.send(()).unwrap();
        });
    });
    let mut command = program("says a word, and has a report that ends with it");
    command.env(REPORT, name.recv_timeout(PATIENCE).unwrap());
    let mut starting = Box::pin(PipeServer::channel_for(&mut command).spawn());
    let started = (&mut starting).now_or_never();
    // This thread, which would do everything else, waits for the worker's end.
    end.recv_timeout(PATIENCE).unwrap();
    let started = match started {
        Some(started) => started,
        None => within(starting).await,
    };
    let (_child, mut conn) = started.unwrap();
    assert_eq!(said(&mut conn).await, "a word");
    ended(&mut conn).await;
    reporting.join().unwrap();
}

#[tokio::test]
async fn the_parent_sees_the_end_of_a_worker_that_is_killed() {
    let (mut child, mut conn) = start(&mut program("says ready and waits")).await;
    assert_eq!(said(&mut conn).await, "ready");
    child.start_kill().unwrap();
    ended(&mut conn).await;
    let error = within(async {
        loop {
            if let Err(error) = conn.send("?".into()).await {
                break error;
            }
        }
    })
    .await;
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
    assert!(!within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn a_worker_sees_the_end_of_a_parent_that_is_killed() {
    let mut reports = Reports::listen();
    let mut parent = program("has a worker, which reports its end");
    let mut parent = parent.env(REPORT, &reports.name).spawn().unwrap();
    let mut worker = reports.next().await;
    assert_eq!(said(&mut worker).await, "ready");
    within(parent.kill()).await.unwrap();
    assert_eq!(said(&mut worker).await, "end");
}

#[tokio::test]
async fn the_end_is_seen_while_a_process_that_the_worker_started_lives_on() {
    let mut command = program("leaves a process behind");
    let (mut child, mut conn) = start(command.stdin(Stdio::piped())).await;
    // What the process lives on.
    let stdin = child.stdin.take();
    assert!(stdin.is_some(), "the standard streams stay the user's");
    assert_eq!(said(&mut conn).await, "ready");
    child.start_kill().unwrap();
    ended(&mut conn).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_started_meanwhile_do_not_get_the_channel() {
    let mut command = program("lives while stdin does");
    command.stdin(Stdio::piped());
    let before = command.spawn().unwrap();
    // One after the other, while workers come and go.
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let starting = tokio::spawn(async move {
        let mut others = vec![before];
        while others.len() < 20 && stopped.try_recv().is_err() {
            others.push(command.spawn().unwrap());
            tokio::task::yield_now().await;
        }
        others
    });
    for _ in 0..5 {
        let (_child, mut conn) = start(&mut program("says a word and ends")).await;
        assert_eq!(said(&mut conn).await, "a word");
        ended(&mut conn).await;
    }
    let _ = stop.send(());
    let others = within(starting).await.unwrap();
    for mut other in others {
        let ended = other.try_wait().unwrap();
        assert_eq!(ended, None, "it should have lived until here");
        assert!(within(other.wait()).await.unwrap().success());
    }
}

#[tokio::test]
async fn a_process_without_a_channel_is_told_so() {
    let mut reports = Reports::listen();
    let mut command = program("has no channel");
    let child = command.env(REPORT, &reports.name).spawn().unwrap();
    assert_eq!(
        said(&mut reports.next().await).await,
        "no channel to the parent process: this process was not started with one"
    );
    drop(child);
    for nonsense in ["", "nonsense", ":", "0:1", "99999:1", "-1:1", "1:x:y"] {
        let _child = command.env(CHANNEL, nonsense).spawn().unwrap();
        let error = said(&mut reports.next().await).await;
        assert!(error.starts_with("no channel to the parent"), "{error}");
    }
}

#[tokio::test]
async fn a_channel_is_taken_once() {
    let (mut child, mut conn) = start(&mut program("takes its channel twice")).await;
    assert_eq!(
        said(&mut conn).await,
        "no channel to the parent process: this process has taken it already"
    );
    ended(&mut conn).await;
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn a_process_that_inherits_the_environment_of_a_worker_does_not_get_its_channel() {
    let mut reports = Reports::listen();
    let mut command = program("lets another take it");
    let (_child, mut conn) = start(command.env(REPORT, &reports.name)).await;
    let error = said(&mut reports.next().await).await;
    let name = conn.name().to_string();
    assert!(error.contains(&name), "{error}");
    assert_eq!(said(&mut conn).await, "success: true");
}

#[tokio::test]
async fn a_command_starts_one_worker_after_the_other_and_then_a_process_without_a_channel() {
    let mut reports = Reports::listen();
    let mut command = program("echo");
    command.env(REPORT, &reports.name);
    let (_one, one) = start(&mut command).await;
    let (_two, two) = start(&mut command).await;
    assert_ne!(one.name(), two.name());
    assert_ne!(one.peer().unwrap(), two.peer().unwrap());
    tokio::join!(exchange(one), exchange(two));

    let _three = command.env(ROLE, "has no channel").spawn().unwrap();
    assert_eq!(
        said(&mut reports.next().await).await,
        "no channel to the parent process: this process was not started with one"
    );
    let (_four, four) = start(command.env(ROLE, "echo")).await;
    exchange(four).await;
}

/// Counts what each thread has allocated and not freed.
#[cfg(unix)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        #[allow(clippy::missing_const_for_thread_local, reason = "which it is")]
        pub static HELD: Cell<isize> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    // SAFETY: every call goes to the system's allocator as it is.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            HELD.set(HELD.get() + layout.size() as isize);
            // SAFETY: the caller's promises are passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            HELD.set(HELD.get() - layout.size() as isize);
            // SAFETY: the caller's promises are passed on.
            unsafe { System.dealloc(ptr, layout) }
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_does_not_grow_with_the_workers_that_it_starts() {
    let with_its_own = Command::new("true");
    let mut with_none = Command::new("true");
    with_none.env_clear().env("PATH", "/bin:/usr/bin");
    for mut command in [with_its_own, with_none] {
        let mut once = async || {
            let (mut child, mut conn) = start(&mut command).await;
            ended(&mut conn).await;
            assert!(within(child.wait()).await.unwrap().success());
        };
        // What is made once, for all, is there after a few of them.
        for _ in 0..10 {
            once().await;
        }
        let before = counting::HELD.get();
        for _ in 0..1000 {
            once().await;
        }
        let grown = counting::HELD.get() - before;
        assert!(grown < 4096, "grown by {grown} bytes");
    }
}

#[tokio::test]
async fn a_command_starts_workers_wherever_it_is_and_whatever_becomes_of_its_environment() {
    let mut command = Box::new(program("echo"));
    let (_one, one) = start(&mut command).await;
    // It is moved.
    let mut moved = *command;
    let (_two, two) = start(&mut moved).await;
    // Its environment is another's, while it goes on.
    let mut copy = program("echo");
    for (key, value) in moved.as_std().get_envs() {
        match value {
            Some(value) => copy.env(key, value),
            None => copy.env_remove(key),
        };
    }
    let (_three, three) = start(&mut copy).await;
    let (_four, four) = start(&mut moved).await;
    // What the last worker has left is taken out of it.
    let (_five, five) = start(moved.env_remove(CHANNEL)).await;
    for conn in [one, two, three, four, five] {
        exchange(conn).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_in_the_place_and_with_the_environment_of_another_is_told_apart_at_once() {
    let mut place = program("echo");
    let (_one, one) = start(&mut place).await;
    let mut copy = program("echo");
    for (key, value) in place.as_std().get_envs() {
        copy.env(key, value.unwrap_or_default());
    }
    // It may live long enough to complain.
    copy.stderr(Stdio::null());
    let mut other = std::mem::replace(&mut place, copy);
    let error = within(PipeServer::channel_for(&mut place).spawn()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("that of another command"), "{error}");
    let (_two, two) = start(&mut place).await;
    let (_three, three) = start(&mut other).await;
    for conn in [one, two, three] {
        exchange(conn).await;
    }
}

/// What `ls` sees in a process that a command starts.
#[cfg(target_os = "linux")]
fn list_descriptors() -> Command {
    let mut command = Command::new("ls");
    command
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_next_process_of_a_command_does_not_inherit_what_has_the_descriptor_then() {
    let mut command = list_descriptors();
    let (child, conn) = start(&mut command).await;
    let listed = within(child.wait_with_output()).await.unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert_eq!(listed.matches("socket:").count(), 1, "{listed}");
    assert!(listed.contains(&conn.name().to_string()), "{listed}");

    // Some of them get the number that is free now.
    let _sockets: Vec<_> = std::iter::repeat_with(std::os::unix::net::UnixStream::pair)
        .take(20)
        .map(Result::unwrap)
        .collect();
    let listed = within(command.output()).await.unwrap().stdout;
    let listed = String::from_utf8(listed).unwrap();
    assert!(listed.contains("/dev/null"), "{listed}");
    assert!(!listed.contains("socket:"), "{listed}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_parent_without_standard_streams_has_workers_too() {
    let test = "a_parent_without_standard_streams_has_workers_too";
    if role().is_none() {
        // Other tests need the standard streams.
        return common::run_as("alone", &mut itself(test));
    }
    use std::os::fd::{FromRawFd, OwnedFd};
    // The two ends of the channel get these numbers at first.
    for fd in [0, 2] {
        // SAFETY: nothing in this process uses them any more.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let mut command = program("echo");
    let (_child, conn) = start(command.stderr(Stdio::null())).await;
    exchange(conn).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_launcher_hands_on_the_channel() {
    let echo = program("echo");
    let echo = echo.as_std();
    let mut command = Command::new("sh");
    command
        .args(["-c", r#""$@"; exit 5"#, "sh"])
        .arg(echo.get_program())
        .args(echo.get_args())
        .env(ROLE, "echo")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let (mut child, conn) = start(&mut command).await;
    within(exchange(conn).await.close()).await.unwrap();
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(5));
}

#[tokio::test]
async fn closing_waits_until_the_worker_has_read_everything() {
    if !cfg!(any(windows, target_os = "linux")) {
        common::skipped("this system does not tell what the peer has read");
        return;
    }
    let mut reports = Reports::listen();
    let mut command = program("reads when it is told to");
    let (mut child, mut conn) = start(command.env(REPORT, &reports.name)).await;
    let mut worker = reports.next().await;
    for n in 0..3 {
        within(conn.send(sample(1000, n))).await.unwrap();
    }
    let mut closing = Box::pin(conn.close());
    assert!(stays_pending(&mut closing).await);
    worker.send("read".into()).await.unwrap();
    within(closing).await.unwrap();
    assert!(within(child.wait()).await.unwrap().success());
}

#[tokio::test]
async fn the_channel_goes_back_to_bytes_and_into_a_hub() {
    let (_child, conn) = start(&mut program("echo")).await;
    let peer = conn.peer().unwrap();
    let stream = within(conn.into_stream()).await.unwrap();
    assert_eq!(stream.peer().unwrap(), peer);
    let conn = PipeConnection::new(stream, Default::default());

    let mut hub = conn.into_hub();
    let handle = hub.handle();
    let mut said = None;
    within(async {
        while let Some(event) = hub.next().await {
            match event {
                Event::Connected { id, peer: told, .. } => {
                    assert_eq!(told, peer);
                    handle.send(id, "hello".into()).await.unwrap();
                }
                Event::Received { message, .. } => {
                    said = Some(message);
                    handle.shutdown();
                }
                _ => {}
            }
        }
    })
    .await;
    assert_eq!(said, Some(Bytes::from("hello")));
}

#[tokio::test]
async fn a_limit_on_messages_is_the_builders() {
    let mut command = program("echo");
    let worker = PipeServer::channel_for(&mut command).max_message_size(10);
    let (_child, mut conn) = within(worker.spawn()).await.unwrap();
    let error = conn.send(sample(11, 0)).await.unwrap_err();
    let told = matches!(
        error,
        Error::MessageTooLarge {
            size: 11,
            max: 10,
            ..
        }
    );
    assert!(told, "{error:?}");
    conn.send(sample(10, 0)).await.unwrap();
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), sample(10, 0));
}

#[tokio::test]
async fn a_worker_is_started_from_any_task() {
    let starting = tokio::spawn(async { start(&mut program("echo")).await });
    let (_child, conn) = within(starting).await.unwrap();
    exchange(conn).await;
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_named_in_the_error() {
    let mut command = Command::new("asyncipc-no-such-program");
    let worker = PipeServer::channel_for(&mut command);
    let error = within(worker.spawn()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error:?}");
    let error = error.to_string();
    assert!(
        error.starts_with(r#"cannot start "asyncipc-no-such-program": "#),
        "{error}"
    );
}

#[test]
fn outside_of_a_runtime_it_is_an_error() {
    let mut command = program("echo");
    let worker = PipeServer::channel_for(&mut command);
    let error = worker.spawn().now_or_never().unwrap().unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn the_end_of_a_worker_that_never_takes_its_channel_is_the_end_of_the_channel() {
    let (mut child, mut conn) = start(&mut program("ends without a word")).await;
    ended(&mut conn).await;
    assert_eq!(within(child.wait()).await.unwrap().code(), Some(3));
}

#[cfg(windows)]
#[tokio::test]
async fn a_worker_that_ends_before_it_has_connected_is_an_error_with_its_code() {
    let mut command = program("ends without a word");
    // Longer than the test waits.
    let worker = PipeServer::channel_for(&mut command).timeout(10 * PATIENCE);
    match within(worker.spawn()).await.unwrap_err() {
        Error::WorkerEnded { status, .. } => assert_eq!(status.code(), Some(3)),
        other => panic!("{other:?}"),
    }
}

#[cfg(windows)]
#[tokio::test]
async fn a_worker_that_does_not_connect_in_time_is_an_error() {
    let mut command = program("lives while stdin does");
    let worker = PipeServer::channel_for(command.stdin(Stdio::piped()));
    let worker = worker.timeout(std::time::Duration::from_millis(10));
    let error = within(worker.spawn()).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
}

#[cfg(windows)]
#[tokio::test]
async fn a_worker_is_killed_when_starting_it_is_cancelled() {
    let mut reports = Reports::listen();
    let mut command = program("never connects");
    command.env(REPORT, &reports.name).kill_on_drop(false);
    let mut starting = Box::pin(PipeServer::channel_for(&mut command).spawn());
    let mut worker = tokio::select! {
        started = &mut starting => panic!("{started:?}"),
        worker = reports.next() => worker,
    };
    assert_eq!(said(&mut worker).await, "here");
    drop(starting);
    ended(&mut worker).await;
}

#[cfg(windows)]
#[tokio::test]
async fn a_stranger_who_is_faster_than_the_worker_is_put_out() {
    let mut reports = Reports::listen();
    let mut command = program("connects when it is told to");
    command.env(REPORT, &reports.name);
    let worker = PipeServer::channel_for(&mut command).timeout(PATIENCE);
    let intruding = async {
        let mut worker = reports.next().await;
        let channel = said(&mut worker).await;
        let (_, path) = channel.split_once(':').unwrap();
        for _ in 0..3 {
            let stranger = PipeClient::builder(path).timeout(PATIENCE).connect();
            let mut stranger = within(stranger).await.unwrap();
            let _ = stranger.send("the stranger".into()).await;
            let end = within(stranger.next()).await;
            assert!(!matches!(end, Some(Ok(_))), "{end:?}");
        }
        worker.send("connect".into()).await.unwrap();
        worker
    };
    let (started, _worker) = within(async { tokio::join!(worker.spawn(), intruding) }).await;
    let (child, mut conn) = started.unwrap();
    assert_eq!(conn.peer().unwrap().process_id, child.id());
    assert_eq!(said(&mut conn).await, "the worker");
}

#[cfg(windows)]
#[tokio::test]
async fn nobody_can_add_an_instance_to_the_pipe_of_a_worker() {
    let (_child, conn) = start(&mut program("echo")).await;
    let pipe = tokio::net::windows::named_pipe::ServerOptions::new().create(conn.name().as_path());
    // ERROR_PIPE_BUSY
    assert_eq!(pipe.unwrap_err().raw_os_error(), Some(231));
    exchange(conn).await;
}

#[cfg(windows)]
#[tokio::test]
async fn a_pipe_that_is_not_the_parents_is_refused() {
    let mut reports = Reports::listen();
    let mut command = program("listens");
    let _impostor = command.env(REPORT, &reports.name).spawn().unwrap();
    let pipe = said(&mut reports.next().await).await;
    let mut command = program("is refused");
    command.env(REPORT, &reports.name);
    command.env(CHANNEL, format!("{}:{pipe}", std::process::id()));
    let _child = command.spawn().unwrap();
    let error = said(&mut reports.next().await).await;
    assert!(error.contains("not the parent"), "{error}");
}
