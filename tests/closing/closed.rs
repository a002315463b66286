//! Whether a connection is closed, asked without receiving.

use std::future::Future;

use asyncipc::PipeConnection;
use futures::{SinkExt, StreamExt};

use crate::common::{pairs, under_wine, within};

async fn until(is_closed: impl Fn() -> bool) {
    let closed = async {
        while !is_closed() {
            tokio::task::yield_now().await;
        }
    };
    within(closed).await;
}

/// Runs `test` for each transport and direction.
async fn each<F: Future<Output = ()>>(test: impl Fn(PipeConnection, PipeConnection) -> F) {
    for (transport, ours, theirs) in pairs("closed").await {
        println!("{transport}");
        test(ours, theirs).await;
    }
}

#[tokio::test]
async fn a_peer_that_has_left_is_noticed_without_receiving() {
    each(async |mut ours, theirs| {
        assert!(!ours.is_closed());
        drop(theirs);
        until(|| ours.is_closed()).await;
        assert!(within(ours.next()).await.is_none());
        assert!(ours.is_closed());
    })
    .await;
}

#[tokio::test]
async fn each_half_notices_it() {
    each(async |ours, theirs| {
        let (sender, receiver) = ours.split();
        assert!(!sender.is_closed() && !receiver.is_closed());
        drop(theirs);
        until(|| sender.is_closed()).await;
        until(|| receiver.is_closed()).await;
    })
    .await;
}

#[tokio::test]
async fn what_came_before_is_received_although_the_connection_is_closed() {
    each(async |mut ours, mut theirs| {
        theirs.send("one".into()).await.unwrap();
        theirs.send("two".into()).await.unwrap();
        assert!(!ours.is_closed());
        drop(theirs);
        // Wine does not say so while something is left.
        if !under_wine() {
            until(|| ours.is_closed()).await;
        }
        for expected in ["one", "two"] {
            assert_eq!(within(ours.next()).await.unwrap().unwrap(), expected);
        }
        until(|| ours.is_closed()).await;
    })
    .await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_peer_that_has_ended_its_direction_is_there() {
    each(async |mut ours, mut theirs| {
        theirs.close_write().await.unwrap();
        assert!(within(ours.next()).await.is_none());
        let (sender, receiver) = ours.split();
        assert!(receiver.is_closed());
        assert!(!sender.is_closed());
        drop(theirs);
        until(|| sender.is_closed()).await;
    })
    .await;
}

#[tokio::test]
async fn an_end_that_was_closed_for_sending_is_closed() {
    each(async |ours, _theirs| {
        let (mut sender, receiver) = ours.split();
        assert!(!sender.is_closed());
        within(SinkExt::close(&mut sender)).await.unwrap();
        assert!(sender.is_closed());
        assert!(!receiver.is_closed());
    })
    .await;
}
