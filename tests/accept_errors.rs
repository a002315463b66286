//! Errors of accepting: those that pass are survived, all others end the server and are told.

mod common;

use std::future::Future;
use std::time::Duration;

use asyncipc::{Error, PipeClient, PipeListener, PipeServer};
use common::{echo, stays_pending, unique_name, within};
use futures::stream::FusedStream;
use futures::{FutureExt, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

/// Makes something in a runtime that ends before it is handed out.
fn outlived<T>(make: impl AsyncFnOnce() -> T) -> T {
    runtime().block_on(make())
}

/// In another runtime.
fn elsewhere<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(within(future))
}

/// The same, where a task that was spawned is polled as soon as the others wait.
fn of_one_thread<T>(future: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(within(future))
}

#[track_caller]
fn is_for_good(error: &Error, name: &str) {
    assert!(
        matches!(error, Error::Io { .. }) && error.to_string().contains(name),
        "{error:?}"
    );
}

#[track_caller]
fn is_shut_down<T: std::fmt::Debug>(result: Result<T, Error>) {
    assert!(matches!(result, Err(Error::ShutDown { .. })), "{result:?}");
}

async fn is_missing(name: &str) {
    let error = within(PipeClient::connect(name)).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[test]
fn a_server_whose_runtime_has_ended_says_so_and_is_shut_down() {
    let name = unique_name("ended");
    let mut server = outlived(async || PipeServer::bind(&name).unwrap());
    let stop = server.shutdown_handle();
    elsewhere(async {
        assert!(!stop.is_shut_down());
        is_for_good(&server.accept().await.unwrap_err(), &name);
        assert!(stop.is_shut_down());
        within(stop.requested()).await;
        for _ in 0..2 {
            is_shut_down(server.accept().await);
        }
        is_missing(&name).await;
    });
}

#[test]
fn a_server_that_has_accepted_and_whose_runtime_has_ended_says_so() {
    let name = unique_name("ended-used");
    let (mut server, _conn) = outlived(async || {
        let mut server = PipeServer::bind(&name).unwrap();
        let client = within(PipeClient::connect(&name)).await.unwrap();
        let accepted = within(server.accept()).await.unwrap();
        assert!(server.accept().now_or_never().is_none());
        (server, (client, accepted))
    });
    elsewhere(async { is_for_good(&server.accept().await.unwrap_err(), &name) });
}

#[test]
fn a_server_at_its_limit_whose_runtime_has_ended_says_so() {
    let name = unique_name("ended-full");
    let (mut server, _conn) = outlived(async || {
        let builder = PipeServer::builder(&name).max_connections(1);
        let mut server = builder.bind().unwrap();
        let client = within(PipeClient::connect(&name)).await.unwrap();
        let accepted = within(server.accept()).await.unwrap();
        assert!(server.accept().now_or_never().is_none());
        (server, (client, accepted))
    });
    elsewhere(async { is_for_good(&server.accept().await.unwrap_err(), &name) });
}

/// Whoever waits in another runtime for a client of this server.
fn is_told_elsewhere_when_it_ends(own: Runtime, mut server: PipeServer, name: &str) {
    of_one_thread(async {
        let mut accepting = tokio::spawn(async move { server.accept().await.map(drop) });
        assert!(stays_pending(&mut accepting).await);
        // Which alone has to wake it.
        own.shutdown_background();
        is_for_good(&accepting.await.unwrap().unwrap_err(), name);
    });
}

#[test]
fn a_server_that_waits_elsewhere_is_told_when_its_runtime_ends() {
    let name = unique_name("ends");
    let own = runtime();
    let server = own.block_on(async { PipeServer::bind(&name).unwrap() });
    is_told_elsewhere_when_it_ends(own, server, &name);
}

#[test]
fn a_server_at_its_limit_that_waits_elsewhere_is_told_when_its_runtime_ends() {
    let name = unique_name("ends-full");
    let own = runtime();
    let (server, _conns) = own.block_on(async {
        let builder = PipeServer::builder(&name).max_connections(1);
        let mut server = builder.bind().unwrap();
        let client = within(PipeClient::connect(&name)).await.unwrap();
        // Waits for its turn where the system connects it.
        let next = PipeClient::builder(&name).timeout(Duration::ZERO);
        let next = within(next.connect()).await;
        let accepted = within(server.accept()).await.unwrap();
        (server, (client, next, accepted))
    });
    is_told_elsewhere_when_it_ends(own, server, &name);
}

#[test]
fn the_stream_of_connections_ends_behind_the_error() {
    let name = unique_name("ended-stream");
    let mut server = outlived(async || PipeServer::bind(&name).unwrap());
    elsewhere(async {
        assert!(!server.is_terminated());
        is_for_good(&server.next().await.unwrap().unwrap_err(), &name);
        assert!(server.is_terminated());
        assert!(server.next().await.is_none());
    });
}

#[test]
fn a_listener_whose_runtime_has_ended_says_so() {
    let name = unique_name("ended-bytes");
    let mut listener = outlived(async || PipeListener::bind(&name).unwrap());
    elsewhere(async {
        is_for_good(&listener.accept().await.unwrap_err(), &name);
        is_shut_down(listener.accept().await);
        is_missing(&name).await;
    });
}

#[test]
fn a_handler_loop_whose_runtime_has_ended_says_so() {
    let name = unique_name("ended-serve");
    let server = outlived(async || PipeServer::bind(&name).unwrap());
    elsewhere(async { is_for_good(&server.serve(echo).await.unwrap_err(), &name) });
}

#[test]
fn handlers_finish_before_a_server_ends_with_an_error() {
    let name = unique_name("drained");
    let own = runtime();
    let server = own.block_on(async { PipeServer::bind(&name).unwrap() });
    let stop = server.shutdown_handle();
    elsewhere(async {
        let (begun, begins) = oneshot::channel();
        let (finished, finishes) = oneshot::channel();
        let once = std::sync::Mutex::new(Some((begun, finished)));
        let serving = server.serve(move |_conn| {
            let (begun, finished) = once.lock().unwrap().take().unwrap();
            let stop = stop.clone();
            async move {
                begun.send(()).unwrap();
                stop.requested().await;
                finished.send(()).unwrap();
                Ok(())
            }
        });
        let serving = tokio::spawn(serving);
        let _client = PipeClient::connect(&name).await.unwrap();
        begins.await.unwrap();
        own.shutdown_background();
        is_for_good(&serving.await.unwrap().unwrap_err(), &name);
        finishes.await.unwrap();
    });
}

#[test]
fn a_hub_of_a_server_whose_runtime_has_ended_ends() {
    let name = unique_name("ended-hub");
    let server = outlived(async || PipeServer::bind(&name).unwrap());
    elsewhere(async {
        let mut hub = server.into_hub();
        let clients = hub.handle();
        while hub.next().await.is_some() {}
        is_shut_down(clients.send(1.into(), "too late".into()).await);
        is_missing(&name).await;
    });
}

#[test]
fn a_hub_whose_runtime_has_ended_ends() {
    let name = unique_name("ended-hubs");
    let (mut hub, _client, id) = outlived(async || {
        let mut hub = PipeServer::bind(&name).unwrap().into_hub();
        let client = within(PipeClient::connect(&name)).await.unwrap();
        let id = loop {
            if let Some(asyncipc::hub::Event::Connected { id, .. }) = within(hub.next()).await {
                break id;
            }
        };
        (hub, client, id)
    });
    let clients = hub.handle();
    elsewhere(async {
        is_shut_down(clients.send(id, "too late".into()).await);
        is_shut_down(clients.broadcast("too late".into()));
        while hub.next().await.is_some() {}
    });
}

#[test]
fn a_clients_hub_whose_runtime_has_ended_ends() {
    let (mut hub, _accepted) = outlived(async || {
        let (client, accepted) = common::pair().await;
        (client.into_hub(), accepted)
    });
    let server = hub.handle();
    elsewhere(async {
        while hub.next().await.is_some() {}
        is_shut_down(server.send(1.into(), "too late".into()).await);
    });
}

#[cfg(feature = "endpoint")]
#[test]
fn an_endpoint_whose_runtime_has_ended_ends() {
    use asyncipc::Endpoint;
    use asyncipc::endpoint::EndpointError;
    let name = unique_name("ended-endpoint");
    let mut endpoint = outlived(async || Endpoint::bind(&name).unwrap());
    let handle = endpoint.handle();
    elsewhere(async {
        let to = unique_name("nobody");
        for error in [
            handle.send(&to, "hello", ()).await.unwrap_err(),
            handle.request(&to, "hello", ()).await.unwrap_err(),
        ] {
            assert!(
                matches!(error, EndpointError::Pipe(Error::ShutDown { .. })),
                "{error:?}"
            );
        }
        while endpoint.next().await.is_some() {}
        assert!(endpoint.is_terminated());
    });
}

#[test]
fn connecting_in_a_runtime_that_has_ended_is_an_error() {
    let name = unique_name("ended-client");
    let ended = {
        let runtime = runtime();
        runtime.handle().clone()
    };
    let own = runtime();
    let _server = own.block_on(async { PipeServer::bind(&name).unwrap() });
    let _entered = ended.enter();
    let connected = PipeClient::connect(&name).now_or_never();
    let error = connected.expect("it waits").unwrap_err();
    is_for_good(&error, &name);
}

#[test]
fn binding_in_a_runtime_that_has_ended_is_an_error_or_accepting_is() {
    let name = unique_name("ended-bind");
    let ended = {
        let runtime = runtime();
        runtime.handle().clone()
    };
    let bound = {
        let _entered = ended.enter();
        PipeServer::bind(&name)
    };
    match bound {
        Err(error) => is_for_good(&error, &name),
        Ok(mut server) => {
            elsewhere(async { is_for_good(&server.accept().await.unwrap_err(), &name) });
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::mem::ManuallyDrop;
    use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use rustix::io::dup2;
    use rustix::net::{SocketAddrUnix, getsockname, sockopt};
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::common::{itself, role, run_as};
    use super::*;

    /// Puts something that is no socket in the place of the one that listens on `path`, and has a
    /// client come: accept(2) says ENOTSOCK. What was there is kept open, or no event would come.
    fn ruin(path: &Path) -> (OwnedFd, UnixStream) {
        let address = SocketAddrUnix::new(path).unwrap();
        for number in 3..1024 {
            // SAFETY: if nobody has such a descriptor, or somebody closes it at this moment, the calls
            // below say EBADF or are about another one, which does not listen on this path.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            let is_it = getsockname(fd).is_ok_and(|it| it == address.clone().into());
            if is_it && sockopt::socket_acceptconn(fd) == Ok(true) {
                let kept = fd.try_clone_to_owned().unwrap();
                let other = std::fs::File::open("/").unwrap();
                // SAFETY: it stays the server's: this does not close it.
                let mut fd = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
                dup2(other, &mut fd).unwrap();
                return (kept, UnixStream::connect(path).unwrap());
            }
        }
        panic!("nobody listens on {}", path.display());
    }

    #[tokio::test]
    async fn an_error_that_cannot_pass_ends_the_server() {
        let name = unique_name("ruined");
        let mut server = PipeServer::bind(&name).unwrap();
        assert!(server.accept().now_or_never().is_none());
        let _kept = ruin(server.name().as_path());
        let error = within(server.accept()).await.unwrap_err();
        is_for_good(&error, &name);
        let number = match &error {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        };
        assert_eq!(number, Some(88), "ENOTSOCK");
        is_shut_down(server.accept().await);
        is_missing(&name).await;
    }

    #[tokio::test]
    async fn a_hub_whose_server_can_accept_nobody_says_farewell_to_its_clients() {
        let name = unique_name("ruined-hub");
        let server = PipeServer::bind(&name).unwrap();
        let path = server.name().as_path().to_owned();
        let mut hub = server.into_hub();
        let mut client = within(PipeClient::connect(&name)).await.unwrap();
        while !matches!(
            within(hub.next()).await,
            Some(asyncipc::hub::Event::Connected { .. })
        ) {}
        let _kept = ruin(&path);
        let mut left = 0;
        while let Some(event) = within(hub.next()).await {
            left += usize::from(matches!(event, asyncipc::hub::Event::Disconnected { .. }));
        }
        assert_eq!(left, 1);
        assert!(within(client.next()).await.is_none());
    }

    #[cfg(feature = "endpoint")]
    #[tokio::test]
    async fn an_endpoint_that_can_accept_nobody_says_so_and_closes() {
        use asyncipc::Endpoint;
        use asyncipc::endpoint::{self, EndpointError};
        let mut endpoint = Endpoint::bind(unique_name("ruined-endpoint")).unwrap();
        let event = within(endpoint.next()).await;
        assert!(matches!(event, Some(endpoint::Event::Ready)), "{event:?}");
        let _kept = ruin(endpoint.pipe().as_path());
        let event = within(endpoint.next()).await;
        let Some(endpoint::Event::Error(EndpointError::Pipe(error))) = event else {
            panic!("{event:?}");
        };
        is_for_good(&error, endpoint.name());
        let event = within(endpoint.next()).await;
        assert!(matches!(event, Some(endpoint::Event::Closed)), "{event:?}");
        let handle = endpoint.handle();
        assert!(handle.send("nobody", "hello", ()).await.is_err());
    }

    /// In a process of its own, whose descriptors are used up.
    #[test]
    fn a_pause_after_an_error_ends_although_nobody_drives_the_runtime_that_polled() {
        if role().is_none() {
            let test =
                "linux::a_pause_after_an_error_ends_although_nobody_drives_the_runtime_that_polled";
            run_as("alone", &mut itself(test));
            return;
        }
        let name = unique_name("pause");
        let own = runtime();
        let mut server = own.block_on(async { PipeServer::bind(&name).unwrap() });
        // Nobody drives the first one when the second one polls.
        let first = Builder::new_current_thread().enable_all().build().unwrap();
        let second = runtime();
        let _client = own.block_on(PipeClient::connect(&name)).unwrap();
        let limit = getrlimit(Resource::Nofile);
        let none_left = Rlimit {
            current: Some(0),
            ..limit
        };
        setrlimit(Resource::Nofile, none_left).unwrap();
        let error = std::fs::File::open("/").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(24), "EMFILE: {error}");
        let (log, _guard) = common::Log::begin();
        first.block_on(within(async {
            while !log.text().contains("cannot accept a client yet") {
                assert!(stays_pending(&mut Box::pin(server.accept())).await);
            }
        }));
        setrlimit(Resource::Nofile, limit).unwrap();
        second.block_on(within(server.accept())).unwrap();
        drop(first);
    }
}
