//! Calls that a filter refuses.

use asyncipc::{Error, PipeClient, PipeServer};
use futures::{SinkExt, StreamExt};

use crate::common::{place, within};
use crate::{refuse, refused_with};

#[tokio::test]
async fn a_server_accepts_and_a_connection_closes_behind_a_filter() {
    let test = "filters::a_server_accepts_and_a_connection_closes_behind_a_filter";
    let Some(error) = refused_with(test) else {
        return;
    };
    refuse(&[libc::SYS_accept4, libc::SYS_ioctl], error);
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    let mut client = within(PipeClient::connect(&path)).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    // The end does not block: a read stays pending while there is nothing.
    assert!(crate::common::stays_pending(&mut accepted.next()).await);
    client.send("hello".into()).await.unwrap();
    let closing = tokio::spawn(client.close());
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
    assert!(within(accepted.next()).await.is_none());
    within(closing).await.unwrap().unwrap();
    within(accepted.close()).await.unwrap();
}

/// The calls that accept a client. On 32-bit x86 there is one.
#[cfg(target_arch = "x86")]
const ACCEPT: [libc::c_long; 1] = [libc::SYS_accept4];

#[cfg(not(target_arch = "x86"))]
const ACCEPT: [libc::c_long; 2] = [libc::SYS_accept4, libc::SYS_accept];

#[tokio::test]
async fn a_server_that_a_filter_keeps_from_accepting_ends_with_the_error() {
    let test = "filters::a_server_that_a_filter_keeps_from_accepting_ends_with_the_error";
    let Some(error) = refused_with(test) else {
        return;
    };
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    refuse(&ACCEPT, error);
    let _client = within(PipeClient::connect(&path)).await.unwrap();
    let refused = within(server.accept()).await.unwrap_err();
    let system = std::io::Error::from_raw_os_error(error);
    assert_eq!(refused.kind(), system.kind(), "{refused}");
    let error = within(server.accept()).await.unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_is_unknown_where_a_filter_refuses_to_tell() {
    let test = "filters::a_peer_is_unknown_where_a_filter_refuses_to_tell";
    let Some(error) = refused_with(test) else {
        return;
    };
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    refuse(&[libc::SYS_getsockopt], error);
    let client = within(PipeClient::connect(&path)).await.unwrap();
    let accepted = within(server.accept()).await.unwrap();
    for peer in [client.peer().unwrap(), accepted.peer().unwrap()] {
        assert_eq!((&peer.user, peer.process_id), (&None, None));
        assert!(!peer.is_same_user());
    }
    let verifying = PipeClient::builder(&path).verify_server(true);
    let error = within(verifying.connect()).await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("does not tell"), "{error}");
}

#[tokio::test]
async fn closing_tells_whether_everything_was_read_where_a_filter_refuses_to_tell_of_errors() {
    let test = "filters::closing_tells_whether_everything_was_read_where_a_filter_refuses_to_tell_of_errors";
    let Some(error) = refused_with(test) else {
        return;
    };
    refuse(&[libc::SYS_getsockopt], error);
    let (mut client, mut accepted) = crate::common::pair().await;
    client.send("hello".into()).await.unwrap();
    let closing = tokio::spawn(client.close());
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
    assert!(within(accepted.next()).await.is_none());
    within(closing).await.unwrap().unwrap();
    within(accepted.close()).await.unwrap();

    // The peer leaves without having read.
    let (mut client, accepted) = crate::common::pair().await;
    client.send("hello".into()).await.unwrap();
    drop(accepted);
    let error = within(client.close()).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}
