//! What is different about Unix sockets: files, modes, folders, and what the dead leave behind.
#![cfg(unix)]

mod common;

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(feature = "endpoint")]
use std::time::Duration;

use asyncipc::unix::ServerBuilderExt;
use asyncipc::{Access, Error, PipeClient, PipeConnection, PipeName, PipeServer};
use bytes::Bytes;
use common::{fill, itself, mode, pair, place, role, run_as, sample, skipped, unique_name, within};
use futures::{FutureExt, SinkExt, StreamExt};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};

/// Leaves a socket file behind, as a server does that is killed.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_socket());
}

/// A client says something, and the server hears it; clients that leave at once are looked over.
async fn meet(server: &mut PipeServer) {
    let mut client = within(PipeClient::connect(server.name())).await.unwrap();
    client.send(Bytes::from_static(b"hello")).await.unwrap();
    loop {
        let mut accepted = within(server.accept()).await.unwrap();
        if let Some(message) = within(accepted.next()).await {
            assert_eq!(message.unwrap(), "hello");
            return;
        }
    }
}

#[track_caller]
fn in_use(path: &Path) {
    let error = PipeServer::bind(path).unwrap_err();
    assert!(
        matches!(&error, Error::AddressInUse { pipe, .. } if pipe.as_path() == path),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let (_folder, path) = place();
    leave_stale(&path);
    let error = PipeClient::connect(&path).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    let mut server = PipeServer::bind(&path).unwrap();
    meet(&mut server).await;
}

#[tokio::test]
async fn a_live_socket_is_not_replaced() {
    let (_folder, path) = place();
    let mut first = PipeServer::bind(&path).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    for _ in 0..3 {
        in_use(&path);
    }
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    meet(&mut first).await;
}

#[tokio::test]
async fn a_live_socket_of_another_program_is_not_replaced() {
    let (_folder, path) = place();
    let foreign = UnixListener::bind(&path).unwrap();
    in_use(&path);
    // It has never accepted anybody, and still does not have to.
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"x").unwrap();
    let heard = foreign.incoming().any(|it| {
        let mut byte = [0];
        it.unwrap().read(&mut byte).unwrap() == 1
    });
    assert!(heard);
}

#[tokio::test]
async fn a_live_socket_that_is_too_busy_to_answer_is_not_replaced() {
    let (_folder, path) = place();
    let mut first = PipeServer::builder(&path).backlog(1).bind().unwrap();
    let clients = fill(path.to_str().unwrap()).await;
    in_use(&path);
    for _ in clients {
        within(first.accept()).await.unwrap();
    }
    meet(&mut first).await;
}

