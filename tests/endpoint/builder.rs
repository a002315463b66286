//! Names, how an endpoint listens, its shutdown handle, and the kinds of its errors.

use std::io::ErrorKind;
use std::pin::pin;

use asyncipc::endpoint::{EndpointError, Event};
use asyncipc::{Endpoint, Error, PipeClient, PipeName};
use futures::StreamExt;
use serde_json::json;

use super::{Raw, SOON, bind, error, event, message, patient};
use crate::common::{HOLDS, PATIENCE, stays_pending, under_wine, unique_name, within};

#[tokio::test]
async fn a_name_can_be_a_text_or_a_pipe_name_and_a_bad_one_is_reported_when_binding() {
    let name = unique_name("names");
    let pipe = PipeName::new(&name).unwrap();
    for builder in [
        Endpoint::builder(&pipe),
        Endpoint::builder(pipe.clone()),
        Endpoint::builder(pipe.to_string()),
    ] {
        let endpoint = bind(builder).await;
        assert_eq!(endpoint.pipe().as_path(), pipe.as_path());
        assert_eq!(endpoint.name(), pipe.to_string());
    }
    let mut endpoint = bind(Endpoint::builder(name.as_str())).await;
    assert_eq!((endpoint.pipe(), endpoint.name()), (&pipe, name.as_str()));
    // The full path of its pipe reaches it as well.
    let handle = endpoint.handle();
    handle.send(&pipe.to_string(), "hello", ()).await.unwrap();
    assert_eq!(message(&mut endpoint).await.from, name);
    for bad in ["", "a/b"] {
        let error = Endpoint::builder(bad).queue(1).bind().unwrap_err();
        assert!(matches!(error, Error::InvalidName(_)), "{error}");
    }
}

#[tokio::test]
async fn a_builder_can_bind_again_with_the_same_handlers() {
    let name = unique_name("again");
    let builder = patient(&name).on("ping", async |_| Ok("pong"));
    for _ in 0..2 {
        let endpoint = bind(builder.clone()).await;
        let pong = within(endpoint.handle().request(&name, "ping", ())).await;
        assert_eq!(pong.unwrap(), "pong");
        if !under_wine() {
            let taken = builder.bind().unwrap_err();
            assert!(matches!(taken, Error::AddressInUse { .. }), "{taken}");
        }
    }
}

#[tokio::test]
async fn no_more_programs_are_connected_than_may_be() {
    let name = unique_name("crowd");
    let mut endpoint = bind(patient(&name).max_connections(1).backlog(1)).await;
    let mut first = Raw::connect(&name).await;
    first.says(json!({"action": "first", "from": "raw"})).await;
    assert_eq!(message(&mut endpoint).await.action, "first");
    // On Windows the second one waits for the pipe. Elsewhere the system connects it, and it waits to be accepted.
    let mut second = pin!(async {
        let mut second = Raw(PipeClient::connect(&name).await.unwrap());
        second
            .says(json!({"action": "second", "from": "raw"}))
            .await;
        second
    });
    let is_connected = !stays_pending(&mut second).await;
    assert_eq!(is_connected, cfg!(unix));
    if !is_connected {
        drop(first);
        within(second).await;
    } else {
        assert!(stays_pending(&mut endpoint.next()).await);
        drop(first);
    }
    assert_eq!(message(&mut endpoint).await.action, "second");
}

