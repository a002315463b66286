//! Messages that the system keeps apart.

use std::pin::pin;

use asyncipc::windows::ClientBuilderExt;
use asyncipc::{Error, PipeClient, PipeServer};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};

use crate::common::{echo, pair_of, sample, stays_pending, unique_name, within};
use crate::{LARGE, both_ways, collect, messages, poll_once, receive};

#[tokio::test]
async fn native_messages_of_every_size_keep_their_boundaries() {
    for (mut ours, mut theirs) in both_ways("native").await {
        for size in [
            0,
            1,
            1023,
            1024,
            1025,
            4095,
            4096,
            4097,
            65_535,
            65_536,
            65_537,
            1 << 20,
            16 << 20,
            0,
            3,
        ] {
            let message = sample(size, size);
            let sending = ours.send(message.clone());
            let (sent, received) = within(async { tokio::join!(sending, theirs.next()) }).await;
            sent.unwrap();
            let received = received.unwrap().unwrap();
            assert!(received == message, "{size} bytes arrived otherwise");
        }
        drop(ours);
        assert!(within(theirs.next()).await.is_none());
    }
}

#[tokio::test]
async fn many_small_messages_arrive_in_order() {
    const COUNT: usize = 2000;
    for (mut ours, theirs) in both_ways("small").await {
        let sending = tokio::spawn(async move {
            for n in 0..COUNT {
                // Some sizes exceed what is copied out, and some the first read.
                ours.feed(sample(n * 7 % 5000, n)).await.unwrap();
            }
            ours.close().await.unwrap();
        });
        let received = collect(theirs).await;
        assert_eq!(received.len(), COUNT);
        for (n, message) in received.iter().enumerate() {
            assert!(*message == sample(n * 7 % 5000, n), "message {n}");
        }
        within(sending).await.unwrap();
    }
}