#[tokio::test]
async fn what_is_no_socket_is_not_touched() {
    let (folder, path) = place();
    fs::write(&path, "precious").unwrap();
    in_use(&path);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    in_use(&path);
    assert!(fs::symlink_metadata(&path).unwrap().is_dir());

    fs::remove_dir(&path).unwrap();
    let (file, stale, missing) = (
        folder.path().join("file"),
        folder.path().join("stale"),
        folder.path().join("missing"),
    );
    fs::write(&file, "precious").unwrap();
    leave_stale(&stale);
    for target in [&file, &stale, &missing] {
        symlink(target, &path).unwrap();
        in_use(&path);
        assert_eq!(fs::read_link(&path).unwrap(), *target);
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert!(fs::symlink_metadata(&stale).is_ok());
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_folder_that_is_missing_is_not_made_for_a_full_path() {
    let (folder, _) = place();
    let path = folder.path().join("sub").join("it.sock");
    let error = PipeServer::bind(&path).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error:?}");
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    assert!(!folder.path().join("sub").exists());
    let error = PipeClient::connect(&path).await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn the_socket_file_is_removed_at_the_end_and_nothing_else_is_left() {
    let (folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    meet(&mut server).await;
    assert!(path.exists());
    drop(server);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    // Also when the server is only shut down.
    let mut server = PipeServer::bind(&path).unwrap();
    server.shutdown_handle().shutdown();
    within(server.accept()).await.unwrap_err();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_that_cannot_be_completed_leaves_nothing_behind() {
    let (folder, path) = place();
    let too_early = std::thread::scope(|scope| {
        // A thread without a runtime.
        let bind = scope.spawn(|| PipeServer::bind(&path).unwrap_err());
        bind.join().unwrap()
    });
    assert!(matches!(too_early, Error::Io { .. }), "{too_early:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_has_replaced_the_socket_file_is_not_removed() {
    let (_folder, path) = place();
    let server = PipeServer::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(server);
    UnixStream::connect(&path).unwrap();

    let (_folder, path) = place();
    let server = PipeServer::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    drop(server);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");

    let (_folder, path) = place();
    let server = PipeServer::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    drop(server);
}

#[tokio::test]
async fn a_server_whose_file_was_removed_is_succeeded_and_does_not_harm_its_successor() {
    let (_folder, path) = place();
    let first = PipeServer::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut second = PipeServer::bind(&path).unwrap();
    drop(first);
    meet(&mut second).await;
}

#[test]
fn of_fifty_servers_that_race_for_a_stale_socket_exactly_one_wins() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for _ in 0..20 {
        let (_folder, path) = place();
        leave_stale(&path);
        let start = Barrier::new(50);
        let ends: Vec<Result<PipeServer, Error>> = std::thread::scope(|scope| {
            let race = || {
                let _entered = runtime.enter();
                start.wait();
                PipeServer::bind(&path)
            };
            let racers: Vec<_> = (0..50).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|it| it.join().unwrap()).collect()
        });
        let mut winners = vec![];
        for end in ends {
            match end {
                Ok(server) => winners.push(server),
                Err(Error::AddressInUse { .. }) => {}
                Err(e) => panic!("neither won nor lost: {e}"),
            }
        }
        assert_eq!(winners.len(), 1);
        runtime.block_on(meet(&mut winners[0]));
    }
}

#[tokio::test]
async fn servers_of_many_processes_race_for_a_stale_socket_and_one_wins() {
    let test = "servers_of_many_processes_race_for_a_stale_socket_and_one_wins";
    if let Some(role) = role() {
        // Each racer comes, binds, says how it went, and stays until all have.
        let path = Path::new(&role);
        let door = path.with_file_name("door");
        let mut judge = UnixStream::connect(door).unwrap();
        judge.write_all(b"?").unwrap();
        judge.read_exact(&mut [0]).unwrap();
        let bound = PipeServer::bind(path);
        let said = match &bound {
            Ok(_) => b"w",
            Err(Error::AddressInUse { .. }) => b"l",
            Err(e) => panic!("neither won nor lost: {e}"),
        };
        judge.write_all(said).unwrap();
        judge.read_exact(&mut [0]).unwrap();
        return;
    }
    let (_folder, path) = place();
    leave_stale(&path);
    let door = UnixListener::bind(path.with_file_name("door")).unwrap();
    let racers: Vec<_> = (0..10)
        .map(|_| {
            let role = path.to_str().unwrap().to_string();
            std::thread::spawn(move || run_as(&role, &mut itself(test)))
        })
        .collect();
    let mut judged: Vec<_> = racers.iter().map(|_| door.accept().unwrap().0).collect();
    let mut said = [0];
    for racer in &mut judged {
        racer.read_exact(&mut said).unwrap();
    }
    for racer in &mut judged {
        racer.write_all(b"!").unwrap();
    }
    let mut winners = 0;
    for racer in &mut judged {
        racer.read_exact(&mut said).unwrap();
        winners += usize::from(said == *b"w");
    }
    assert_eq!(winners, 1);
    within(PipeClient::connect(&path)).await.unwrap();
    for racer in &mut judged {
        racer.write_all(b".").unwrap();
    }
    for racer in racers {
        racer.join().unwrap();
    }
}

#[test]
fn the_socket_is_the_owners_alone_before_anyone_can_connect() {
    let test = "the_socket_is_the_owners_alone_before_anyone_can_connect";
    if role().is_none() {
        let inner = itself(test);
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"umask 0; exec "$0" "$@""#])
            .arg(inner.get_program())
            .args(inner.get_args());
        return run_as("without umask", &mut command);
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_folder, path) = place();
    fs::write(path.with_file_name("open"), "").unwrap();
    assert_eq!(mode(path.with_file_name("open")), 0o666, "there is a umask");
    for _ in 0..200 {
        let failed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = || {
                while UnixStream::connect(&path).is_err() {
                    assert!(!failed.load(Ordering::SeqCst), "there is no server");
                }
                assert_eq!(mode(&path), 0o600);
            };
            let watching = scope.spawn(watch);
            let _entered = runtime.enter();
            let server = PipeServer::bind(&path);
            failed.store(server.is_err(), Ordering::SeqCst);
            watching.join().unwrap();
            drop(server);
        });
    }
}

#[tokio::test]
async fn the_mode_of_the_socket_can_be_chosen() {
    for wanted in [0o600, 0o660, 0o666, 0o622] {
        let (_folder, path) = place();
        let _server = PipeServer::builder(&path).mode(wanted).bind().unwrap();
        assert_eq!(mode(&path), wanted);
    }
    let name = unique_name("mode");
    let server = PipeServer::bind(&name).unwrap();
    assert_eq!(mode(server.name().as_path()), 0o600);
}

#[tokio::test]
async fn access_beyond_the_owner_is_a_mode_of_the_socket() {
    for (access, wanted) in [
        (Access::Owner, 0o600),
        (Access::Group, 0o660),
        (Access::Everyone, 0o666),
    ] {
        let (_folder, path) = place();
        let builder = PipeServer::builder(&path).access(access);
        let mut server = builder.bind().unwrap();
        assert_eq!(mode(&path), wanted, "{access:?}");
        meet(&mut server).await;
        // A mode says it more exactly.
        drop(server);
        let _server = builder.mode(0o640).bind().unwrap();
        assert_eq!(mode(&path), 0o640, "{access:?}");
    }
}

#[tokio::test]
async fn access_beyond_the_owner_needs_a_full_path() {
    for access in [Access::Group, Access::Everyone] {
        let name = unique_name("access");
        let builder = PipeServer::builder(&name).access(access);
        for error in [
            builder.bind().unwrap_err(),
            builder.bind_bytes().map(drop).unwrap_err(),
        ] {
            assert!(
                matches!(
                    error,
                    Error::InvalidOption {
                        option: "access",
                        ..
                    }
                ),
                "{error:?}"
            );
            assert!(error.to_string().contains("full path"), "{error}");
        }
        let left = PipeName::new(&name).unwrap();
        assert!(!left.as_path().exists());
    }
    let _server = PipeServer::builder(unique_name("access"))
        .access(Access::Owner)
        .bind()
        .unwrap();
}

/// Runs `test` again in another environment, where `role` finds the folder's path.
fn again_below(test: &str, folder: &Path, runtime: Option<&Path>) {
    let mut command = itself(test);
    command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", folder);
    if let Some(runtime) = runtime {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    run_as(folder.to_str().unwrap(), &mut command);
}

/// The user, as the system sees it.
fn user() -> u32 {
    geteuid().as_raw()
}

#[tokio::test]
async fn the_private_folder_is_in_the_runtime_folder_and_the_owners_alone() {
    let test = "the_private_folder_is_in_the_runtime_folder_and_the_owners_alone";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), Some(folder.path()));
    };
    let folder = Path::new(&role).join("asyncipc");
    // A name alone makes nothing, and neither does a client.
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
    let test = "without_a_runtime_folder_the_private_folder_is_in_the_temporary_one";
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
    let test = "a_runtime_folder_of_another_user_is_not_used";
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
    let test = "a_private_folder_that_is_too_open_is_closed";
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
    let test = "a_private_folder_of_another_user_is_refused_by_both_ends";
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

