//! What is lost, and what comes twice, when a program crashes.

use std::process::Stdio;

use asyncipc::endpoint::{EndpointError, Event};
use asyncipc::{Error, PipeServer, PipeStream};
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Command;

use super::{LARGE, Raw, bind, patient};
use crate::common::{self, stays_pending, unique_name, within};

#[tokio::test]
async fn a_message_of_which_only_a_part_came_before_a_crash_is_sent_again() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("part-{it}")));
    let from = bind(patient(&a)).await;
    let handle = from.handle();
    let large = "x".repeat(LARGE);
    handle.send(&b, "first", &large).await.unwrap();
    handle.send(&b, "second", 2).await.unwrap();
    let mut request = Box::pin(handle.request(&b, "third", 3));
    assert!(stays_pending(&mut request).await);
    let mut listener = PipeServer::builder(&b).bind_bytes().unwrap();
    for part in [1, 4, 100, LARGE / 2] {
        let mut crashes: PipeStream = within(listener.accept()).await.unwrap();
        within(crashes.read_exact(&mut vec![0; part]))
            .await
            .unwrap();
    }
    drop(listener);
    let mut server = bind_server(&b).await;
    let mut to = Raw::accept(&mut server).await;
    let first = to.hears().await;
    assert_eq!(first["action"], "first");
    assert!(first["data"] == large);
    assert_eq!(to.hears().await["action"], "second");
    let third = to.hears().await;
    assert_eq!(third["action"], "third");
    to.says(json!({"reply": third["id"], "data": "here"})).await;
    assert_eq!(within(request).await.unwrap(), "here");
}

/// As [`bind`], for a server.
async fn bind_server(name: &str) -> PipeServer {
    let binding = async {
        loop {
            match PipeServer::bind(name) {
                Err(Error::AddressInUse { .. }) => tokio::task::yield_now().await,
                bound => return bound.unwrap(),
            }
        }
    };
    within(binding).await
}

/// Not with a connection of this crate: when it is dropped, it goes on reading for a while. A crashed
/// program does not.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_crashed_program_had_not_read_is_lost_and_linux_says_so() {
    use std::io::Read;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crashes.sock");
    let to = path.to_str().unwrap();
    let mut from = bind(patient(&unique_name("unread"))).await;
    let handle = from.handle();
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    handle.send(to, "first", "x".repeat(1000)).await.unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut stream = listener.accept().unwrap().0;
        stream.read_exact(&mut [0; 4]).unwrap();
        stream
    });
    // The system has all of it then.
    let crashes = within(reading).await.unwrap();
    assert!(stays_pending(&mut from.next()).await);
    drop(crashes);
    let error = super::error(&mut from).await;
    assert!(
        matches!(&error, EndpointError::Unread { to: it, .. } if it == to),
        "{error}"
    );
    std::fs::remove_file(&path).unwrap();
    let mut server = PipeServer::bind(to).unwrap();
    handle.send(to, "second", ()).await.unwrap();
    let mut to = Raw::accept(&mut server).await;
    assert_eq!(to.hears().await["action"], "second");
}

/// The receivers are processes of their own: three are killed in the middle, and one lives to the end.
#[tokio::test]
async fn when_the_receiver_is_killed_the_order_stays_and_only_what_it_had_is_lost_or_comes_twice() {
    const TEST: &str = "crash::when_the_receiver_is_killed_the_order_stays_and_only_what_it_had_is_lost_or_comes_twice";
    if let Some(name) = common::role() {
        // Prints what it has handled, until it is killed or told to end.
        let builder = patient(&name).on("count", async |message| {
            println!("handled {}", message.data);
            Ok(())
        });
        let endpoint = bind(builder).await;
        let handle = endpoint.handle();
        endpoint.handle().on("end", move |_| {
            handle.shutdown();
            async { Ok(()) }
        });
        endpoint.run().await;
        return;
    }
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("killed-{it}")));
    let mut from = bind(patient(&a)).await;
    let handle = from.handle();
    let to = b.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let sending = tokio::spawn(async move {
        let mut stopped = std::pin::pin!(stopped);
        let mut n = 0;
        while stopped.as_mut().now_or_never().is_none() {
            handle.send(&to, "count", n).await.unwrap();
            n += 1;
        }
        handle.send(&to, "end", ()).await.unwrap();
        n
    });
    // The events may say that a killed receiver had not read everything.
    let events = tokio::spawn(async move {
        while let Some(event) = from.next().await {
            match event {
                Event::Error(EndpointError::Unread { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    let mut generations = Vec::new();
    let mut stop = Some(stop);
    for generation in 0..4 {
        let mut command = Command::from(common::itself(TEST));
        command.env(common::ROLE, &b).stdout(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut handled: Vec<usize> = Vec::new();
        while let Some(line) = within(lines.next_line()).await.unwrap() {
            // The test harness prints there too.
            let Some((_, n)) = line.split_once("handled ") else {
                continue;
            };
            handled.push(n.parse().unwrap());
            if handled.len() == 50 {
                match generation {
                    3 => drop(stop.take()),
                    _ => child.start_kill().unwrap(),
                }
            }
        }
        within(child.wait()).await.unwrap();
        generations.push(handled);
    }
    let sent = within(sending).await.unwrap();
    for handled in &generations {
        // Within one life, no message is missing, and none is out of order.
        assert!(
            handled.windows(2).all(|it| it[1] == it[0] + 1),
            "{handled:?}"
        );
    }
    for lives in generations.windows(2) {
        // From one life to the next, some messages are lost, or one comes twice.
        assert!(lives[1][0] >= lives[0][lives[0].len() - 1], "{lives:?}");
    }
    assert_eq!(generations[0][0], 0);
    assert_eq!(generations[3].last(), Some(&(sent - 1)));
    events.abort();
    assert!(!events.await.is_err_and(|it| it.is_panic()));
}
