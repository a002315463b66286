//! What happens when the application does not read the events.

use futures::StreamExt;
use serde_json::json;

use super::{Raw, bind, message, patient};
use crate::common::{Log, stays_pending, unique_name, within};

#[tokio::test]
async fn an_application_that_does_not_read_the_events_holds_the_others_back() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("back-{it}")));
    let (from, mut to) = (bind(patient(&a)).await, bind(patient(&b)).await);
    let handle = from.handle();
    let mut sent = 0;
    let mut sending = Box::pin(async {
        loop {
            handle
                .send(&b, "count", (sent, "x".repeat(10_000)))
                .await
                .unwrap();
            sent += 1;
        }
    });
    assert!(stays_pending(&mut sending).await);
    drop(sending);
    assert!((1..1000).contains(&sent), "{sent}");
    for n in 0..sent {
        assert_eq!(message(&mut to).await.data[0], n);
    }
}

#[tokio::test]
async fn that_nobody_reads_the_events_is_logged_once_until_they_were_read() {
    let (log, _logging) = Log::begin();
    // The thread of another test may have reached the call site before this subscriber was there, and
    // have cached that nobody is interested.
    tracing::callsite::rebuild_interest_cache();
    let warnings = || log.text().matches("nobody reads the events").count();

    let name = unique_name("unread");
    let mut endpoint = bind(patient(&name).on("ping", async |_| Ok("pong"))).await;
    let mut clients = [Raw::connect(&name).await, Raw::connect(&name).await];
    for round in 1..=2 {
        for client in &mut clients {
            for n in 0..100 {
                client
                    .says(json!({"action": "count", "from": "raw", "data": n}))
                    .await;
            }
        }
        within(async {
            while warnings() < round {
                tokio::task::yield_now().await;
            }
        })
        .await;
        for _ in 0..2 * 100 {
            assert_eq!(message(&mut endpoint).await.action, "count");
        }
        assert!(stays_pending(&mut endpoint.next()).await);
        assert_eq!(warnings(), round);
        let [client, _] = &mut clients;
        client
            .says(json!({"action": "ping", "from": "raw", "id": 1}))
            .await;
        assert_eq!(client.hears().await["data"], "pong");
    }
}

#[tokio::test]
async fn the_log_says_whose_message_is_lost_and_how_long_it_is_but_not_what_is_in_it() {
    let (log, _logging) = Log::begin();
    tracing::callsite::rebuild_interest_cache();
    let name = unique_name("untold");
    let endpoint = bind(patient(&name)).await;
    let mut client = Raw::connect(&name).await;
    let action = format!("open{}", "n".repeat(10_000));
    let message = json!({"action": action, "from": "raw", "data": "secret".repeat(1000)});
    for _ in 0..100 {
        client.says(&message).await;
    }
    // One of them waits for room among the events.
    assert!(stays_pending(&mut std::future::pending::<()>()).await);
    drop(endpoint);
    within(async {
        while !log.text().contains("dropped before it was read") {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let text = log.text();
    let lost = text.lines().find(|it| it.contains("dropped before"));
    let lost = lost.unwrap();
    let bytes = message.to_string().len();
    assert!(
        lost.contains("message \"opennn") && lost.contains("from \"raw\""),
        "{lost}"
    );
    assert!(lost.contains(&format!("of {bytes} bytes")), "{lost}");
    assert!(!text.contains("secret") && lost.len() < 1000, "{lost}");
}