/// Makes somebody else the owner, which only root can do.
fn give_away(path: &Path) -> bool {
    match chown(path, Some(12345), None) {
        Ok(()) => true,
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            skipped(format!("only root can give away: {}", path.display()));
            false
        }
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test]
async fn an_error_of_the_private_folder_says_what_was_to_be_done_and_names_the_folder() {
    let test = "an_error_of_the_private_folder_says_what_was_to_be_done_and_names_the_folder";
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

    // A file is there.
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
    let test = "a_missing_server_is_looked_for_where_other_variables_lead_to";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), Some(folder.path()));
    };
    let missing = |error: &Error| match error {
        Error::NotFound { elsewhere, .. } => elsewhere.clone(),
        _ => panic!("{error:?}"),
    };
    // As if bound by a process without the variable.
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
    // It goes on, and another name is another one.
    meet(&mut server).await;
    let error = PipeClient::connect("other").await.unwrap_err();
    assert_eq!(missing(&error), None);

    // Not one that is dead, and not in a folder that somebody else can write to.
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
    let test = "an_endpoint_looks_once_where_other_variables_lead_to_however_often_it_tries";
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
            asyncipc::EndpointEvent::Ready => {}
            asyncipc::EndpointEvent::Undelivered { error, .. } => break error.to_string(),
            event => panic!("{event:?}"),
        }
    };
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    within(server.accept()).await.unwrap();
    assert!(common::stays_pending(&mut server.next()).await);
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
            // At once.
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
    // A socket of a server that is dead is waited for.
    leave_stale(&path);
    let mut connecting = Box::pin(PipeClient::builder(&path).wait_for_server(true).connect());
    assert!(connecting.as_mut().now_or_never().is_none());
}

