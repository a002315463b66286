//! The examples, run as programs: what a person sees who follows their comments.

mod common;

use std::process::{Output, Stdio};

use asyncipc::{PipeClient, PipeConnection};
use bytes::Bytes;
use common::{under_wine, unique_name, within};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// An example with its arguments. Cargo builds the examples before it runs all the tests.
fn example(name: &str, args: &[&str]) -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.set_file_name("examples");
    path.push(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{path:?} is not there: `cargo build --examples` makes it, as does `cargo test` for all"
    );
    let mut command = Command::new(path);
    command
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // Ctrl-Break then reaches this process alone: CREATE_NEW_PROCESS_GROUP.
    #[cfg(windows)]
    command.creation_flags(0x200);
    command
}

/// An example that goes on until it is told otherwise, and is talked to line by line.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        // Nobody reads it: a full pipe would stop the example.
        command.stderr(Stdio::null());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        Running {
            stdin: child.stdin.take(),
            stdout: BufReader::new(child.stdout.take().unwrap()).lines(),
            child,
        }
    }

    async fn line(&mut self) -> String {
        let line = within(self.stdout.next_line()).await.unwrap();
        line.expect("the example ended its output")
    }

    async fn types(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).await.unwrap();
        stdin.write_all(b"\n").await.unwrap();
    }

    /// The exit code, and the lines that were not read yet.
    async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let mut rest = Vec::new();
        while let Some(line) = within(self.stdout.next_line()).await.unwrap() {
            rest.push(line);
        }
        (within(self.child.wait()).await.unwrap().code(), rest)
    }
}

/// A server that is ready, at the path that it tells.
async fn echo_server(args: &[&str]) -> (Running, String) {
    let mut server = Running::start(example("echo_server", args));
    let ready = server.line().await;
    let path = ready.strip_prefix("listening on ").unwrap_or_else(|| {
        panic!("the server said {ready:?}");
    });
    (server, path.to_owned())
}

/// Runs a client to its end, with this on its stdin.
async fn run(mut command: Command, stdin: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // One that needs no stdin may be gone before it is written.
    let _ = pipe.write_all(stdin).await;
    drop(pipe);
    within(child.wait_with_output()).await.unwrap()
}

fn echo_client<'a>(args: &[&str], stdin: &'a [u8]) -> impl Future<Output = Output> + use<'a> {
    run(example("echo_client", args), stdin)
}

#[track_caller]
fn succeeded(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "stderr: {stderr}");
    String::from_utf8(output.stdout).unwrap().replace('\r', "")
}

/// The one line on stderr of an example that failed.
#[track_caller]
fn failed(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).replace('\r', "");
    assert_eq!(output.status.code(), Some(1), "stderr: {stderr}");
    let line = stderr
        .strip_prefix("error: ")
        .and_then(|it| it.strip_suffix('\n'))
        .unwrap_or_else(|| panic!("stderr: {stderr:?}"));
    assert!(!line.contains('\n'), "more than a line: {line:?}");
    line.to_owned()
}

/// Asks a process to stop as a person does; `false`, and says why, where that cannot be done.
fn interrupt(running: &Running, signal: &str) -> bool {
    let pid = running.child.id().unwrap();
    #[cfg(unix)]
    {
        let kill = format!("kill -{signal} {pid}");
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &kill]).status().unwrap().success()
    }
    #[cfg(windows)]
    {
        let _ = signal;
        #[link(name = "kernel32")]
        unsafe extern "system" {
            fn GenerateConsoleCtrlEvent(event: u32, group: u32) -> i32;
        }
        // SAFETY: takes two numbers. 1 is CTRL_BREAK_EVENT: Ctrl-C cannot be sent to one group.
        let sent = unsafe { GenerateConsoleCtrlEvent(1, pid) } != 0;
        if !sent {
            let error = std::io::Error::last_os_error();
            common::skipped(format!("Ctrl-Break cannot be sent from here: {error}"));
        }
        sent
    }
}