#[tokio::test]
async fn empty_messages_are_messages_and_not_the_end() {
    for (mut ours, theirs) in both_ways("empty").await {
        for message in ["", "", "between", ""] {
            ours.send(message.into()).await.unwrap();
        }
        drop(ours);
        assert_eq!(collect(theirs).await, ["", "", "between", ""]);
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_not_sent_and_the_connection_goes_on() {
    let (server, client) = messages("limit-sending");
    let (server, client) = (server.max_message_size(10), client.max_message_size(10));
    let (client, server) = pair_of(&server, &client).await;
    let mut ends = [client, server];
    for _ in 0..2 {
        let [ours, theirs] = &mut ends;
        let error = within(ours.send(sample(11, 0))).await.unwrap_err();
        assert!(
            matches!(
                error,
                Error::MessageTooLarge {
                    size: 11,
                    max: 10,
                    ..
                }
            ),
            "{error:?}"
        );
        ours.send(sample(10, 1)).await.unwrap();
        assert!(receive(theirs).await == sample(10, 1));
        ends.reverse();
    }
}

#[tokio::test]
async fn a_received_message_above_the_limit_is_an_error_that_tells_its_size() {
    // The size is found out with the first read, or after it.
    for (max, sent) in [
        (0, 1),
        (10, 11),
        (10, LARGE),
        (5000, 5001),
        (LARGE, LARGE + 1),
    ] {
        let (server, client) = messages("limit-receiving");
        let (client, server) = pair_of(&server, &client.max_message_size(max)).await;
        let (mut theirs, mut ours) = (server, client);
        theirs.feed(sample(max, 0)).await.unwrap();
        let sending = tokio::spawn(async move {
            // The message may never be read to its end.
            let _ = theirs.send(sample(sent, 0)).await;
            theirs
        });
        assert!(receive(&mut ours).await == sample(max, 0));
        let error = within(ours.next()).await.unwrap().unwrap_err();
        let Error::MessageTooLarge {
            size, max: told, ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((size, told), (sent, max));
        assert!(within(ours.next()).await.is_none());
        drop(ours);
        within(sending).await.unwrap();
    }
}

#[tokio::test]
async fn split_halves_in_two_tasks_send_and_receive_at_once_far_above_the_quota() {
    const COUNT: usize = 8;
    let (server, client) = messages("halves");
    let (client, server) = pair_of(&server, &client).await;
    let ends = [client, server].map(|conn| {
        let (mut sender, mut receiver) = conn.split();
        let sending = tokio::spawn(async move {
            for n in 0..COUNT {
                sender.send(sample((1 << 20) + n, n)).await.unwrap();
            }
            sender
        });
        let receiving = tokio::spawn(async move {
            for n in 0..COUNT {
                let message = receiver.next().await.unwrap().unwrap();
                assert!(message == sample((1 << 20) + n, n), "message {n}");
            }
            receiver
        });
        async move {
            let (sender, receiver) = (sending.await.unwrap(), receiving.await.unwrap());
            receiver.reunite(sender).unwrap()
        }
    });
    let [a, b] = ends;
    let (a, b) = within(async { tokio::join!(a, b) }).await;
    within(async { tokio::try_join!(a.close(), b.close()) })
        .await
        .unwrap();
}

#[tokio::test]
async fn a_cancelled_next_loses_nothing() {
    for (mut ours, mut theirs) in both_ways("cancelled").await {
        for n in 0..100 {
            let size = [0, 3, 5000, LARGE][n % 4];
            let mut sending = pin!(ours.send(sample(size, n)));
            let mut sent = false;
            // `next` is dropped after each poll, in whatever state it is.
            let message = within(async {
                loop {
                    sent = sent || poll_once(sending.as_mut()).is_some_and(|it| it.is_ok());
                    match poll_once(pin!(theirs.next())) {
                        Some(message) => break message,
                        None => tokio::task::yield_now().await,
                    }
                }
            });
            let message = message.await.unwrap().unwrap();
            assert!(message == sample(size, n), "message {n} arrived otherwise");
            if !sent {
                within(sending).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    for (mut ours, mut theirs) in both_ways("slow").await {
        let mut taken = 0;
        loop {
            let mut sending = Box::pin(ours.send(sample(4 << 10, taken)));
            taken += 1;
            if stays_pending(&mut sending).await {
                break;
            }
            assert!(taken < 1000, "nothing holds the sender back");
        }
        // The last message was taken before its `send` was dropped. It goes out when there is room.
        for n in 0..taken {
            assert!(
                receive(&mut theirs).await == sample(4 << 10, n),
                "message {n}"
            );
        }
        within(ours.send("free again".into())).await.unwrap();
        assert_eq!(receive(&mut theirs).await, "free again");
    }
}

#[tokio::test]
async fn a_message_client_on_a_pipe_of_bytes_is_a_mode_mismatch() {
    let name = unique_name("mismatch");
    let _server = PipeServer::bind(&name).unwrap();
    let refused = PipeClient::builder(&name).message_mode().connect().await;
    assert!(
        matches!(refused, Err(Error::ModeMismatch { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_thousand_clients_wait_for_sixty_four_places_and_all_are_served() {
    let name = unique_name("wait");
    let server = PipeServer::builder(&name)
        .max_connections(64)
        .bind()
        .unwrap();
    let stop = server.shutdown_handle();
    let serving = tokio::spawn(server.serve(echo));
    let clients = (0..1000).map(|i: u32| {
        let client = PipeClient::builder(&name).timeout(std::time::Duration::from_secs(300));
        tokio::spawn(async move {
            let mut conn = client.connect().await.unwrap();
            conn.send(Bytes::copy_from_slice(&i.to_le_bytes()))
                .await
                .unwrap();
            assert_eq!(conn.next().await.unwrap().unwrap()[..], i.to_le_bytes());
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    stop.shutdown();
    assert_eq!(serving.await.unwrap().unwrap().clients, 1000);
}

#[tokio::test]
async fn a_shared_sender_keeps_messages_apart_and_in_order() {
    for (sending, mut receiving) in both_ways("shared").await {
        let (sender, _receiver) = sending.split();
        let sender = sender.into_shared();
        let sizes = [5, 0, LARGE, 1, 70_000, 0, 64];
        let send = async {
            for (seed, size) in sizes.into_iter().enumerate() {
                sender.send(sample(size, seed)).await.unwrap();
            }
            sender.flush().await.unwrap();
            sender.close().await.unwrap();
        };
        let receive = async {
            for (seed, size) in sizes.into_iter().enumerate() {
                let message = receiving.next().await.unwrap().unwrap();
                assert_eq!(message, sample(size, seed));
            }
        };
        within(async { tokio::join!(send, receive) }).await;
    }
}