#[tokio::test]
async fn a_private_folder_that_is_a_link_is_refused_by_both_ends() {
    let test = "a_private_folder_that_is_a_link_is_refused_by_both_ends";
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

#[tokio::test]
async fn a_plain_socket_client_speaks_four_bytes_of_length_and_the_message() {
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    let plain = tokio::task::spawn_blocking(move || {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"\0\0\0\x05hello\0\0\0\0").unwrap();
        client.write_all(b"\0\x01\0\0").unwrap();
        client.write_all(&vec![7; 65536]).unwrap();
        let mut answer = [0; 9];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"\0\0\0\x05world");
        assert_eq!(client.read(&mut answer).unwrap(), 0);
    });
    let mut accepted = within(server.accept()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "");
    assert!(within(accepted.next()).await.unwrap().unwrap() == vec![7; 65536]);
    accepted.send(Bytes::from_static(b"world")).await.unwrap();
    drop(accepted);
    within(plain).await.unwrap();
}

#[tokio::test]
async fn a_client_speaks_to_a_plain_socket_server() {
    let (_folder, path) = place();
    let listener = UnixListener::bind(&path).unwrap();
    let plain = tokio::task::spawn_blocking(move || {
        let (mut server, _) = listener.accept().unwrap();
        let mut said = [0; 9];
        server.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"\0\0\0\x05hello");
        server.write_all(b"\0\0\0\x05world").unwrap();
    });
    let mut client = within(PipeClient::connect(&path)).await.unwrap();
    client.send(Bytes::from_static(b"hello")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), "world");
    assert!(within(client.next()).await.is_none());
    within(plain).await.unwrap();
}