#[tokio::test]
async fn the_echo_server_serves_several_clients_and_says_so_when_it_is_stopped() {
    for signal in ["INT", "TERM"] {
        let name = unique_name("example");
        let (server, path) = echo_server(&["--name", &name]).await;
        assert!(path.contains(&name), "{path}");

        // Logical names and full paths are taken alike.
        let (a, b, c) = tokio::join!(
            echo_client(&["--name", &name, "hello", "", "world"], b""),
            echo_client(&["--name", &path], b"one\ntwo\n\nno newline"),
            echo_client(&["--name", &name, "--count", "5", "--size", "100000"], b""),
        );
        assert_eq!(succeeded(a), "hello\n\nworld\n");
        assert_eq!(succeeded(b), "one\ntwo\n\nno newline\n");
        let summary = succeeded(c);
        for part in ["5 x 100000 bytes", "messages/s", "MiB/s", "p50", "p99"] {
            assert!(summary.contains(part), "{summary}");
        }
        assert_eq!(summary.lines().count(), 1, "{summary}");

        if !interrupt(&server, signal) {
            return;
        }
        let (code, rest) = server.ended().await;
        assert_eq!(rest, ["served 3 clients, 12 messages"], "after SIG{signal}");
        assert_eq!(code, Some(0));
        if cfg!(windows) {
            return;
        }
    }
}

#[cfg(windows)]
#[tokio::test]
async fn the_echo_examples_speak_raw_message_pipes_too() {
    let name = unique_name("example-messages");
    let (_server, _) = echo_server(&["--name", &name, "--message-mode"]).await;
    let told = ["--name", &name, "--message-mode", "hello", "", "world"];
    assert_eq!(succeeded(echo_client(&told, b"").await), "hello\n\nworld\n");
    let many = [
        "--name",
        &name,
        "--message-mode",
        "--count",
        "5",
        "--size",
        "1000000",
    ];
    assert!(succeeded(echo_client(&many, b"").await).contains("5 x 1000000 bytes"));
}

