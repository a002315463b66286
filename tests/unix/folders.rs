//! The private folder for the sockets of logical names.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use asyncipc::{Error, PipeClient, PipeName, PipeServer};
use futures::FutureExt;

use crate::common::{mode, place, role};
use crate::{again_below, give_away, leave_stale, meet, user};

#[tokio::test]
async fn the_private_folder_is_in_the_runtime_folder_and_the_owners_alone() {
    let test = "folders::the_private_folder_is_in_the_runtime_folder_and_the_owners_alone";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), Some(folder.path()));
    };
    let folder = Path::new(&role).join("asyncipc");
    // Neither a name nor a client creates anything.
    let name = PipeName::new("it").unwrap();
    assert_eq!(name.as_path(), folder.join("it.sock"));
    let error = PipeClient::connect(&name).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    assert!(!folder.exists());

    let mut server = PipeServer::bind("it").unwrap();
    assert_eq!(mode(&folder), 0o700);
    assert_eq!(mode(folder.join("it.sock")), 0o600);
    meet(&mut server).await;
    drop(server);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[tokio::test]
async fn without_a_runtime_folder_the_private_folder_is_in_the_temporary_one() {
    let test = "folders::without_a_runtime_folder_the_private_folder_is_in_the_temporary_one";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        let runtimes = [
            None,
            Some(PathBuf::new()),
            Some("relative".into()),
            Some(folder.path().join("missing")),
        ];
        for runtime in runtimes {
            again_below(test, folder.path(), runtime.as_deref());
        }
        return;
    };
    let folder = Path::new(&role).join(format!("asyncipc-{}", user()));
    let mut server = PipeServer::bind("it").unwrap();
    assert_eq!(server.name().as_path(), folder.join("it.sock"));
    assert_eq!(mode(&folder), 0o700);
    meet(&mut server).await;
}

#[tokio::test]
async fn a_runtime_folder_of_another_user_is_not_used() {
    let test = "folders::a_runtime_folder_of_another_user_is_not_used";
    let Some(role) = role() else {
        let (temporary, runtime) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        if !give_away(runtime.path()) {
            return;
        }
        return again_below(test, temporary.path(), Some(runtime.path()));
    };
    let name = PipeName::new("it").unwrap();
    assert!(name.as_path().starts_with(&role), "{name}");
}

#[tokio::test]
async fn a_private_folder_that_is_too_open_is_closed() {
    let test = "folders::a_private_folder_that_is_too_open_is_closed";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), Some(folder.path()));
    };
    let folder = Path::new(&role).join("asyncipc");
    DirBuilder::new().create(&folder).unwrap();
    for open in [0o777, 0o755, 0o710, 0o701] {
        fs::set_permissions(&folder, Permissions::from_mode(open)).unwrap();
        let mut server = PipeServer::bind("it").unwrap();
        assert_eq!(mode(&folder), 0o700);
        meet(&mut server).await;
    }
}

#[tokio::test]
async fn a_private_folder_of_another_user_is_refused_by_both_ends() {
    let test = "folders::a_private_folder_of_another_user_is_refused_by_both_ends";
    let Some(role) = role() else {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join(format!("asyncipc-{}", user()));
        DirBuilder::new().mode(0o777).create(&folder).unwrap();
        if !give_away(&folder) {
            return;
        }
        let _foreign = UnixListener::bind(folder.join("it.sock")).unwrap();
        return again_below(test, temporary.path(), None);
    };
    let inside = Path::new(&role).join(format!("asyncipc-{}", user()));
    for error in [
        PipeServer::bind("it").unwrap_err(),
        PipeServer::bind("another").unwrap_err(),
        PipeClient::connect("it").await.unwrap_err(),
        PipeClient::builder("it")
            .wait_for_server(true)
            .connect()
            .now_or_never()
            .unwrap()
            .unwrap_err(),
    ] {
        assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains(inside.to_str().unwrap()) && text.contains("belongs to user 12345"),
            "{text}"
        );
    }
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
    assert_eq!(fs::metadata(&inside).unwrap().uid(), 12345);
}

#[tokio::test]
async fn an_error_of_the_private_folder_says_what_was_to_be_done_and_names_the_folder() {
    let test =
        "folders::an_error_of_the_private_folder_says_what_was_to_be_done_and_names_the_folder";
    let Some(role) = role() else {
        let temporary = tempfile::tempdir().unwrap();
        let missing = temporary.path().join("missing");
        return again_below(test, &missing, None);
    };
    let folder = Path::new(&role).join(format!("asyncipc-{}", user()));
    let make = format!("cannot make the folder {}", folder.display());
    let error = PipeServer::bind("it").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("cannot listen on") && text.contains(&make),
        "{text}"
    );

    // A file is in the folder's place.
    fs::create_dir(&role).unwrap();
    fs::write(&folder, "").unwrap();
    for (error, what) in [
        (PipeServer::bind("it").unwrap_err(), "cannot listen on"),
        (
            PipeClient::connect("it").await.unwrap_err(),
            "cannot connect to",
        ),
    ] {
        assert!(
            matches!(&error, Error::AccessDenied { action, .. } if *action == what),
            "{error:?}"
        );
        let text = error.to_string();
        let whole = format!(
            "{what} {}/it.sock: access denied: {0} is a link",
            folder.display()
        );
        assert!(text.starts_with(&whole), "{text}");
    }
}

