//! Who may connect: the mode of the socket.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use asyncipc::unix::ServerBuilderExt;
use asyncipc::{Access, Error, PipeName, PipeServer};

use crate::common::{itself, mode, place, role, run_as, unique_name};
use crate::{again_below, meet};

#[test]
fn the_socket_is_the_owners_alone_before_anyone_can_connect() {
    let test = "modes::the_socket_is_the_owners_alone_before_anyone_can_connect";
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
        // An explicit mode takes precedence.
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
    let test =
        "modes::an_option_that_is_refused_is_refused_before_the_folder_of_logical_names_is_made";
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
