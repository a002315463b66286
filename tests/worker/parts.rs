//! What the processes do that the tests start.

use std::future::pending;
use std::io::Read;
use std::process::{Stdio, exit};

use asyncipc::{Error, PipeClient, PipeServer};
use futures::{SinkExt, StreamExt};

use crate::common::{PATIENCE, role, sample, unique_name, within};
use crate::{CHANNEL, ended, exchange, program, report, said, start};

/// What the processes do that the other tests start.
#[tokio::test]
#[ignore = "a part for the processes that the other tests start"]
async fn plays_its_part() {
    let Some(part) = role() else {
        return crate::common::skipped("the other tests say which part");
    };
    match part.as_str() {
        "echo" => {
            let mut conn = PipeClient::from_parent()
                .linger(PATIENCE)
                .connect()
                .await
                .unwrap();
            while let Some(message) = conn.next().await {
                conn.send(message.unwrap().freeze()).await.unwrap();
            }
            conn.close().await.unwrap();
        }
        "echo of another" => {
            let (mut child, inner) = start(&mut program("echo")).await;
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
            conn.send("ready".into()).await.unwrap();
            exchange(inner).await.close().await.unwrap();
            assert!(child.wait().await.unwrap().success());
            conn.send("done".into()).await.unwrap();
            conn.close().await.unwrap();
        }
        "introduces itself" => {
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
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
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
            conn.send("a word".into()).await.unwrap();
            exit(0);
        }
        "says a word, and has a report that ends with it" => {
            let mut test = report().await;
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
            conn.send("a word".into()).await.unwrap();
            test.send("said".into()).await.unwrap();
            exit(0);
        }
        "ends without a word" => exit(3),
        "says ready and waits" => {
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
            conn.send("ready".into()).await.unwrap();
            ended(&mut conn).await;
        }
        "never connects" => {
            let mut test = report().await;
            test.send("here".into()).await.unwrap();
            ended(&mut test).await;
        }
        "takes its channel twice" => {
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
            let error = PipeClient::from_parent().connect().await.unwrap_err();
            assert!(matches!(error, Error::NoChannel { .. }), "{error:?}");
            conn.send(error.to_string().into()).await.unwrap();
            drop(conn);
            let error = PipeClient::from_parent().connect().await.unwrap_err();
            assert!(matches!(error, Error::NoChannel { .. }), "{error:?}");
        }
        "has no channel" => {
            let error = PipeClient::from_parent().connect().await.unwrap_err();
            assert!(matches!(error, Error::NoChannel { .. }), "{error:?}");
            report().await.send(error.to_string().into()).await.unwrap();
        }
        "is refused" => {
            let error = PipeClient::from_parent().connect().await.unwrap_err();
            assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
            report().await.send(error.to_string().into()).await.unwrap();
        }
        "lets another take it" => {
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
            let channel = std::env::var(CHANNEL).unwrap();
            let mut other = program("has no channel");
            let status = other.env(CHANNEL, channel).status().await.unwrap();
            conn.send(format!("success: {}", status.success()).into())
                .await
                .unwrap();
            conn.close().await.unwrap();
        }
        "leaves a process behind" => {
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
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
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
            test.send("ready".into()).await.unwrap();
            ended(&mut conn).await;
            test.send("end".into()).await.unwrap();
            test.close().await.unwrap();
        }
        "reads when it is told to" => {
            let mut test = report().await;
            let mut conn = PipeClient::from_parent().connect().await.unwrap();
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
            let mut conn = PipeClient::from_parent()
                .timeout(PATIENCE)
                .connect()
                .await
                .unwrap();
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
