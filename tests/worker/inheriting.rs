//! Which process has the channel, and which one has not.

use std::process::Stdio;

#[cfg(windows)]
use asyncipc::{PipeClient, PipeServer};
#[cfg(windows)]
use futures::{SinkExt, StreamExt};
#[cfg(unix)]
use tokio::process::Command;

#[cfg(windows)]
use crate::common::PATIENCE;
#[cfg(unix)]
use crate::common::ROLE;
use crate::common::within;
#[cfg(target_os = "linux")]
use crate::common::{itself, role};
use crate::{CHANNEL, REPORT, Reports, ended, exchange, program, said, start};

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
    let test = "inheriting::a_parent_without_standard_streams_has_workers_too";
    if role().is_none() {
        // Other tests need the standard streams.
        return crate::common::run_as("alone", &mut itself(test));
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

#[cfg(windows)]
#[tokio::test]
async fn a_stranger_who_is_faster_than_the_worker_is_put_out() {
    let mut reports = Reports::listen();
    let mut command = program("connects when it is told to");
    command.env(REPORT, &reports.name);
    let worker = PipeServer::worker().timeout(PATIENCE);
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
    let (started, _worker) =
        within(async { tokio::join!(worker.spawn(&mut command), intruding) }).await;
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
