//! Programs that know the frames and the JSON and nothing else.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use asyncipc::endpoint::EndpointError;
use asyncipc::{PipeClient, PipeName, PipeServer};
use futures::StreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Raw, bind, error, message, patient};
use crate::common::{skipped, stays_pending, unique_name, within};

#[tokio::test]
async fn a_plain_client_sends_and_asks_on_one_connection() {
    let name = unique_name("plain-client");
    let mut endpoint = bind(patient(&name).on("add", async |message| {
        let (a, b): (i32, i32) = message.parse()?;
        Ok(a + b)
    }))
    .await;
    let mut client = Raw::connect(&name).await;
    client
        .says(json!({"action": "hello", "from": "raw", "data": {"x": [1]}, "unknown": 1}))
        .await;
    let hello = message(&mut endpoint).await;
    assert_eq!(
        (hello.action.as_str(), hello.from.as_str()),
        ("hello", "raw")
    );
    assert_eq!(hello.data, json!({"x": [1]}));
    client
        .says(json!({"action": "add", "from": "raw", "data": [2, 3], "id": 0}))
        .await;
    let reply = json!({"action": "add", "from": name, "data": 5, "reply": 0});
    assert_eq!(client.hears().await, reply);
    client
        .says(json!({"action": "sub", "from": "raw", "id": 9}))
        .await;
    let reply =
        json!({"action": "sub", "from": name, "error": "there is no handler for it", "reply": 9});
    assert_eq!(client.hears().await, reply);
}

#[tokio::test]
async fn a_plain_server_answers_and_sends_on_the_connection_that_was_made_to_it() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("plain-server-{it}")));
    let mut from = bind(patient(&a).on("version", async |_| Ok("1.0"))).await;
    let mut server = PipeServer::bind(&b).unwrap();
    let handle = from.handle();
    let asking = handle.request(&b, "open", "x");
    let answering = async {
        let mut to = Raw::accept(&mut server).await;
        let request = to.hears().await;
        assert_eq!(request["from"], json!(a));
        assert_eq!(request["data"], "x");
        // First a message, a request, and a reply that nobody waits for.
        to.says(json!({"action": "news", "from": "raw"})).await;
        to.says(json!({"reply": u64::MAX, "data": "nobody asked"}))
            .await;
        to.says(json!({"action": "version", "from": "raw", "id": 7}))
            .await;
        let reply = to.hears().await;
        assert_eq!(
            reply,
            json!({"action": "version", "from": a, "data": "1.0", "reply": 7})
        );
        to.says(json!({"reply": request["id"], "data": [true]}))
            .await;
        to
    };
    let (asked, mut to) = within(async { tokio::join!(asking, answering) }).await;
    assert_eq!(asked.unwrap(), json!([true]));
    assert_eq!(message(&mut from).await.action, "news");

    let asking = handle.request(&b, "close", ());
    let refusing = async {
        let request = to.hears().await;
        to.says(json!({"reply": request["id"], "error": "not now"}))
            .await;
    };
    let (asked, ()) = within(async { tokio::join!(asking, refusing) }).await;
    let error = asked.unwrap_err();
    assert!(
        matches!(&error, EndpointError::Refused { reason, .. } if reason == "not now"),
        "{error}"
    );
}

#[tokio::test]
async fn a_message_that_is_no_envelope_is_told_and_its_connection_goes_on() {
    let name = unique_name("malformed");
    let mut endpoint = bind(patient(&name).on("ping", async |_| Ok("pong"))).await;
    let mut client = Raw::connect(&name).await;
    for (bad, expected) in [
        ("", "not a JSON object"),
        ("hello", "not a JSON object"),
        ("[1, 2]", "not a JSON object"),
        ("{\"action\": ", "EOF while parsing"),
        ("{\"from\": \"raw\"}", "`action` is missing"),
        ("{\"action\": \"a\"}", "`from` is missing"),
        (
            "{\"action\": 1, \"from\": \"raw\"}",
            "invalid type: integer",
        ),
    ] {
        client.says(bad).await;
        let error = error(&mut endpoint).await;
        let EndpointError::BadEnvelope { process_id, .. } = error else {
            panic!("{error:?}");
        };
        if cfg!(any(windows, target_os = "linux")) {
            assert_eq!(process_id, Some(std::process::id()));
        }
        assert!(error.to_string().contains(expected), "{bad}: {error}");
    }
    // A request gets a reply.
    client
        .says(json!({"action": ["ping"], "from": "raw", "id": 5}))
        .await;
    let reply = client.hears().await;
    assert_eq!(reply["reply"], 5);
    assert!(reply["error"].as_str().unwrap().contains("not an envelope"));
    client
        .says(json!({"action": "ping", "from": "raw", "id": 6}))
        .await;
    assert_eq!(client.hears().await["data"], "pong");
}