#[tokio::test]
async fn a_missing_server_is_looked_for_where_other_variables_lead_to() {
    let test = "folders::a_missing_server_is_looked_for_where_other_variables_lead_to";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), Some(folder.path()));
    };
    let missing = |error: &Error| match error {
        Error::NotFound { elsewhere, .. } => elsewhere.clone(),
        _ => panic!("{error:?}"),
    };
    // Binds as a process without the variable would.
    let other = Path::new(&role).join(format!("asyncipc-{}", user()));
    DirBuilder::new().mode(0o700).create(&other).unwrap();
    let path = other.join("it.sock");
    let mut server = PipeServer::bind(&path).unwrap();
    let builder = PipeClient::builder("it");
    for builder in [builder.clone(), builder.wait_for_server(true).no_wait()] {
        let error = builder.connect().now_or_never().unwrap().unwrap_err();
        assert_eq!(missing(&error), Some(path.clone()));
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
    }
    // The server goes on. The error for another name does not mention it.
    meet(&mut server).await;
    let error = PipeClient::connect("other").await.unwrap_err();
    assert_eq!(missing(&error), None);

    // The error mentions no dead server, and none in a folder that somebody else can write to.
    drop(server);
    leave_stale(&path);
    let error = PipeClient::connect("it").await.unwrap_err();
    assert_eq!(missing(&error), None);
    let _server = PipeServer::bind(&path).unwrap();
    fs::set_permissions(&other, Permissions::from_mode(0o777)).unwrap();
    let error = PipeClient::connect("it").await.unwrap_err();
    assert_eq!(missing(&error), None);
}

#[cfg(feature = "endpoint")]
#[tokio::test]
async fn an_endpoint_looks_once_where_other_variables_lead_to_however_often_it_tries() {
    use std::time::Duration;

    use futures::StreamExt;

    use crate::common::within;

    let test =
        "folders::an_endpoint_looks_once_where_other_variables_lead_to_however_often_it_tries";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), Some(folder.path()));
    };
    let other = Path::new(&role).join(format!("asyncipc-{}", user()));
    DirBuilder::new().mode(0o700).create(&other).unwrap();
    let path = other.join("it.sock");
    let mut server = PipeServer::bind(&path).unwrap();
    let mut endpoint = asyncipc::Endpoint::builder("asks")
        .backoff(Duration::from_millis(1), Duration::from_millis(5))
        .give_up_after(Duration::from_millis(200))
        .bind()
        .unwrap();
    endpoint.handle().send("it", "hello", ()).await.unwrap();
    let error = loop {
        match within(endpoint.next()).await.unwrap() {
            asyncipc::endpoint::Event::Ready => {}
            asyncipc::endpoint::Event::Undelivered { error, .. } => break error.to_string(),
            event => panic!("{event:?}"),
        }
    };
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    within(server.accept()).await.unwrap();
    assert!(crate::common::stays_pending(&mut server.next()).await);
}

#[tokio::test]
async fn what_is_no_socket_is_no_missing_server() {
    let (folder, path) = place();
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = folder.path().join("link");
    symlink(&file, &link).unwrap();
    for (path, what) in [
        (folder.path(), "a folder"),
        (&file, "a file"),
        (&link, "a file"),
        (Path::new("/dev/null"), "something else"),
    ] {
        let builder = PipeClient::builder(path);
        for builder in [builder.clone(), builder.wait_for_server(true)] {
            // The error comes at once.
            let error = builder.connect().now_or_never().unwrap().unwrap_err();
            assert!(
                matches!(&error, Error::NotAPipe { found, .. } if *found == what),
                "{error:?}"
            );
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            let text = error.to_string();
            assert!(
                text.contains(path.to_str().unwrap()) && text.contains(what),
                "{text}"
            );
        }
    }
    // If the socket is a dead server's, the client waits.
    leave_stale(&path);
    let mut connecting = Box::pin(PipeClient::builder(&path).wait_for_server(true).connect());
    assert!(connecting.as_mut().now_or_never().is_none());
}

#[tokio::test]
async fn a_private_folder_that_is_a_link_is_refused_by_both_ends() {
    let test = "folders::a_private_folder_that_is_a_link_is_refused_by_both_ends";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), Some(folder.path()));
    };
    let (real, link) = (
        Path::new(&role).join("real"),
        Path::new(&role).join("asyncipc"),
    );
    DirBuilder::new().mode(0o755).create(&real).unwrap();
    symlink(&real, &link).unwrap();
    let _foreign = UnixListener::bind(real.join("it.sock")).unwrap();
    for error in [
        PipeServer::bind("it").unwrap_err(),
        PipeClient::connect("it").await.unwrap_err(),
    ] {
        assert!(
            matches!(error, Error::Io { .. } | Error::AccessDenied { .. }),
            "{error:?}"
        );
        assert!(
            error.to_string().contains(link.to_str().unwrap()),
            "{error}"
        );
    }
    assert_eq!(mode(&real), 0o755);
    assert_eq!(fs::read_dir(&real).unwrap().count(), 1);
}
