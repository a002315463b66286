//! The crate never runs code of the application under a lock: a waker, a destructor or a conversion may
//! call the crate again.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use asyncipc::endpoint::EndpointHandle;
use asyncipc::hub::Event;
use asyncipc::{ConnectionId, Endpoint, PipeClient, PipeHub, PipeServer};
use bytes::Bytes;
use common::{PATIENCE, pair, pair_of, sample, transports, unique_name, within};
use futures::{FutureExt, StreamExt};

/// Fails when `test` waits for a lock that it holds itself. It has a thread of its own, because such a
/// wait blocks the thread forever.
fn in_a_thread<F: Future>(test: impl FnOnce() -> F + Send + 'static) {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test());
        done.send(()).unwrap();
    });
    match ended.recv_timeout(2 * PATIENCE) {
        Ok(()) => {}
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it waits for itself"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("it has failed"),
    }
}

/// Calls something when it is dropped, and counts that.
struct Hook {
    bytes: Bytes,
    call: Box<dyn Fn() + Send + Sync>,
    calls: Arc<AtomicUsize>,
}

impl Hook {
    fn new(call: impl Fn() + Send + Sync + 'static) -> (Self, Arc<AtomicUsize>) {
        let calls = Arc::<AtomicUsize>::default();
        let hook = Hook {
            bytes: Bytes::new(),
            call: Box::new(call),
            calls: calls.clone(),
        };
        (hook, calls)
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        (self.call)();
        self.calls.fetch_add(1, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Hook {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A waker that calls the same when it is woken.
impl Wake for Hook {
    fn wake(self: Arc<Self>) {
        (self.call)();
    }
}

#[test]
fn a_handler_that_is_replaced_may_set_handlers_when_it_is_dropped() {
    in_a_thread(async || {
        let endpoint = Endpoint::bind(unique_name("replaced")).unwrap();
        let handle = endpoint.handle();
        let again = handle.clone();
        let (hook, calls) = Hook::new(move || {
            again.on("second", async |_| Ok(()));
            again.on_from("second", async |_| Ok(()));
        });
        let hook = Arc::new(hook);
        let held = hook.clone();
        handle.on("first", move |_| {
            let _held = &held;
            async { Ok(()) }
        });
        handle.on_from("first", move |_| {
            let _held = &hook;
            async { Ok(()) }
        });
        handle.on("first", async |_| Ok(()));
        assert_eq!(calls.load(Ordering::Relaxed), 0);
        handle.on_from("first", async |_| Ok(()));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_name_that_is_made_for_a_handler_may_set_handlers() {
    struct Name(EndpointHandle);

    impl From<Name> for String {
        fn from(name: Name) -> Self {
            name.0.on("other", async |_| Ok(()));
            "name".into()
        }
    }

    in_a_thread(async || {
        let endpoint = Endpoint::bind(unique_name("into")).unwrap();
        let handle = endpoint.handle();
        handle.on(Name(handle.clone()), async |_| Ok(()));
        handle.on_from(Name(handle.clone()), async |_| Ok(()));
    });
}

/// A hub whose queues have room for one message, with one client.
async fn hub() -> (PipeHub, ConnectionId, asyncipc::PipeConnection) {
    let name = unique_name("hub");
    let server = PipeServer::bind(&name).unwrap();
    let mut hub = PipeHub::builder().queue(1).serve(server);
    assert!(matches!(within(hub.next()).await, Some(Event::Listening)));
    let (client, connected) =
        within(async { tokio::join!(PipeClient::connect(&name), hub.next()) }).await;
    let Some(Event::Connected { id, .. }) = connected else {
        panic!("{connected:?}")
    };
    (hub, id, client.unwrap())
}

#[test]
fn a_message_that_finds_no_room_may_use_the_hub_when_it_is_dropped() {
    in_a_thread(async || {
        let (hub, id, _client) = hub().await;
        let handle = hub.handle();
        // This thread does not yield, so no other task runs meanwhile.
        handle.try_send(id, "takes the room".into()).unwrap();
        let again = handle.clone();
        let (hook, calls) = Hook::new(move || assert_eq!(again.clients(), [id]));
        let refused = handle.try_send(id, Bytes::from_owner(hook)).unwrap_err();
        assert!(
            matches!(refused, asyncipc::Error::QueueFull { .. }),
            "{refused}"
        );
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn whoever_is_woken_by_a_flush_may_flush_at_once() {
    in_a_thread(async || {
        let (mut hub, id, _client) = hub().await;
        let handle = hub.handle();
        handle.try_send(id, "hello".into()).unwrap();
        let again = handle.clone();
        let woken = Arc::<AtomicUsize>::default();
        let counted = woken.clone();
        let (hook, _) = Hook::new(move || {
            let _ = again.flush(id).now_or_never();
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let waker = Waker::from(Arc::new(hook));
        let mut flushing = Box::pin(handle.flush(id));
        let polled = flushing.as_mut().poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        let sent = within(hub.next()).await;
        assert!(matches!(sent, Some(Event::Sent { .. })), "{sent:?}");
        assert_eq!(woken.load(Ordering::Relaxed), 1);
        within(flushing).await.unwrap();
    });
}

#[test]
fn a_message_of_any_size_may_send_another_one_when_it_is_dropped() {
    for size in [10, 2_000, 100_000] {
        for (transport, server, client) in transports("again") {
            in_a_thread(async move || {
                let (client, mut server) = pair_of(&server, &client).await;
                let (sender, _receiver) = client.split();
                let sender = sender.into_shared();
                let again = sender.clone();
                let (mut hook, calls) = Hook::new(move || {
                    // There may be no room yet.
                    let sent = again.send("again".into()).now_or_never();
                    assert!(!matches!(sent, Some(Err(_))), "{transport}: {sent:?}");
                });
                hook.bytes = sample(size, 0);
                let sending = async {
                    sender.send(Bytes::from_owner(hook)).await.unwrap();
                    sender.flush().await.unwrap();
                };
                let reading = async {
                    assert_eq!(server.next().await.unwrap().unwrap(), sample(size, 0));
                };
                within(async { tokio::join!(sending, reading) }).await;
                // The message may be sent a moment before its memory is freed.
                let dropped = async {
                    while calls.load(Ordering::Relaxed) == 0 {
                        tokio::task::yield_now().await;
                    }
                };
                within(dropped).await;
            });
        }
    }
}

#[test]
fn a_message_may_use_its_sender_when_its_direction_is_ended() {
    for (transport, server, client) in transports("ended") {
        in_a_thread(async move || {
            let (client, mut server) = pair_of(&server, &client).await;
            let (sender, _receiver) = client.split();
            let sender = sender.into_shared();
            let again = sender.clone();
            let (mut hook, calls) = Hook::new(move || drop(again.flush().now_or_never()));
            hook.bytes = sample(2_000, 0);
            sender.send(Bytes::from_owner(hook)).await.unwrap();
            // The system has it soon, before any task of this thread has seen that.
            thread::sleep(Duration::from_millis(50));
            match within(sender.close_write()).await {
                Ok(()) => {}
                Err(error) => assert!(
                    matches!(error, asyncipc::Error::ModeMismatch { .. }),
                    "{transport}: {error:?}"
                ),
            }
            let received = within(server.next()).await.unwrap().unwrap();
            assert_eq!(received, sample(2_000, 0));
            drop(sender);
            let dropped = async {
                while calls.load(Ordering::Relaxed) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            within(dropped).await;
        });
    }
}

#[test]
fn a_task_that_has_given_up_receiving_may_use_the_sender_when_it_is_forgotten() {
    in_a_thread(async || {
        let (client, _server) = pair().await;
        let (sender, mut receiver) = client.split();
        let sender = sender.into_shared();
        sender.send(sample(1 << 20, 0)).await.unwrap();
        let again = sender.clone();
        let (hook, calls) = Hook::new(move || drop(again.flush().now_or_never()));
        let waker = Waker::from(Arc::new(hook));
        // A receiver that is about to wait first writes what was sent.
        let polled = receiver.poll_next_unpin(&mut Context::from_waker(&waker));
        assert!(polled.is_pending());
        drop(waker);
        let polled = receiver.poll_next_unpin(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        drop((receiver, sender));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    });
}
