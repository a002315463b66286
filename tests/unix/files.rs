//! Socket files: stale ones, live ones, and files that are no sockets.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;

use asyncipc::{Error, PipeClient, PipeServer};

use crate::common::{fill, itself, place, role, run_as, within};
use crate::{in_use, leave_stale, meet};

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
    // The foreign program has accepted nobody so far, and did not have to.
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

    // The same holds when the server is only shut down.
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
    let test = "files::servers_of_many_processes_race_for_a_stale_socket_and_one_wins";
    if let Some(role) = role() {
        // Each racer connects to the judge, binds, reports the result, and stays until all have.
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

#[tokio::test]
async fn a_folder_that_does_not_exist_is_named_as_what_is_missing() {
    let (_folder, path) = place();
    let error = PipeServer::bind(path.join("it.sock")).unwrap_err();
    assert!(
        error.to_string().contains("its folder does not exist"),
        "{error}"
    );
}