#[tokio::test]
async fn a_stream_lends_its_descriptor() {
    use std::os::fd::{AsFd, AsRawFd};
    let (_folder, path) = place();
    let _server = PipeServer::bind(&path).unwrap();
    let stream = PipeClient::builder(&path).connect_bytes().await.unwrap();
    assert_eq!(stream.as_fd().as_raw_fd(), stream.as_raw_fd());
    let socket = UnixStream::from(stream.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(socket.peer_addr().unwrap().as_pathname(), Some(&*path));
}

#[tokio::test]
async fn a_mode_for_others_is_refused_for_a_logical_name() {
    let refused = PipeServer::builder(unique_name("mode")).mode(0o666).bind();
    let error = refused.unwrap_err();
    assert!(
        matches!(&error, Error::InvalidOption { option: "mode", .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_option_that_is_refused_is_refused_before_the_folder_of_logical_names_is_made() {
    let test = "an_option_that_is_refused_is_refused_before_the_folder_of_logical_names_is_made";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), None);
    };
    let builder = PipeServer::builder("it");
    for builder in [builder.clone().mode(0o666), builder.access(Access::Group)] {
        let error = builder.bind().unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
        assert_eq!(fs::read_dir(&role).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn whoever_locks_the_folder_keeps_nobody_from_a_path_in_it() {
    let (folder, path) = place();
    let held = fs::File::open(folder.path()).unwrap();
    held.lock().unwrap();
    meet(&mut PipeServer::bind(&path).unwrap()).await;

    leave_stale(&path);
    meet(&mut PipeServer::bind(&path).unwrap()).await;
}

/// Where a server takes its lock, beside the socket.
fn lock_file(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!(".{name}.asyncipc-lock"))
}

#[tokio::test]
async fn while_a_server_is_being_bound_another_one_is_told_at_once() {
    let (folder, path) = place();
    for stale in [false, true] {
        if stale {
            leave_stale(&path);
        }
        let held = fs::File::create(lock_file(&path)).unwrap();
        held.lock().unwrap();
        in_use(&path);
        // Who has died has let go of it.
        drop(held);
        meet(&mut PipeServer::bind(&path).unwrap()).await;
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn without_a_place_for_a_lock_a_path_is_bound_only_when_it_is_free() {
    let test = "without_a_place_for_a_lock_a_path_is_bound_only_when_it_is_free";
    let Some(role) = role() else {
        let (folder, path) = place();
        return again_below(test, &folder.path().join("missing"), Some(&path));
    };
    let missing = Path::new(&role);
    let path = missing.with_file_name("it.sock");
    // Something else has the lock's name.
    DirBuilder::new().create(lock_file(&path)).unwrap();
    meet(&mut PipeServer::bind(&path).unwrap()).await;

    leave_stale(&path);
    let error = PipeServer::bind(&path).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    let text = error.to_string();
    for part in [path.to_str().unwrap(), "dead server", "lock", &role] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert!(path.exists());
    // A place for it is all that it takes.
    DirBuilder::new().create(missing).unwrap();
    meet(&mut PipeServer::bind(&path).unwrap()).await;
}

#[tokio::test]
async fn where_others_may_remove_files_the_lock_is_in_the_private_folder() {
    let test = "where_others_may_remove_files_the_lock_is_in_the_private_folder";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), None);
    };
    let shared = Path::new(&role).join("shared");
    DirBuilder::new().create(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let path = shared.join("it.sock");
    leave_stale(&path);
    // A stranger's lock is beside it.
    let held = fs::File::create(lock_file(&path)).unwrap();
    held.lock().unwrap();
    meet(&mut PipeServer::bind(&path).unwrap()).await;
    let private = Path::new(&role).join(format!("asyncipc-{}", user()));
    assert_eq!(fs::read_dir(&private).unwrap().count(), 0);

    // In a folder where each can remove only what is his, a stranger may at most be in the way.
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
    in_use(&path);
    if give_away(&lock_file(&path)) {
        meet(&mut PipeServer::bind(&path).unwrap()).await;
    }
}

#[tokio::test]
async fn servers_that_see_another_runtime_folder_take_the_same_lock() {
    let test = "servers_that_see_another_runtime_folder_take_the_same_lock";
    let Some(role) = role() else {
        let [folder, runtime] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        again_below(test, folder.path(), None);
        return again_below(test, folder.path(), Some(runtime.path()));
    };
    let shared = Path::new(&role).join("shared");
    let private = Path::new(&role).join(format!("asyncipc-{}", user()));
    for folder in [&shared, &private] {
        let _ = fs::create_dir(folder);
    }
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let path = shared.join("it.sock");
    let found = fs::metadata(&shared).unwrap();
    let lock = format!("{:x}-{:x}-it.sock.lock", found.dev(), found.ino());
    let held = fs::File::create(private.join(lock)).unwrap();
    held.lock().unwrap();
    in_use(&path);
    drop(held);
    meet(&mut PipeServer::bind(&path).unwrap()).await;
    assert_eq!(fs::read_dir(&private).unwrap().count(), 0);
}

/// Others may link to a file of ours in a folder for all (fs.protected_hardlinks, proc_sys_fs(5)).
#[tokio::test]
async fn another_link_to_a_file_in_the_place_of_the_lock_changes_nothing_about_the_file() {
    let (folder, path) = place();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    fs::set_permissions(&precious, Permissions::from_mode(0o644)).unwrap();
    fs::hard_link(&precious, lock_file(&path)).unwrap();
    leave_stale(&path);
    meet(&mut PipeServer::bind(&path).unwrap()).await;
    assert_eq!(mode(&precious), 0o644);
    assert_eq!(mode(lock_file(&path)), 0o644);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[tokio::test]
async fn a_folder_that_does_not_exist_is_named_as_what_is_missing() {
    let (_folder, path) = place();
    let error = PipeServer::bind(path.join("it.sock")).unwrap_err();
    assert!(
        error.to_string().contains("its folder does not exist"),
        "{error}"
    );
}

/// More connections than are watched for writing from the start, unless there are very many
/// processors; each is a client's end and a server's.
async fn hundred_pairs() -> Vec<(PipeConnection, PipeConnection)> {
    let mut pairs = Vec::new();
    for _ in 0..100 {
        pairs.push(pair().await);
    }
    pairs
}

/// Sends more than the system keeps, to an end that begins to read when the other has to wait.
async fn fill_and_read(mut from: PipeConnection, mut to: PipeConnection) {
    for size in [100_000, 3 << 20, 5, 1 << 20] {
        let message = sample(size, size);
        let mut sending = pin!(from.send(message.clone()));
        if size > 1 << 20 {
            assert!(sending.as_mut().now_or_never().is_none(), "it took it all");
        }
        let (sent, received) = within(async { tokio::join!(sending, to.next()) }).await;
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn a_write_waits_for_its_peer_in_the_first_connection_and_in_the_hundredth() {
    let mut pairs = hundred_pairs().await;
    for (client, server) in [pairs.remove(0), pairs.pop().unwrap()] {
        fill_and_read(client, server).await;
    }
}

#[tokio::test]
async fn a_write_waits_for_its_peer_when_no_descriptor_is_left() {
    let test = "a_write_waits_for_its_peer_when_no_descriptor_is_left";
    if role().is_none() {
        return run_as("process", &mut itself(test));
    }
    let mut pairs = hundred_pairs().await;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(3),
            ..limit
        },
    )
    .unwrap();
    fs::File::open("/").unwrap_err();
    let (client, server) = pairs.pop().unwrap();
    fill_and_read(client, server).await;
}

#[tokio::test]
async fn a_writer_that_never_waits_lets_other_tasks_run() {
    let (mut client, _server) = pair().await;
    let other = tokio::spawn(async {});
    for _ in 0..200 {
        // As many as the system keeps.
        client.send(Bytes::from_static(b"more")).await.unwrap();
    }
    assert!(other.is_finished());
}
