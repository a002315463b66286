//! What is different about Unix sockets: files, modes, folders, and what dead servers leave behind.
#![cfg(unix)]

#[path = "../common/mod.rs"]
mod common;

mod files;
mod folders;
mod locks;
mod modes;
mod sockets;

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use asyncipc::{Error, PipeClient, PipeServer};
use bytes::Bytes;
use common::{itself, run_as, skipped, within};
use futures::{SinkExt, StreamExt};
use rustix::process::geteuid;

/// Leaves a socket file behind, as a killed server does.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).unwrap());
    assert!(fs::symlink_metadata(path).unwrap().file_type().is_socket());
}

/// The server receives a message from a client. Clients that leave at once are skipped.
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

/// Runs `test` again in another environment, where `role` returns the folder's path.
fn again_below(test: &str, folder: &Path, runtime: Option<&Path>) {
    let mut command = itself(test);
    command.env_remove("XDG_RUNTIME_DIR").env("TMPDIR", folder);
    if let Some(runtime) = runtime {
        command.env("XDG_RUNTIME_DIR", runtime);
    }
    run_as(folder.to_str().unwrap(), &mut command);
}

/// The effective user of this process.
fn user() -> u32 {
    geteuid().as_raw()
}

/// Makes another user the owner, which only root can do.
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