#[tokio::test]
async fn a_client_of_the_echo_server_may_finish_when_it_is_stopped() {
    let name = unique_name("example-drain");
    let (server, _) = echo_server(&["--name", &name]).await;
    let mut client = PipeClient::connect(&name).await.unwrap();
    client.send(Bytes::from_static(b"before")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "before");

    if !interrupt(&server, "INT") {
        return;
    }
    // Nobody else is let in as within as the server drains.
    within(async {
        let another = PipeClient::builder(&name).no_wait();
        while another.connect().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.send(Bytes::from_static(b"after")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "after");
    client.close().await.unwrap();

    let (code, rest) = server.ended().await;
    let [served] = &rest[..] else {
        panic!("{rest:?}");
    };
    assert!(served.ends_with(", 2 messages"), "{served}");
    assert_eq!(code, Some(0));
}

#[tokio::test]
async fn the_echo_client_waits_for_a_server_that_is_not_there_yet() {
    let name = unique_name("example-wait");
    let client = example(
        "echo_client",
        &[
            "--name",
            &name,
            "--wait-for-server",
            "--timeout",
            "60",
            "hello",
        ],
    );
    let client = tokio::spawn(run(client, b""));
    let _server = echo_server(&["--name", &name]).await;
    assert_eq!(succeeded(client.await.unwrap()), "hello\n");
}

#[tokio::test]
async fn without_a_server_the_echo_client_fails_with_one_clear_line() {
    let name = unique_name("example-nobody");
    let error = failed(echo_client(&["--name", &name, "hello"], b"").await);
    assert!(error.starts_with("no server listens on "), "{error}");
    assert!(error.contains(&name), "{error}");

    let patient = ["--name", &name, "--wait-for-server", "--timeout", "0.1"];
    let error = failed(echo_client(&patient, b"").await);
    assert!(error.contains("timed out after "), "{error}");
    assert!(error.contains(&name), "{error}");
}

#[tokio::test]
async fn the_echo_examples_refuse_a_bad_name_with_the_rule_that_it_breaks() {
    for program in ["echo_server", "echo_client"] {
        let error = failed(run(example(program, &["--name", "a/b"]), b"").await);
        assert!(error.starts_with(r#"invalid pipe name "a/b": "#), "{error}");
    }
}

#[tokio::test]
async fn the_echo_client_refuses_a_message_that_is_too_large() {
    let name = unique_name("example-large");
    let _server = echo_server(&["--name", &name]).await;

    let generated = ["--name", &name, "--count", "1", "--size", "16777217"];
    let generated = failed(echo_client(&generated, b"").await);
    let line = vec![b'x'; (16 << 20) + 1];
    let typed = failed(echo_client(&["--name", &name], &line).await);
    for error in [generated, typed] {
        assert_eq!(
            error,
            "a message of 16777217 bytes is above the limit of 16777216 bytes"
        );
    }
}

/// A client that waits for the echo, and the server's end of its connection.
async fn echo_client_that_said_hello(what: &str) -> (JoinHandle<Output>, PipeConnection) {
    let name = unique_name(what);
    let mut server = asyncipc::PipeServer::bind(&name).unwrap();
    let client = example("echo_client", &["--name", &name, "hello"]);
    let client = tokio::spawn(run(client, b""));
    let mut conn = within(server.accept()).await.unwrap();
    assert_eq!(within(conn.next()).await.unwrap().unwrap(), "hello");
    (client, conn)
}

#[tokio::test]
async fn the_echo_client_fails_when_the_server_leaves_without_answering() {
    let (client, conn) = echo_client_that_said_hello("example-leaves").await;
    drop(conn);
    assert_eq!(
        failed(client.await.unwrap()),
        "the server left without answering"
    );
}

#[tokio::test]
async fn the_echo_client_fails_when_other_bytes_come_back() {
    let (client, mut conn) = echo_client_that_said_hello("example-other").await;
    conn.send(Bytes::from_static(b"hallo")).await.unwrap();
    let error = failed(client.await.unwrap());
    assert!(error.contains("other 5 bytes came back"), "{error}");
}

/// On Unix, a server at its limit still has a backlog that the system connects clients to.
#[cfg(windows)]
#[tokio::test]
async fn the_echo_client_gives_up_on_a_server_that_stays_busy() {
    let name = unique_name("example-busy");
    let _server = echo_server(&["--name", &name, "--max-connections", "1"]).await;
    let _first = PipeClient::connect(&name).await.unwrap();
    let error = failed(echo_client(&["--name", &name, "--timeout", "0.1", "hello"], b"").await);
    assert!(error.contains("the server is busy"), "{error}");
}

#[tokio::test]
async fn a_second_echo_server_on_the_name_is_refused() {
    if under_wine() {
        common::skipped("Wine lets a second server take the name");
        return;
    }
    let name = unique_name("example-second");
    let _first = echo_server(&["--name", &name]).await;
    let error = failed(run(example("echo_server", &["--name", &name]), b"").await);
    assert!(error.ends_with("another server listens there"), "{error}");
}

#[tokio::test]
async fn every_line_of_a_chat_reaches_all_others() {
    let name = unique_name("example-chat");
    let mut room = Running::start(example("chat", &["serve", "--name", &name]));
    assert!(room.line().await.starts_with("listening on "));

    let mut members = Vec::new();
    for nick in ["alice", "bob", "carol"] {
        let join = example("chat", &["join", nick, "--name", &name]);
        members.push(Running::start(join));
        for member in &mut members {
            assert_eq!(member.line().await, format!("* {nick} came"));
        }
    }
    let [mut alice, mut bob, mut carol] = <[_; 3]>::try_from(members).ok().unwrap();

    alice.types("hello").await;
    assert_eq!(bob.line().await, "alice: hello");
    assert_eq!(carol.line().await, "alice: hello");
    bob.types("hi").await;
    assert_eq!(alice.line().await, "bob: hi");
    assert_eq!(carol.line().await, "bob: hi");

    drop(carol.stdin.take());
    assert_eq!(carol.ended().await, (Some(0), vec![]));
    assert_eq!(alice.line().await, "* carol left");
    assert_eq!(bob.line().await, "* carol left");

    within(room.child.kill()).await.unwrap();
    // Though more could be typed.
    assert_eq!(alice.ended().await.0, Some(1));
}

#[tokio::test]
async fn whoever_does_not_read_is_put_out_of_the_chat_and_holds_nobody_up() {
    let name = unique_name("example-chat-slow");
    let mut room = Running::start(example("chat", &["serve", "--name", &name]));
    assert!(room.line().await.starts_with("listening on "));

    let mut stuck = PipeClient::connect(&name).await.unwrap();
    stuck.send(Bytes::from_static(b"stuck")).await.unwrap();
    assert_eq!(within(stuck.next()).await.unwrap().unwrap(), "* stuck came");
    let mut carol = PipeClient::connect(&name).await.unwrap();
    carol.send(Bytes::from_static(b"carol")).await.unwrap();
    assert_eq!(within(carol.next()).await.unwrap().unwrap(), "* carol came");
    let mut alice = PipeClient::connect(&name).await.unwrap();
    alice.send(Bytes::from_static(b"alice")).await.unwrap();
    assert_eq!(within(alice.next()).await.unwrap().unwrap(), "* alice came");

    let (mut alice, mut heard_by_alice) = alice.split();
    let talking = tokio::spawn(async move {
        let line = Bytes::from(vec![b'x'; 16 << 10]);
        while alice.send(line.clone()).await.is_ok() {}
    });
    let hearing = tokio::spawn(async move { while heard_by_alice.next().await.is_some() {} });
    within(async {
        loop {
            let line = carol.next().await.unwrap().unwrap();
            if line == "* stuck is too slow and was put out" {
                break;
            }
        }
    })
    .await;
    talking.abort();
    hearing.abort();
}

#[tokio::test]
async fn the_hub_tells_what_happens_and_answers_and_tells_the_others() {
    let name = unique_name("example-hub");
    let mut hub = Running::start(example("hub", &["--name", &name]));
    assert!(hub.line().await.starts_with("listening on "));

    let mut alice = PipeClient::connect(&name).await.unwrap();
    let connected = hub.line().await;
    let (id, _) = connected.split_once(" connected: ").unwrap();
    let mut bob = PipeClient::connect(&name).await.unwrap();
    let came = within(alice.next()).await.unwrap().unwrap();
    assert!(came.ends_with(b" came"), "{came:?}");
    alice.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(within(alice.next()).await.unwrap().unwrap(), "hello");
    let mut heard = within(bob.next()).await.unwrap().unwrap();
    if heard == format!("{id} came") {
        // Bob was faster than the news of Alice.
        heard = within(bob.next()).await.unwrap().unwrap();
    }
    assert_eq!(heard, format!("{id}: hello"));
    alice.close().await.unwrap();
    let heard = within(bob.next()).await.unwrap().unwrap();
    assert_eq!(heard, format!("{id} left"));
    while hub.line().await != format!("{id} disconnected: it left") {}
}

#[cfg(feature = "worker")]
#[tokio::test]
async fn the_job_of_a_worker_that_crashes_is_done_by_the_next() {
    let output = succeeded(run(example("worker", &[]), b"").await);
    let lines: Vec<_> = output.lines().collect();
    let primes = [168, 303, 430, 550, 669, 783, 900, 1007, 1117, 1229];
    let mut expected = Vec::new();
    for (job, primes) in (1..).zip(primes) {
        if [4, 7, 10].contains(&job) {
            expected.push(format!("worker ended at job {job}: CODE 101; next in 50ms"));
        }
        expected.push(format!("job {job}: {primes} primes below {job}000"));
    }
    expected.push("worker dismissed: CODE 0".into());
    // As std says it on each platform.
    let code = if cfg!(windows) {
        "exit code:"
    } else {
        "exit status:"
    };
    let lines: Vec<_> = lines.iter().map(|it| it.replace(code, "CODE")).collect();
    assert_eq!(lines, expected);
}

#[cfg(feature = "worker")]
#[tokio::test]
async fn a_job_that_no_worker_survives_is_given_up() {
    let output = run(example("worker", &["--poison", "2"]), b"").await;
    let stdout = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines[0], "job 1: 168 primes below 1000");
    for (line, pause) in lines[1..].iter().zip([50, 100, 200]) {
        assert!(line.starts_with("worker ended at job 2: "), "{line}");
        assert!(line.ends_with(&format!("; next in {pause}ms")), "{line}");
    }
    assert_eq!(lines.len(), 4, "{stdout}");
    let error = failed(output);
    assert!(error.starts_with("4 workers ended at job 2: "), "{error}");
}

#[cfg(feature = "worker")]
#[tokio::test]
async fn the_worker_alone_says_that_it_has_no_channel() {
    let error = failed(run(example("worker", &["--worker"]), b"").await);
    assert!(error.starts_with("no channel to the parent"), "{error}");
}

#[cfg(feature = "endpoint")]
#[tokio::test]
async fn two_endpoints_talk_by_name_also_when_one_of_them_is_started_again() {
    let [gui, worker] = ["gui", "worker"].map(|it| unique_name(&format!("example-{it}")));
    let start = async |name: &str, to: &str| {
        let mut endpoint = Running::start(example("endpoints", &[name, "--to", to]));
        // Its handlers may be called before it has printed that it is ready.
        let mut handled = std::collections::VecDeque::new();
        loop {
            let line = endpoint.line().await;
            if line.starts_with("ready on ") {
                assert!(line.contains(name), "{line}");
                return (endpoint, handled);
            }
            handled.push_back(line);
        }
    };
    let next = async |endpoint: &mut Running, handled: &mut std::collections::VecDeque<String>| {
        match handled.pop_front() {
            Some(line) => line,
            None => endpoint.line().await,
        }
    };
    let (mut one, _) = start(&gui, &worker).await;
    // Nobody is there yet.
    one.types("hello").await;
    let (mut two, mut handled) = start(&worker, &gui).await;
    let line = next(&mut two, &mut handled).await;
    assert_eq!(line, format!("{gui}: hello"));
    two.types("? good day").await;
    assert_eq!(two.line().await, format!("{gui} replies \"GOOD DAY\""));

    // The end of its input ends it, in order.
    drop(two.stdin.take());
    assert_eq!(two.ended().await, (Some(0), vec!["closed".to_string()]));
    for line in ["one", "two", "three"] {
        one.types(line).await;
    }
    let (mut two, mut handled) = start(&worker, &gui).await;
    for expected in ["one", "two", "three"] {
        let line = next(&mut two, &mut handled).await;
        assert_eq!(line, format!("{gui}: {expected}"));
    }
    two.types("again").await;
    assert_eq!(one.line().await, format!("{worker}: again"));
}

#[cfg(feature = "endpoint")]
#[tokio::test]
async fn an_endpoint_that_is_to_send_to_a_bad_name_fails_at_once() {
    let args = [&unique_name("example-own"), "--to", "a/b"];
    let endpoint = Running::start(example("endpoints", &args));
    assert_eq!(endpoint.ended().await, (Some(1), vec![]));
}

#[cfg(feature = "endpoint")]
#[tokio::test]
async fn an_endpoint_says_what_it_could_not_deliver() {
    let [name, nobody] = ["own", "nobody"].map(|it| unique_name(&format!("example-{it}")));
    let args = [&name, "--to", &nobody, "--give-up-after", "1"];
    let mut endpoint = Running::start(example("endpoints", &args));
    assert!(endpoint.line().await.starts_with("ready on "));
    endpoint.types("hello").await;
    let told = endpoint.line().await;
    let expected = format!("\"hello\" was not delivered: not delivered to {nobody} within ");
    assert!(told.starts_with(&expected), "{told}");
    assert!(told.contains("no server listens on"), "{told}");
}

#[tokio::test]
async fn raw_bytes_arrive_as_they_were_sent() {
    let name = unique_name("example-raw");
    let mut receiver = example("raw_bytes", &["receive", "--name", &name])
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(receiver.stderr.take().unwrap());
    let mut ready = String::new();
    within(stderr.read_line(&mut ready)).await.unwrap();
    assert!(ready.starts_with("listening on "), "{ready}");

    let bytes = common::sample(3_000_000, 1);
    let send = run(example("raw_bytes", &["send", "--name", &name]), &bytes);
    let (sent, received) = tokio::join!(send, within(receiver.wait_with_output()));
    succeeded(sent);
    let received = received.unwrap();
    assert!(received.status.success());
    assert!(received.stdout == bytes, "{} bytes", received.stdout.len());
}
