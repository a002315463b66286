//! Who is at the other end, and whether it is who it should be.

mod common;

use asyncipc::{Error, Peer, PipeClient, PipeConnection, PipeServer, UserId};
use common::{byte_pair, pair, pair_of, unique_name, within};
use futures::{SinkExt, StreamExt};

/// The user's own processes, on this machine, in this session.
#[track_caller]
fn is_this_process(peer: &Peer) {
    assert!(peer.is_same_user(), "{peer:?}");
    assert_eq!(peer.process_id, Some(std::process::id()));
    assert_eq!(peer.session_id.is_some(), cfg!(windows), "{peer:?}");
    let user = peer.user.as_ref().unwrap();
    assert_eq!(user.to_string(), user.as_str());
    if cfg!(windows) {
        assert!(user.as_str().starts_with("S-1-5-"), "{user}");
    } else {
        user.as_str().parse::<u32>().unwrap();
    }
}

#[tokio::test]
async fn both_ends_of_a_connection_are_told_the_same_user() {
    let (mut client, mut server) = pair().await;
    let before = [client.peer().unwrap(), server.peer().unwrap()];
    before.iter().for_each(is_this_process);
    assert_eq!(before[0], before[1]);

    // Once something was said, the answer is the same.
    for _ in 0..2 {
        client.send("hello".into()).await.unwrap();
        assert_eq!(within(server.next()).await.unwrap().unwrap(), "hello");
        std::mem::swap(&mut client, &mut server);
    }
    assert_eq!(before, [client.peer().unwrap(), server.peer().unwrap()]);
}

#[tokio::test]
async fn both_ends_of_a_stream_of_bytes_are_told_the_same_user() {
    let (client, server) = byte_pair().await;
    is_this_process(&client.peer().unwrap());
    assert_eq!(client.peer().unwrap(), server.peer().unwrap());
}

#[tokio::test]
async fn a_handler_is_told_who_its_client_is() {
    let name = unique_name("handler");
    let server = PipeServer::bind(&name).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(async move {
        let handler = move |conn: PipeConnection| {
            let peer = conn.peer();
            tell.send(peer).unwrap();
            std::future::ready(Ok(()))
        };
        server.serve(handler).await
    });
    let _client = within(PipeClient::connect(&name)).await.unwrap();
    is_this_process(&within(told.recv()).await.unwrap().unwrap());
    serving.abort();
}

#[tokio::test]
async fn a_server_of_the_same_user_passes_verification() {
    let name = unique_name("verified");
    let client = PipeClient::builder(&name).verify_server(true);
    let (mut client, mut server) = pair_of(&PipeServer::builder(&name), &client).await;
    client.send("trusted".into()).await.unwrap();
    assert_eq!(within(server.next()).await.unwrap().unwrap(), "trusted");

    let mut server = PipeServer::bind(&name).unwrap();
    let client = PipeClient::builder(&name).verify_server(true);
    let (client, accepted) =
        within(async { tokio::join!(client.connect_bytes(), server.accept()) }).await;
    is_this_process(&client.unwrap().peer().unwrap());
    is_this_process(&accepted.unwrap().peer().unwrap());
}

