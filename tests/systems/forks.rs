//! What a forked child leaves alone.

use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use asyncipc::PipeServer;
use futures::{SinkExt, StreamExt};

use crate::common::{itself, place, role, run_as, within};
use crate::{in_namespace, meet};

/// Forks, and waits until the child has done `what`, however long that takes.
fn in_a_fork(what: impl FnOnce()) {
    // SAFETY: the child does not return from here. It allocates, which glibc allows, and it uses
    // nothing that other threads use.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", std::io::Error::last_os_error()),
        0 => {
            what();
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
        child => {
            let mut status = 0;
            // SAFETY: writes one integer.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0);
        }
    }
}

#[tokio::test]
async fn a_forked_child_that_drops_its_copy_of_a_server_leaves_the_file_alone() {
    let test = "forks::a_forked_child_that_drops_its_copy_of_a_server_leaves_the_file_alone";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let (_folder, path) = place();
    let mut server = Some(PipeServer::bind(&path).unwrap());
    in_a_fork(|| drop(server.take()));
    assert!(path.exists());
    meet(server.as_mut().unwrap()).await;
    drop(server);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_forked_child_that_drops_its_copy_of_a_connection_leaves_it_alone() {
    let test = "forks::a_forked_child_that_drops_its_copy_of_a_connection_leaves_it_alone";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let (mut client, mut server) = crate::common::pair().await;
    // Both have found nothing, and wait to be woken.
    assert!(crate::common::stays_pending(&mut client.next()).await);
    assert!(crate::common::stays_pending(&mut server.next()).await);
    let mut copies = Some((client, server));
    in_a_fork(|| drop(copies.take()));
    (client, server) = copies.unwrap();
    for _ in 0..2 {
        let message = crate::common::sample(3 << 20, 1);
        let (sent, received) =
            within(async { tokio::join!(client.send(message.clone()), server.next()) }).await;
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap(), message);
        std::mem::swap(&mut client, &mut server);
    }
    let closed = within(async { tokio::join!(client.close(), server.close()) }).await;
    closed.0.unwrap();
    closed.1.unwrap();
}

/// This process is the first in its pid namespace, and its child is the first in another one.
#[tokio::test]
async fn a_forked_child_with_its_parents_number_leaves_what_is_the_parents_alone() {
    let test = "forks::a_forked_child_with_its_parents_number_leaves_what_is_the_parents_alone";
    if role().is_none() {
        let options = ["--user", "--map-root-user", "--pid", "--fork"];
        in_namespace(&options, "", test, "process 1");
        return;
    }
    let (_folder, path) = place();
    let server = PipeServer::bind(&path).unwrap();
    let (mut client, mut accepted) = crate::common::pair().await;
    // Both have found nothing, and wait to be woken.
    assert!(crate::common::stays_pending(&mut client.next()).await);
    assert!(crate::common::stays_pending(&mut accepted.next()).await);
    // SAFETY: takes a number. From now on, this thread starts no threads.
    let unshared = unsafe { libc::unshare(libc::CLONE_NEWPID) };
    assert_eq!(unshared, 0, "{}", std::io::Error::last_os_error());
    let mut copies = Some((server, client, accepted));
    assert_eq!(std::process::id(), 1);
    in_a_fork(|| match std::process::id() {
        1 => drop(copies.take()),
        _ => std::process::abort(),
    });
    let (mut server, mut client, mut accepted) = copies.unwrap();
    assert!(path.exists());
    meet(&mut server).await;
    for _ in 0..2 {
        let message = crate::common::sample(3 << 20, 1);
        let (sent, received) =
            within(async { tokio::join!(client.send(message.clone()), accepted.next()) }).await;
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap(), message);
        std::mem::swap(&mut client, &mut accepted);
    }
}

#[tokio::test]
async fn children_that_are_forked_while_a_server_is_being_bound_hold_nothing_up() {
    let test = "forks::children_that_are_forked_while_a_server_is_being_bound_hold_nothing_up";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let (_folder, path) = place();
    let runtime = tokio::runtime::Handle::current();
    let stop = AtomicBool::new(false);
    let mut children = vec![];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _entered = runtime.enter();
            // A child that has a copy of a listening socket keeps it alive, so either bind may fail.
            while !stop.load(Relaxed) {
                let _ = fs::remove_file(&path);
                drop(UnixListener::bind(&path));
                drop(PipeServer::bind(&path));
            }
            let _ = fs::remove_file(&path);
        });
        for _ in 0..200 {
            // SAFETY: the child only waits to be killed, at the latest when this thread ends.
            match unsafe { libc::fork() } {
                0 => loop {
                    // SAFETY: both take numbers, or nothing.
                    unsafe {
                        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                        libc::pause();
                    }
                },
                child => children.push(child),
            }
        }
        stop.store(true, Relaxed);
    });
    drop(UnixListener::bind(&path).unwrap());
    let bound = PipeServer::bind(&path);
    for child in children {
        assert!(child > 0);
        // SAFETY: takes numbers; nobody has waited for this child of ours yet.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    meet(&mut bound.unwrap()).await;
}