#[tokio::test]
async fn a_connection_that_ends_lingers_for_as_long_as_the_builder_says() {
    let [a, b] = ["a", "b"].map(|it| unique_name(&format!("linger-{it}")));
    let mut server = asyncipc::PipeServer::bind(&b).unwrap();
    let mut endpoint = bind(patient(&a).linger(SOON)).await;
    // The pipe holds it. It is more than tokio reads ahead on Windows.
    let data = "x".repeat(HOLDS - 1000);
    endpoint.handle().send(&b, "hello", data).await.unwrap();
    // The server does not read what it was sent.
    let connected = within(server.accept()).await.unwrap();
    assert!(stays_pending(&mut endpoint.next()).await);
    endpoint.handle().shutdown();
    let error = error(&mut endpoint).await;
    let EndpointError::Pipe(Error::TimedOut { waited, .. }) = error else {
        panic!("{error:?}");
    };
    assert!((SOON..PATIENCE).contains(&waited), "{waited:?}");
    assert!(matches!(event(&mut endpoint).await, Event::Closed));
    drop(connected);
}

#[cfg(unix)]
#[tokio::test]
async fn the_socket_of_an_endpoint_has_the_mode_that_the_builder_says() {
    use std::os::unix::fs::MetadataExt;

    use asyncipc::unix::ServerBuilderExt;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mode.sock");
    for mode in [0o640, 0o666] {
        let builder = Endpoint::builder(path.to_str().unwrap());
        let endpoint = bind(builder.configure_server(|it| it.mode(mode))).await;
        let found = std::fs::metadata(endpoint.pipe().as_path()).unwrap().mode();
        assert_eq!(found & 0o777, mode, "{found:o}");
    }
}

#[cfg(windows)]
#[tokio::test]
async fn the_pipe_of_an_endpoint_has_the_security_descriptor_that_the_builder_says() {
    use asyncipc::windows::ServerBuilderExt;

    let name = unique_name("descriptor");
    let with = |sddl: &str| patient(&name).configure_server(|it| it.security_descriptor(sddl));
    let error = with("nonsense").bind().unwrap_err();
    let Error::InvalidOption { option, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(option, "security_descriptor");
    let mut endpoint = bind(with("D:P(A;;FA;;;WD)")).await;
    let mut client = Raw::connect(&name).await;
    client.says(json!({"action": "hello", "from": "raw"})).await;
    assert_eq!(message(&mut endpoint).await.action, "hello");
}

#[tokio::test]
async fn an_error_keeps_its_kind_as_an_error_of_the_standard_library() {
    let [a, nobody] = ["a", "nobody"].map(|it| unique_name(&format!("kinds-{it}")));
    let endpoint = bind(patient(&a).queue(1)).await;
    let handle = endpoint.handle();
    let full = loop {
        if let Err(error) = handle.try_send(&nobody, "count", ()) {
            break error;
        }
    };
    let late = handle.request_within(SOON, &nobody, "count", ()).await;
    let bad = handle.send("a/b", "count", ()).await;
    let refused = handle.request(&a, "absent", ()).await;
    for (error, kind) in [
        (full, ErrorKind::WouldBlock),
        (late.unwrap_err(), ErrorKind::TimedOut),
        (bad.unwrap_err(), ErrorKind::InvalidInput),
        (refused.unwrap_err(), ErrorKind::Other),
    ] {
        assert_eq!(error.kind(), kind, "{error}");
        let text = error.to_string();
        let error = std::io::Error::from(error);
        assert_eq!((error.kind(), error.to_string()), (kind, text));
        let source = error.into_inner().unwrap();
        assert_eq!(source.downcast::<EndpointError>().unwrap().kind(), kind);
    }
}

#[tokio::test]
async fn a_shutdown_handle_shuts_the_endpoint_down_and_tells_so() {
    let name = unique_name("stop");
    let mut endpoint = bind(patient(&name)).await;
    let stop = endpoint.shutdown_handle();
    let mut requested = pin!(stop.requested());
    assert!(stays_pending(&mut requested).await);
    assert!(!stop.is_shut_down());
    endpoint.handle().shutdown_handle().shutdown();
    assert!(stop.is_shut_down());
    within(requested).await;
    // Nothing is taken for sending from that moment on.
    let error = endpoint.handle().try_send(&name, "late", ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotConnected);
    assert!(matches!(event(&mut endpoint).await, Event::Closed));
}