#[tokio::test]
async fn verifying_a_server_that_is_missing_is_not_found() {
    let client = PipeClient::builder(unique_name("missing")).verify_server(true);
    let error = within(client.connect()).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_has_left_is_still_known_or_said_to_have_left() {
    let (client, server) = pair().await;
    let peer = client.peer().unwrap();
    drop(server);
    match client.peer() {
        Ok(it) => assert_eq!(it.process_id, peer.process_id),
        Err(e) => assert!(matches!(e, Error::Closed { .. }), "{e:?}"),
    }
    let (client, server) = pair().await;
    drop(client);
    match server.peer() {
        Ok(it) => assert_eq!(it.process_id, peer.process_id),
        Err(e) => assert!(matches!(e, Error::Closed { .. }), "{e:?}"),
    }
}

/// Only the superuser can be somebody else, in a process of its own.
#[cfg(unix)]
mod another_user {
    use std::fs::{Permissions, set_permissions};
    use std::io::{ErrorKind, Read, Write};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use asyncipc::{Access, Error, PipeClient, PipeServer};
    use futures::{SinkExt, StreamExt};

    use crate::common::{itself, role, skipped, within};

    const STRANGER: u32 = 12345;

    /// A folder that everybody can enter and write to, if this is the superuser.
    fn open_folder() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        if folder.path().metadata().unwrap().uid() != 0 {
            skipped("only the superuser can start a process as somebody else");
            return None;
        }
        set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        Some(folder)
    }

    /// Runs this test as somebody else, who may not be able to enter the folder of this program.
    fn stranger(test: &str, folder: &Path) -> Child {
        let program = folder.join("program");
        std::fs::copy(itself(test).get_program(), &program).unwrap();
        let mut command = Command::new(program);
        command
            .args(itself(test).get_args())
            .env("ASYNCIPC_TEST_ROLE", folder)
            .current_dir(folder)
            .uid(STRANGER)
            .gid(STRANGER)
            .stdout(Stdio::null());
        loop {
            match command.spawn() {
                // A process that another test has just started still has the copy open, for as
                // long as it takes to become another program.
                Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                spawned => return spawned.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_server_of_another_user_is_refused_before_anything_is_sent() {
        let test = "another_user::a_server_of_another_user_is_refused_before_anything_is_sent";
        if let Some(folder) = role() {
            let path = Path::new(&folder).join("it.sock");
            let listener = UnixListener::bind(&path).unwrap();
            set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
            std::fs::write(path.with_file_name("ready"), "").unwrap();
            let mut said = vec![];
            let (mut refusing, _) = listener.accept().unwrap();
            refusing.read_to_end(&mut said).unwrap();
            assert_eq!(said, b"");
            let (mut trusting, _) = listener.accept().unwrap();
            trusting.write_all(b"\0\0\0\x02hi").unwrap();
            return;
        }
        let Some(folder) = open_folder() else { return };
        let mut child = stranger(test, folder.path());
        let client = PipeClient::builder(folder.path().join("it.sock"));
        // It listens a moment before everybody may connect.
        let ready = folder.path().join("ready");
        within(async {
            while !ready.exists() {
                assert!(child.try_wait().unwrap().is_none(), "it has not come up");
                tokio::task::yield_now().await;
            }
        })
        .await;
        let error = within(client.clone().verify_server(true).connect())
            .await
            .unwrap_err();
        assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
        assert!(error.to_string().contains("user 12345"), "{error}");

        let mut trusting = within(client.connect()).await.unwrap();
        let peer = trusting.peer().unwrap();
        assert!(!peer.is_same_user());
        assert_eq!(peer.user.unwrap().as_str(), STRANGER.to_string());
        assert_eq!(peer.process_id, Some(child.id()));
        assert_eq!(within(trusting.next()).await.unwrap().unwrap(), "hi");
        assert!(child.wait().unwrap().success());
    }

    #[tokio::test]
    async fn a_client_of_another_user_is_told_from_ones_own() {
        let test = "another_user::a_client_of_another_user_is_told_from_ones_own";
        if let Some(folder) = role() {
            let path = Path::new(&folder).join("it.sock");
            let mut client = UnixStream::connect(path).unwrap();
            client.write_all(b"\0\0\0\x02hi").unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
            return;
        }
        let Some(folder) = open_folder() else { return };
        let path = folder.path().join("it.sock");
        let builder = PipeServer::builder(&path).access(Access::Everyone);
        let mut server = builder.bind().unwrap();
        let mut child = stranger(test, folder.path());
        let mut accepted = within(server.accept()).await.unwrap();
        let peer = accepted.peer().unwrap();
        assert!(!peer.is_same_user());
        assert_eq!(peer.user.unwrap().as_str(), STRANGER.to_string());
        assert_eq!(peer.process_id, Some(child.id()));
        assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hi");
        accepted.flush().await.unwrap();
        drop(accepted);
        assert!(child.wait().unwrap().success());
    }
}

#[tokio::test]
async fn the_text_of_a_user_can_be_read_again() {
    let (client, _server) = pair().await;
    let user = client.peer().unwrap().user.unwrap();
    assert_eq!(user.to_string().parse(), Ok(user));

    // As the system would write it.
    let (given, written) = match cfg!(windows) {
        true => ("S-1-5-18", "S-1-5-18"),
        false => ("007", "7"),
    };
    assert_eq!(given.parse::<UserId>().unwrap().as_str(), written);
}

#[test]
fn a_text_that_is_no_users_is_refused() {
    let foreign = if cfg!(windows) { "0" } else { "S-1-5-18" };
    let texts = [
        "",
        "nobody",
        "BA",
        "-1",
        "+5",
        " 5",
        "5 ",
        "4294967295",
        "S-1-5-x",
        "S-1-5-18\0",
    ];
    for text in texts.into_iter().chain([foreign]) {
        let refused = text.parse::<UserId>().unwrap_err();
        assert_eq!(refused.id(), text);
        assert!(!refused.rule().is_empty());
        let message = refused.to_string();
        assert!(
            message.starts_with(&format!("invalid user {text:?}: ")),
            "{message}"
        );
    }
}

#[test]
fn users_can_be_put_in_order() {
    let texts = match cfg!(windows) {
        true => ["S-1-5-18", "S-1-5-19"],
        false => ["0", "1000"],
    };
    let [first, second] = texts.map(|it| it.parse::<UserId>().unwrap());
    let sorted = std::collections::BTreeSet::from([second.clone(), first.clone()]);
    assert_eq!(Vec::from_iter(sorted), [first, second]);
}
