//! The longest message, in both directions.

use asyncipc::hub::{DisconnectReason, Event};
use asyncipc::{Error, PipeClient, PipeServer};
use futures::SinkExt;

use crate::common::{sample, unique_name, within};
use crate::{join, left, next, received};

#[tokio::test]
async fn a_message_above_the_limit_is_refused_and_others_go_on() {
    let name = unique_name("limit");
    let server = PipeServer::builder(&name).max_message_size(100);
    let mut hub = server.bind().unwrap().into_hub();
    assert!(matches!(next(&mut hub).await, Event::Listening));
    let (mut client, id) = join(&mut hub, &name).await;
    let handle = hub.handle();
    let errors = [
        handle.send(id, sample(101, 0)).await.unwrap_err(),
        handle.try_send(id, sample(101, 0)).unwrap_err(),
        handle.broadcast(sample(101, 0)).unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(error, Error::MessageTooLarge { size: 101, .. }),
            "{error}"
        );
    }
    handle.send(id, "short".into()).await.unwrap();
    assert_eq!(received(&mut client).await, "short");
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_although_nobody_is_there() {
    let hub = PipeServer::builder(unique_name("hub")).max_message_size(3);
    let hub = hub.bind().unwrap().into_hub();
    let error = hub.handle().broadcast("four".into()).unwrap_err();
    assert!(
        matches!(
            error,
            Error::MessageTooLarge {
                size: 4,
                max: 3,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_fails_with_the_rule() {
    let name = unique_name("rules");
    let server = PipeServer::builder(&name).max_message_size(100);
    let mut hub = server.bind().unwrap().into_hub();
    assert!(matches!(next(&mut hub).await, Event::Listening));
    let (mut client, id) = join(&mut hub, &name).await;
    // What it does after that is of no interest.
    let _ = client.send(sample(101, 0)).await;
    let reason = left(&mut hub, id).await;
    assert!(
        matches!(
            reason,
            DisconnectReason::Failed(Error::MessageTooLarge { size: 101, .. })
        ),
        "{reason}"
    );
}

#[tokio::test]
async fn the_handle_tells_the_longest_message_that_can_be_sent() {
    let name = unique_name("told");
    let server = PipeServer::builder(&name).max_message_size(100);
    let server = server.bind().unwrap().into_hub();
    let client = PipeClient::builder(&name).max_message_size(70);
    let client = within(client.connect()).await.unwrap();
    let client = client.into_hub();
    for (handle, limit) in [(server.handle(), 100), (client.handle(), 70)] {
        assert_eq!(handle.max_message_size(), limit);
        let error = handle.broadcast(sample(limit + 1, 0)).unwrap_err();
        assert!(
            matches!(error, Error::MessageTooLarge { max, .. } if max == limit),
            "{error}"
        );
        handle.broadcast(sample(limit, 0)).unwrap();
    }
}
