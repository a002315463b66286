//! The examples in C, C++ and Python, used as a person would: servers and clients of every language
//! connect, exchange and disconnect.

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::{Build, Running, library, program, skipped, unique_name};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    C,
    Cpp,
    Python,
}

use Language::{C, Cpp, Python};

/// Those that can run here: on Windows, the ones that were built.
fn languages() -> Vec<Language> {
    let mut languages = vec![C, Cpp];
    if cfg!(unix) {
        languages.push(Python);
    }
    languages.retain(|language| demo(*language).is_some());
    languages
}

/// What every demo is started with in turn: on Windows, also for messages that the system keeps
/// apart.
const MODES: &[&[&str]] = match cfg!(windows) {
    true => &[&[], &["--overlapped"], &["--messages"]],
    false => &[&[], &["--overlapped"]],
};

fn demo(language: Language) -> Option<Command> {
    match language {
        C => program("examples/demo.c", Build::Plain),
        Cpp => program("examples/demo.cpp", Build::Plain),
        Python => {
            if Command::new("python3").arg("--version").output().is_err() {
                skipped("python3 is missing");
                return None;
            }
            let mut command = Command::new("python3");
            let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
            command.arg(examples.join("demo.py")).arg(library());
            Some(command)
        }
    }
}

fn server(language: Language, mode: &[&str], name: &str) -> Running {
    let mut command = demo(language).unwrap();
    command.args(mode).args(["server", name]);
    let server = Running::start(command);
    server.says("listening");
    server
}

/// A client, and its number at the server, which has nothing else to say meanwhile.
fn client(language: Language, mode: &[&str], name: &str, server: &Running) -> (Running, u64) {
    let mut command = demo(language).unwrap();
    command.args(mode).args(["client", name]);
    let client = Running::start(command);
    client.says("connecting");
    client.says_of_a_client("connected");
    (client, server.says_of_a_client("connected"))
}

/// Ends it; the totals have to be these.
fn exits(mut demo: Running, sent: [usize; 2], received: [usize; 2]) {
    demo.types("/exit");
    let (code, said) = demo.ends();
    let totals = format!(
        "sent {} messages, {} bytes; received {} messages, {} bytes",
        sent[0], sent[1], received[0], received[1]
    );
    let last = said.last().map(String::as_str);
    assert_eq!((code, last), (Some(0), Some(&*totals)), "{said:#?}");
}

/// What a demo says of message `n` of those that `/binary` sends.
fn binary(size: usize, n: usize) -> String {
    let (mut a, mut b) = (1, 0);
    for i in 0..size {
        a = (a + (i % 251 * 31 + n) % 251) % 65521;
        b = (b + a) % 65521;
    }
    format!("{size} bytes, checksum {:08x}", b << 16 | a)
}

#[test]
fn programs_of_any_two_languages_connect_exchange_and_disconnect() {
    for at_server in languages() {
        for at_client in languages() {
            for mode in MODES {
                let name = unique_name("exchange");
                let mut server = server(at_server, mode, &name);
                let (mut client, id) = client(at_client, mode, &name, &server);
                client.types("hello");
                server.says(&format!("[{id}] hello"));
                server.types("and grüße to you");
                client.says_of_a_client("and grüße to you");
                client.types("");
                server.says(&format!("[{id}] "));
                exits(client, [2, 5], [1, 18]);
                assert_eq!(server.says_of_a_client("disconnected"), id);
                exits(server, [1, 18], [2, 5]);
            }
        }
    }
}