#[tokio::test]
async fn a_frame_that_ends_early_ends_its_connection_alone() {
    let name = unique_name("frames");
    let builder = patient(&name).max_message_size(100);
    let mut endpoint = bind(builder.on("ping", async |_| Ok("pong"))).await;
    let mut other = Raw::connect(&name).await;
    for (bytes, expected) in [
        (&[0, 0, 0, 10, b'{'][..], "ended inside a message"),
        // The error says that it is above the limit. That it ends early as well is not reported.
        (
            &[0, 0, 0, 101][..],
            "a message of 101 bytes is above the limit",
        ),
        (&[0, 0, 0, 101, b'{'][..], "101 bytes is above the limit"),
        (&[0, 0][..], "ended inside a message"),
    ] {
        let client = PipeClient::builder(&name);
        let mut client = within(client.connect_bytes()).await.unwrap();
        within(client.write_all(bytes)).await.unwrap();
        within(client.flush()).await.unwrap();
        drop(client);
        let error = error(&mut endpoint).await;
        assert!(error.to_string().contains(expected), "{error}");
    }
    other
        .says(json!({"action": "ping", "from": "raw", "id": 1}))
        .await;
    assert_eq!(other.hears().await["data"], "pong");
    assert!(stays_pending(&mut endpoint.next()).await);
}

/// A running program. Its output goes to a file: under Wine, Node cannot write to a pipe.
struct Peer {
    child: tokio::process::Child,
    said: PathBuf,
}

impl Peer {
    /// Runs this file of `tests/peers`; `None` if `program`, which runs it, is not installed.
    async fn start(program: &str, file: &str, args: &[&str]) -> Option<Self> {
        let found = match program {
            "node" => std::env::var_os("ASYNCIPC_NODE"),
            _ => None,
        };
        let found = found.unwrap_or_else(|| program.into());
        let mut version = Command::new(&found);
        match version
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .await
        {
            Ok(status) if status.success() => {}
            other => {
                skipped(format!("no {program} here: {found:?}: {other:?}"));
                return None;
            }
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/peers")
            .join(file);
        let said = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique_name("said"));
        let mut command = Command::new(found);
        command
            .arg(path)
            .args(args)
            .env("PYTHONIOENCODING", "utf-8")
            .stdout(std::fs::File::create(&said).unwrap())
            .kill_on_drop(true);
        let child = command.spawn().unwrap();
        Some(Peer { child, said })
    }

    /// Waits until it has ended with success. Returns the lines of its output.
    async fn ends(mut self) -> Vec<String> {
        let status = within(self.child.wait()).await.unwrap();
        let said = std::fs::read_to_string(&self.said).unwrap();
        std::fs::remove_file(&self.said).unwrap();
        assert!(status.success(), "{status}: {said}");
        said.lines().map(str::to_owned).collect()
    }
}

async fn is_served_by_an_endpoint(program: &str, file: &str, args: &[&str]) {
    let name = unique_name("foreign");
    let mut endpoint = bind(patient(&name).on("sum", async |message| {
        let numbers: Vec<i64> = message.parse()?;
        Ok(numbers.iter().sum::<i64>())
    }))
    .await;
    let path = endpoint.pipe().to_string();
    let args: Vec<&str> = args.iter().copied().chain([path.as_str()]).collect();
    let Some(peer) = Peer::start(program, file, &args).await else {
        return;
    };
    let hello = message(&mut endpoint).await;
    assert_eq!(hello.action, "hello");
    assert_eq!(hello.data, json!({"text": "grüße 🦀"}));
    assert_eq!(peer.ends().await, ["1: 6", "2: there is no handler for it"]);
}

#[tokio::test]
async fn a_client_in_node_takes_part() {
    is_served_by_an_endpoint("node", "endpoint.js", &["client"]).await;
}

#[cfg(unix)] // Python's standard library has no named pipe that reads and writes at a time.
#[tokio::test]
async fn a_client_in_python_takes_part() {
    is_served_by_an_endpoint("python3", "endpoint.py", &[]).await;
}

#[tokio::test]
async fn a_server_in_node_takes_part() {
    let [name, node] = ["own", "node"].map(|it| unique_name(&format!("foreign-{it}")));
    let path = PipeName::new(&node).unwrap().to_string();
    let mut endpoint = bind(patient(&name)).await;
    let Some(peer) = Peer::start("node", "endpoint.js", &["server", &path]).await else {
        return;
    };
    let handle = endpoint.handle();
    for n in 0..100 {
        handle.send(&node, "count", n).await.unwrap();
    }
    let doubled = within(handle.request(&node, "double", 21)).await.unwrap();
    assert_eq!(doubled, 42);
    let news = message(&mut endpoint).await;
    assert_eq!((news.action.as_str(), news.from.as_str()), ("news", "node"));
    let error = within(handle.request(&node, "triple", 1))
        .await
        .unwrap_err();
    assert!(error.to_string().ends_with("no triple here"), "{error}");
    handle.send(&node, "end", ()).await.unwrap();
    let expected: Vec<_> = (0..100).map(|n| format!("count: {n}")).collect();
    assert_eq!(peer.ends().await, expected);
}
