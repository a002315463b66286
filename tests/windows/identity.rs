//! Who is at the other end.

use std::ptr::null_mut;
use std::time::Duration;

use asyncipc::windows::{ClientBuilderExt, Impersonation, ServerBuilderExt};
use asyncipc::{Error, PipeClient, PipeServer};
use futures::{SinkExt, StreamExt};
use windows_sys::Win32::Foundation::CloseHandle;
use windows_sys::Win32::Security::{
    ImpersonateSelf, RevertToSelf, SecurityImpersonation, TOKEN_QUERY,
};
use windows_sys::Win32::System::Threading::{GetCurrentThread, OpenThreadToken};

use crate::common::{pair_of, skipped, under_wine, unique_name, within};
use crate::{collect, ends, messages, receive};

#[tokio::test]
async fn both_ends_tell_the_same_user() {
    for message_mode in [false, true] {
        let name = unique_name("who");
        let (server, client) = (PipeServer::builder(&name), PipeClient::builder(&name));
        let (server, client) = match message_mode {
            true => (server.message_mode(), client.message_mode()),
            false => (server, client),
        };
        let mut server = server.bind().unwrap();
        let client = client.verify_server(true);
        let (client, server) = tokio::join!(client.connect(), server.accept());
        let (client, server) = (
            client.unwrap().peer().unwrap(),
            server.unwrap().peer().unwrap(),
        );
        assert!(
            client.is_same_user() && server.is_same_user(),
            "{client:?} {server:?}"
        );
        assert_eq!(client.process_id, Some(std::process::id()));
        assert_eq!(client, server);
    }
}

#[tokio::test]
async fn an_anonymous_client_cannot_be_impersonated() {
    for anonymous in [true, false] {
        let (builder, client) = messages("anonymous");
        let client = match anonymous {
            true => client.impersonation(Impersonation::Anonymous),
            false => client.impersonation(Impersonation::Identification),
        };
        let (mut client, mut accepted) = pair_of(&builder, &client).await;
        client.send("hello".into()).await.unwrap();
        assert_eq!(receive(&mut accepted).await, "hello");
        let peer = accepted.peer().unwrap();
        if anonymous && under_wine() && peer.is_same_user() {
            skipped("Wine does not keep clients anonymous");
            continue;
        }
        assert_eq!(peer.is_same_user(), !anonymous, "{peer:?}");
        assert_eq!(peer.process_id, Some(std::process::id()));
    }
}

#[tokio::test]
async fn asking_for_the_peer_leaves_the_thread_as_it_was() {
    let (builder, client) = messages("thread");
    let (mut client, mut accepted) = pair_of(&builder, &client).await;
    client.send("hello".into()).await.unwrap();
    receive(&mut accepted).await;
    for _ in 0..100 {
        assert!(accepted.peer().unwrap().is_same_user());
        // The thread has its own identity again: with only the client's identity, it could not make
        // a pipe.
        PipeServer::bind(unique_name("thread")).unwrap();
    }
}

#[tokio::test]
async fn a_server_whose_pipe_belongs_to_somebody_else_is_refused_before_anything_is_sent() {
    for message_mode in [true, false] {
        let (builder, client) = if message_mode {
            messages("not-mine")
        } else {
            ends("not-mine")
        };
        // An administrator may make the Administrators the owner. Nobody may make one other user the owner.
        let builder = builder.security_descriptor("O:BAD:P(A;;FA;;;WD)");
        let mut server = match builder.bind() {
            Ok(server) => server,
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(1307) => {
                return skipped("only an administrator can make a pipe with another owner");
            }
            Err(e) => panic!("{e}"),
        };
        let error = within(client.clone().verify_server(true).connect())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
        assert!(error.to_string().contains("S-1-5-32-544"), "{error}");
        let accepted = within(server.accept()).await.unwrap();
        assert!(collect(accepted).await.is_empty());

        let trusting = within(client.connect()).await.unwrap();
        assert!(!trusting.peer().unwrap().is_same_user());
    }
}

#[tokio::test]
async fn asking_who_the_client_is_keeps_whom_the_thread_impersonates() {
    let (server, client) = messages("impersonating");
    let (mut client, mut accepted) = pair_of(&server, &client).await;
    client.send("known".into()).await.unwrap();
    within(accepted.next()).await.unwrap().unwrap();

    let impersonates = || {
        let mut token = null_mut();
        // SAFETY: the pseudo-handle is valid; `token` is written on success, and then closed.
        unsafe {
            let found = OpenThreadToken(GetCurrentThread(), TOKEN_QUERY, 1, &mut token) != 0;
            if found {
                CloseHandle(token);
            }
            found
        }
    };
    accepted.peer().unwrap();
    assert!(!impersonates());
    // SAFETY: no preconditions; undone below.
    assert_ne!(unsafe { ImpersonateSelf(SecurityImpersonation) }, 0);
    accepted.peer().unwrap();
    let kept = impersonates();
    // SAFETY: no preconditions.
    assert_ne!(unsafe { RevertToSelf() }, 0);
    assert!(kept);
}

#[tokio::test]
async fn a_server_on_another_machine_is_asked_until_the_deadline_and_not_on_the_runtimes_thread() {
    // An address that nobody has (RFC 5737).
    let client = PipeClient::builder(r"\\192.0.2.1\pipe\nobody");
    let client = client.timeout(Duration::from_millis(50));
    let error = within(client.connect()).await.unwrap_err();
    assert!(error.to_string().contains("192.0.2.1"), "{error}");
}