#[test]
fn several_clients_are_served_at_once_and_told_apart() {
    for at_server in languages() {
        for mode in MODES {
            let name = unique_name("several");
            let mut server = server(at_server, mode, &name);
            let mut clients: Vec<_> = languages()
                .into_iter()
                .cycle()
                .take(5)
                .map(|language| client(language, mode, &name, &server))
                .collect();
            for (client, id) in &mut clients {
                client.types(&format!("I am {id}"));
                server.says(&format!("[{id}] I am {id}"));
            }
            server.types("everybody");
            for (client, _) in &clients {
                client.says_of_a_client("everybody");
            }
            for (client, id) in &clients {
                server.types(&format!("/to {id} only {id}"));
                client.says_of_a_client(&format!("only {id}"));
            }
            // One is sent away, and the others do not notice.
            let (gone, id) = clients.remove(1);
            server.types(&format!("/disconnect {id}"));
            gone.says_of_a_client("disconnected");
            assert_eq!(server.says_of_a_client("disconnected"), id);
            for (client, id) in &mut clients {
                client.types("still here");
                server.says(&format!("[{id}] still here"));
            }
            // The server ends, and all are told.
            server.types("/exit");
            let (code, _) = server.ends();
            assert_eq!(code, Some(0));
            for (client, _) in &clients {
                client.says_of_a_client("disconnected");
            }
        }
    }
}

#[test]
fn a_mebibyte_with_every_byte_arrives_as_it_was_sent() {
    const SIZE: usize = 1 << 20;
    let samples = [0, 1, 2].map(|n| binary(SIZE, n));
    for language in languages() {
        for mode in MODES {
            let name = unique_name("binary");
            let mut server = server(language, mode, &name);
            let (mut client, id) = client(language, mode, &name, &server);
            client.types(&format!("/binary {SIZE} 3"));
            for sample in &samples {
                server.says(&format!("[{id}] {sample}"));
            }
            server.types(&format!("/binary {SIZE} 3"));
            for sample in &samples {
                client.says_of_a_client(sample);
            }
            exits(client, [3, 3 * SIZE], [3, 3 * SIZE]);
        }
    }
}

#[test]
fn a_program_that_exits_sends_first_what_waits() {
    const SIZE: usize = 1 << 20;
    const MESSAGES: usize = 16;
    for language in languages() {
        for mode in MODES {
            let name = unique_name("pending");
            let server = server(language, mode, &name);
            let (mut client, id) = client(language, mode, &name, &server);
            client.types(&format!("/binary {SIZE} {MESSAGES}"));
            exits(client, [MESSAGES, MESSAGES * SIZE], [0, 0]);
            for n in 0..MESSAGES {
                server.says(&format!("[{id}] {}", binary(SIZE, n)));
            }
            assert_eq!(server.says_of_a_client("disconnected"), id);
        }
    }
}

#[test]
fn a_server_restarts_on_its_name() {
    for language in languages() {
        for mode in MODES {
            let name = unique_name("restart");
            for round in 0..3 {
                let server = server(language, mode, &name);
                let (mut client, id) = client(language, mode, &name, &server);
                client.types(&format!("round {round}"));
                server.says(&format!("[{id}] round {round}"));
                exits(server, [0, 0], [1, 7]);
                client.says_of_a_client("disconnected");
                // It says so, and does not crash.
                client.types("too late");
                let (code, said) = client.ends();
                assert_eq!(code, Some(0));
                assert!(said[0].starts_with("not done: "), "{said:?}");
            }
        }
    }
}

#[test]
fn a_bad_name_is_told_to_the_user() {
    for language in languages() {
        let mut command = demo(language).unwrap();
        command.args(["server", "a/b\\c"]).stderr(Stdio::piped());
        let (code, said) = Running::start(command).ends();
        assert_eq!(code, Some(1));
        let told = said
            .iter()
            .any(|it| it.starts_with("error: cannot begin: "));
        assert!(told && said.concat().contains("a/b"), "{said:?}");
    }
}

#[test]
fn a_demo_in_python_that_fails_still_ends_its_pipe() {
    if !languages().contains(&Python) {
        return skipped("there is no demo in Python");
    }
    let name = unique_name("fails");
    let mut server = server(Python, MODES[0], &name);
    let (client, _) = client(Python, MODES[0], &name, &server);
    server.types("/to nobody hello");
    client.says_of_a_client("disconnected: it left");
    server.says_of_a_client("disconnected");
    let (code, said) = server.ends();
    let totals = "sent 0 messages, 0 bytes; received 0 messages, 0 bytes";
    let last = said.last().map(String::as_str);
    assert_eq!((code, last), (Some(1), Some(totals)), "{said:#?}");
    exits(client, [0, 0], [0, 0]);
}
