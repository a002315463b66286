//! What systems may lack or forbid: calls behind a filter, /proc, users without a number, bits
//! behind a umask; and what a fork leaves behind.
#![cfg(target_os = "linux")]

mod common;

use std::cell::{Cell, OnceCell};
use std::fs::{self, Permissions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use asyncipc::unix::ServerBuilderExt;
use asyncipc::{Error, PipeClient, PipeServer};
use common::{itself, mode, place, role, run_as, skipped, within};
use futures::{SinkExt, StreamExt};

/// fchmodat2(2), which not every libc has a name for.
const FCHMODAT2: libc::c_long = 452;

/// Modes that one can ask for, and umasks that keep some, all or none of their bits.
const MODES: [u32; 3] = [0o600, 0o660, 0o666];
const UMASKS: [libc::mode_t; 3] = [0o022, 0o077, 0o777];

/// Runs the test once more in a process whose temporary folder is one of its own that is for all, as
/// /tmp is, and that has no other one for sockets.
fn again_in_a_folder_for_all(test: &str) {
    let temporary = tempfile::tempdir().unwrap();
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o1777)).unwrap();
    let mut command = itself(test);
    command
        .env("TMPDIR", temporary.path())
        .env_remove("XDG_RUNTIME_DIR");
    run_as(temporary.path().to_str().unwrap(), &mut command);
}

/// Sets the umask of this process, which has to be one of its own.
fn umask(mask: libc::mode_t) {
    // SAFETY: takes a number.
    unsafe { libc::umask(mask) };
}

/// A filter that answers some calls in a way of its own (seccomp(2)).
fn filter(calls: &[libc::c_long], answer: u32) -> Vec<libc::sock_filter> {
    let statement = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let give = |k| statement((libc::BPF_RET | libc::BPF_K) as u16, k);
    // The call's number comes first in what a filter is given.
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let equals = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    let mut filter = vec![statement(load, 0)];
    for call in calls {
        filter.push(libc::sock_filter {
            jf: 1,
            ..statement(equals, *call as u32)
        });
        filter.push(give(answer));
    }
    filter.push(give(libc::SECCOMP_RET_ALLOW));
    filter
}

/// Puts a filter on this thread, and on those that it starts, for good.
fn install(mut filter: Vec<libc::sock_filter>, flags: libc::c_ulong) -> libc::c_long {
    let program = libc::sock_fprog {
        len: filter.len().try_into().unwrap(),
        filter: filter.as_mut_ptr(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its statements live until the calls have copied them.
    let result = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::syscall(libc::SYS_seccomp, mode, flags, &program)
    };
    assert_ne!(result, -1, "{}", std::io::Error::last_os_error());
    result
}

/// The error with which a filter is to refuse calls in this process. `None` in the test itself, after it
/// has run as such a process for each.
fn refused_with(test: &str) -> Option<libc::c_int> {
    let Some(role) = role() else {
        for error in [libc::EPERM, libc::ENOSYS] {
            run_as(&error.to_string(), &mut itself(test));
        }
        return None;
    };
    Some(role.parse().unwrap())
}

/// Refuses calls to this thread.
fn refuse(calls: &[libc::c_long], error: libc::c_int) {
    install(filter(calls, libc::SECCOMP_RET_ERRNO | error as u32), 0);
}

/// Asks a question each time that this thread is about to make one of the calls, and keeps the
/// answers: what it asks must not need these calls.
fn before_each(
    calls: &[libc::c_long],
    question: impl Fn(libc::c_long) -> bool + Send + 'static,
) -> Arc<Mutex<Vec<bool>>> {
    // SECCOMP_IOCTL_NOTIF_RECV and SECCOMP_IOCTL_NOTIF_SEND (linux/seccomp.h).
    const RECV: libc::c_ulong = 0xc050_2100;
    const SEND: libc::c_ulong = 0xc018_2101;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = install(filter(calls, libc::SECCOMP_RET_USER_NOTIF), flags);
    // SAFETY: the call has just made the descriptor for us.
    let asked = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let answers = Arc::new(Mutex::new(vec![]));
    let kept = answers.clone();
    // It ends with the process.
    std::thread::spawn(move || {
        loop {
            // SAFETY: zeros are a value of this structure.
            let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            // SAFETY: the system writes a structure of this type.
            let received = unsafe { libc::ioctl(asked.as_raw_fd(), RECV, &mut call) };
            assert_eq!(received, 0, "{}", std::io::Error::last_os_error());
            kept.lock().unwrap().push(question(call.data.nr.into()));
            let go_on = libc::seccomp_notif_resp {
                id: call.id,
                val: 0,
                error: 0,
                flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            };
            // SAFETY: the system reads a structure of this type.
            unsafe { libc::ioctl(asked.as_raw_fd(), SEND, &go_on) };
        }
    });
    answers
}

/// Runs `command` in new namespaces, if that may be done here: `options` are those of unshare(1),
/// and `prepare` is a line of shell that comes first.
fn in_namespace(options: &[&str], prepare: &str, test: &str, role: &str) -> bool {
    let script = format!("{prepare} exec \"$0\" \"$@\"");
    let unshare = |program: &std::ffi::OsStr| {
        let mut command = Command::new("unshare");
        command
            .args(options)
            .args(["sh", "-c", &script])
            .arg(program);
        command
    };
    let inner = itself(test);
    match unshare("true".as_ref()).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            skipped(format!(
                "no namespaces here: unshare {options:?}: {}",
                why.trim()
            ));
            return false;
        }
        Err(e) => {
            skipped(format!("no namespaces here: unshare: {e}"));
            return false;
        }
    }
    run_as(role, unshare(inner.get_program()).args(inner.get_args()));
    true
}

const WITHOUT_PROC: (&[&str], &str) = (
    &["--user", "--map-root-user", "--mount"],
    "mount -t tmpfs none /proc &&",
);

/// A client says something, and the server hears it.
async fn meet(server: &mut PipeServer) {
    let mut client = within(PipeClient::connect(server.name())).await.unwrap();
    client.send("hello".into()).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
}

/// Binds under every umask, with every mode.
async fn bind_with_every_mode(folder: Option<u32>) {
    for mask in UMASKS {
        for wanted in MODES {
            umask(0o022);
            let (at, path) = place();
            if let Some(mode) = folder {
                fs::set_permissions(at.path(), Permissions::from_mode(mode)).unwrap();
            }
            umask(mask);
            let bound = PipeServer::builder(&path).mode(wanted).bind();
            let mut server = bound.unwrap_or_else(|e| panic!("{wanted:o} under {mask:o}: {e}"));
            assert_eq!(mode(&path), wanted, "under {mask:o}");
            meet(&mut server).await;
        }
    }
}

#[tokio::test]
async fn a_server_binds_with_any_mode_under_any_umask() {
    let test = "a_server_binds_with_any_mode_under_any_umask";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    bind_with_every_mode(None).await;
    bind_with_every_mode(Some(0o777)).await;
}

#[tokio::test]
async fn a_server_binds_where_a_filter_knows_no_way_to_change_a_mode_by_descriptor() {
    let test = "a_server_binds_where_a_filter_knows_no_way_to_change_a_mode_by_descriptor";
    let Some(error) = refused_with(test) else {
        return;
    };
    refuse(&[libc::SYS_fchmodat, FCHMODAT2], error);
    bind_with_every_mode(None).await;
    bind_with_every_mode(Some(0o777)).await;
}

#[tokio::test]
async fn a_server_binds_where_a_filter_refuses_to_change_modes_unless_the_umask_needs_it() {
    let test = "a_server_binds_where_a_filter_refuses_to_change_modes_unless_the_umask_needs_it";
    let Some(error) = refused_with(test) else {
        return;
    };
    let (_folder, path) = place();
    let by_path = [libc::SYS_fchmodat, FCHMODAT2];
    #[cfg(target_arch = "x86_64")]
    let by_path = [by_path[0], by_path[1], libc::SYS_chmod];
    refuse(&by_path, error);
    umask(0o077);
    let mut server = PipeServer::bind(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    meet(&mut server).await;
    drop(server);

    let error = PipeServer::builder(&path).mode(0o666).bind().unwrap_err();
    let text = error.to_string();
    for part in [path.to_str().unwrap(), "0666", "0600", "fchmodat2", "/proc"] {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    // It has left nothing behind.
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_binds_without_proc() {
    let test = "a_server_binds_without_proc";
    let (options, prepare) = WITHOUT_PROC;
    if role().is_none() {
        in_namespace(options, prepare, test, "without /proc");
        return;
    }
    assert!(!Path::new("/proc/self").exists());
    bind_with_every_mode(None).await;
    bind_with_every_mode(Some(0o777)).await;
}

#[tokio::test]
async fn a_server_binds_without_proc_and_behind_a_filter_where_nobody_else_can_write() {
    let test = "a_server_binds_without_proc_and_behind_a_filter_where_nobody_else_can_write";
    let (options, prepare) = WITHOUT_PROC;
    let Some(role) = role() else {
        for error in [libc::EPERM, libc::ENOSYS] {
            in_namespace(options, prepare, test, &error.to_string());
        }
        return;
    };
    refuse(&[FCHMODAT2], role.parse().unwrap());
    bind_with_every_mode(None).await;
    // Where nobody else can remove what is ours.
    bind_with_every_mode(Some(0o1777)).await;

    // Somebody else might put a link in the socket's place, which chmod would follow.
    let (folder, path) = place();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    umask(0o077);
    let mut server = PipeServer::bind(&path).unwrap();
    meet(&mut server).await;
    drop(server);
    let error = PipeServer::builder(&path).mode(0o666).bind().unwrap_err();
    assert!(
        error.to_string().contains("can be written by others"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_accepts_and_a_connection_closes_behind_a_filter() {
    let test = "a_server_accepts_and_a_connection_closes_behind_a_filter";
    let Some(error) = refused_with(test) else {
        return;
    };
    refuse(&[libc::SYS_accept4, libc::SYS_ioctl], error);
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    let mut client = within(PipeClient::connect(&path)).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    // It does not block: a read of nothing stays pending.
    assert!(common::stays_pending(&mut accepted.next()).await);
    client.send("hello".into()).await.unwrap();
    let closing = tokio::spawn(client.close());
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
    assert!(within(accepted.next()).await.is_none());
    within(closing).await.unwrap().unwrap();
    within(accepted.close()).await.unwrap();
}

#[tokio::test]
async fn a_server_that_a_filter_keeps_from_accepting_ends_with_the_error() {
    let test = "a_server_that_a_filter_keeps_from_accepting_ends_with_the_error";
    let Some(error) = refused_with(test) else {
        return;
    };
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    refuse(&[libc::SYS_accept4, libc::SYS_accept], error);
    let _client = within(PipeClient::connect(&path)).await.unwrap();
    let refused = within(server.accept()).await.unwrap_err();
    let system = std::io::Error::from_raw_os_error(error);
    assert_eq!(refused.kind(), system.kind(), "{refused}");
    let error = within(server.accept()).await.unwrap_err();
    assert!(matches!(error, Error::ShutDown { .. }), "{error}");
}

#[tokio::test]
async fn a_peer_is_unknown_where_a_filter_refuses_to_tell() {
    let test = "a_peer_is_unknown_where_a_filter_refuses_to_tell";
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
    let test = "closing_tells_whether_everything_was_read_where_a_filter_refuses_to_tell_of_errors";
    let Some(error) = refused_with(test) else {
        return;
    };
    refuse(&[libc::SYS_getsockopt], error);
    let (mut client, mut accepted) = common::pair().await;
    client.send("hello".into()).await.unwrap();
    let closing = tokio::spawn(client.close());
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
    assert!(within(accepted.next()).await.is_none());
    within(closing).await.unwrap().unwrap();
    within(accepted.close()).await.unwrap();

    // One that leaves without having read.
    let (mut client, accepted) = common::pair().await;
    client.send("hello".into()).await.unwrap();
    drop(accepted);
    let error = within(client.close()).await.unwrap_err();
    assert!(matches!(error, Error::Closed { .. }), "{error:?}");
}

/// The calls that remove a file.
#[cfg(target_arch = "x86_64")]
const UNLINK: [libc::c_long; 2] = [libc::SYS_unlink, libc::SYS_unlinkat];
#[cfg(not(target_arch = "x86_64"))]
const UNLINK: [libc::c_long; 1] = [libc::SYS_unlinkat];

/// What has come meanwhile is not what was found stale.
#[tokio::test]
async fn a_socket_that_takes_the_place_of_a_stale_one_is_not_removed_with_it() {
    let test = "a_socket_that_takes_the_place_of_a_stale_one_is_not_removed_with_it";
    let Some(role) = role() else {
        let (_folder, path) = place();
        drop(UnixListener::bind(&path).unwrap());
        return run_as(path.to_str().unwrap(), &mut itself(test));
    };
    let path = PathBuf::from(role);
    let (asked, other) = (Cell::new(false), OnceCell::new());
    let answers = before_each(&[libc::SYS_connect, libc::SYS_close], {
        let path = path.clone();
        // Once somebody has asked who listens, and been refused.
        move |call| {
            if call == libc::SYS_connect {
                asked.set(true);
            } else if asked.get() && other.get().is_none() {
                fs::remove_file(&path).unwrap();
                other.set(UnixListener::bind(&path).unwrap()).unwrap();
                return true;
            }
            false
        }
    });
    let error = PipeServer::bind(&path).unwrap_err();
    assert!(answers.lock().unwrap().contains(&true));
    assert!(matches!(error, Error::AddressInUse { .. }), "{error:?}");
    UnixStream::connect(&path).unwrap();
}

/// A file is stale when nobody answers: whoever finds it so takes the name for itself.
#[tokio::test]
async fn a_server_that_ends_answers_until_its_file_is_gone() {
    let test = "a_server_that_ends_answers_until_its_file_is_gone";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let (_folder, path) = place();
    let server = PipeServer::bind(&path).unwrap();
    let answers = before_each(&UNLINK, {
        let path = path.clone();
        move |_| UnixStream::connect(&path).is_ok()
    });
    drop(server);
    assert!(!path.exists());
    assert_eq!(*answers.lock().unwrap(), [true]);
}

#[cfg(feature = "endpoint")]
#[tokio::test]
async fn an_endpoint_that_ends_answers_until_its_file_is_gone() {
    let test = "an_endpoint_that_ends_answers_until_its_file_is_gone";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let endpoint = asyncipc::Endpoint::bind(common::unique_name("ends")).unwrap();
    let path = endpoint.pipe().as_path().to_path_buf();
    let answers = before_each(&UNLINK, {
        let path = path.clone();
        move |_| UnixStream::connect(&path).is_ok()
    });
    let handle = endpoint.handle();
    handle.shutdown();
    within(endpoint.run()).await;
    assert!(!path.exists());
    assert_eq!(*answers.lock().unwrap(), [true]);
}

/// Who gets in before a server listens, and holds what it holds, holds it up for good.
#[tokio::test]
async fn the_lock_for_binding_is_a_file_that_only_the_user_can_open_and_is_gone_afterwards() {
    let test = "the_lock_for_binding_is_a_file_that_only_the_user_can_open_and_is_gone_afterwards";
    let Some(role) = role() else {
        for mask in ["0", "777"] {
            run_as(mask, &mut itself(test));
        }
        return;
    };
    let (folder, path) = place();
    umask(libc::mode_t::from_str_radix(&role, 8).unwrap());
    let answers = before_each(&[libc::SYS_bind], {
        let path = path.clone();
        move |_| {
            let files: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
            let [Ok(lock)] = &files[..] else { return false };
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _entered = runtime.enter();
            let other = PipeServer::bind(&path);
            mode(lock.path()) == 0o600 && matches!(other, Err(Error::AddressInUse { .. }))
        }
    });
    let mut server = PipeServer::bind(&path).unwrap();
    assert_eq!(*answers.lock().unwrap(), [true]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    meet(&mut server).await;
}

#[tokio::test]
async fn where_a_filter_refuses_locks_a_free_path_is_bound_and_a_dead_servers_socket_stays() {
    let test = "where_a_filter_refuses_locks_a_free_path_is_bound_and_a_dead_servers_socket_stays";
    let Some(error) = refused_with(test) else {
        return;
    };
    let (folder, path) = place();
    refuse(&[libc::SYS_flock], error);
    let mut server = PipeServer::bind(&path).unwrap();
    meet(&mut server).await;
    drop(server);
    drop(UnixListener::bind(&path).unwrap());
    let error = PipeServer::bind(&path).unwrap_err();
    assert!(error.to_string().contains("without a lock"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn where_a_filter_refuses_locks_the_lock_of_another_server_is_left_alone() {
    let test = "where_a_filter_refuses_locks_the_lock_of_another_server_is_left_alone";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let (_folder, path) = place();
    let lock = path.with_file_name(".it.sock.asyncipc-lock");
    let held = fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    refuse(&[libc::SYS_flock], libc::EPERM);
    meet(&mut PipeServer::bind(&path).unwrap()).await;
    assert_eq!(
        fs::metadata(&lock).unwrap().ino(),
        held.metadata().unwrap().ino()
    );
}

#[tokio::test]
async fn where_the_user_may_not_write_nobody_is_said_to_be_binding() {
    let test = "where_the_user_may_not_write_nobody_is_said_to_be_binding";
    let Some(role) = role() else {
        return again_in_a_folder_for_all(test);
    };
    // Root may write everywhere.
    // SAFETY: takes a number.
    unsafe { libc::setuid(12345) };
    let folder = Path::new(&role).join("closed");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o555)).unwrap();
    let error = PipeServer::bind(folder.join("it.sock")).unwrap_err();
    assert!(
        matches!(&error, Error::AccessDenied { action, .. } if *action == "cannot listen on"),
        "{error:?}"
    );
}

#[tokio::test]
async fn on_a_file_system_that_cannot_be_written_binding_says_so() {
    let test = "on_a_file_system_that_cannot_be_written_binding_says_so";
    let options = ["--user", "--map-root-user", "--mount"];
    let Some(role) = role() else {
        let (folder, path) = place();
        let at = folder.path().display();
        for (mount, leave) in [("ro", ""), ("ro", "stale")] {
            let prepare = match leave {
                "" => format!("mount -t tmpfs -o {mount} none '{at}' &&"),
                _ => {
                    drop(UnixListener::bind(&path).unwrap());
                    format!("mount --bind '{at}' '{at}' && mount -o remount,bind,ro '{at}' &&")
                }
            };
            in_namespace(&options, &prepare, test, path.to_str().unwrap());
        }
        return;
    };
    let error = PipeServer::bind(Path::new(&role)).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::ReadOnlyFilesystem,
        "{error:?}"
    );
    assert!(error.to_string().contains(&role), "{error}");
}

/// Forks; what the child does is done when this returns, unless it goes on for ever.
fn in_a_fork(what: impl FnOnce()) {
    // SAFETY: the child does not return from here. It allocates, which glibc lets it, and it uses
    // what other threads do not.
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
    let test = "a_forked_child_that_drops_its_copy_of_a_server_leaves_the_file_alone";
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
    let test = "a_forked_child_that_drops_its_copy_of_a_connection_leaves_it_alone";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let (mut client, mut server) = common::pair().await;
    // Both have looked in vain, and wait to be told.
    assert!(common::stays_pending(&mut client.next()).await);
    assert!(common::stays_pending(&mut server.next()).await);
    let mut copies = Some((client, server));
    in_a_fork(|| drop(copies.take()));
    (client, server) = copies.unwrap();
    for _ in 0..2 {
        let message = common::sample(3 << 20, 1);
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

/// In a pid namespace, this process is the first one of it, and its child is the first of another.
#[tokio::test]
async fn a_forked_child_with_its_parents_number_leaves_what_is_the_parents_alone() {
    let test = "a_forked_child_with_its_parents_number_leaves_what_is_the_parents_alone";
    if role().is_none() {
        let options = ["--user", "--map-root-user", "--pid", "--fork"];
        in_namespace(&options, "", test, "process 1");
        return;
    }
    let (_folder, path) = place();
    let server = PipeServer::bind(&path).unwrap();
    let (mut client, mut accepted) = common::pair().await;
    // Both have looked in vain, and wait to be told.
    assert!(common::stays_pending(&mut client.next()).await);
    assert!(common::stays_pending(&mut accepted.next()).await);
    // SAFETY: takes a number. From now on, this thread starts no other.
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
        let message = common::sample(3 << 20, 1);
        let (sent, received) =
            within(async { tokio::join!(client.send(message.clone()), accepted.next()) }).await;
        sent.unwrap();
        assert_eq!(received.unwrap().unwrap(), message);
        std::mem::swap(&mut client, &mut accepted);
    }
}

#[tokio::test]
async fn children_that_are_forked_while_a_server_is_being_bound_hold_nothing_up() {
    let test = "children_that_are_forked_while_a_server_is_being_bound_hold_nothing_up";
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
            // A child that has a copy of a listening socket keeps it alive, so either may fail.
            while !stop.load(Relaxed) {
                let _ = fs::remove_file(&path);
                drop(UnixListener::bind(&path));
                drop(PipeServer::bind(&path));
            }
            let _ = fs::remove_file(&path);
        });
        for _ in 0..200 {
            // SAFETY: the child only waits to be ended, at the latest with this thread.
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
        // SAFETY: takes numbers; it is a child of ours that nobody has waited for.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    meet(&mut bound.unwrap()).await;
}

/// In a user namespace without a map nobody has a number: everybody is shown as the same one.
const WITHOUT_USERS: &[&str] = &["--user"];

#[tokio::test]
async fn a_user_without_a_number_is_not_taken_for_another_one() {
    let test = "a_user_without_a_number_is_not_taken_for_another_one";
    if role().is_none() {
        in_namespace(WITHOUT_USERS, "", test, "nobody");
        return;
    }
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    let client = within(PipeClient::connect(&path)).await.unwrap();
    let accepted = within(server.accept()).await.unwrap();
    for peer in [client.peer().unwrap(), accepted.peer().unwrap()] {
        assert_eq!(peer.user, None);
        assert!(!peer.is_same_user());
        assert_eq!(peer.process_id, Some(std::process::id()));
    }
    let verifying = PipeClient::builder(&path).verify_server(true);
    let error = within(verifying.connect()).await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
    assert!(error.to_string().contains("does not tell"), "{error}");
}

#[tokio::test]
async fn a_folder_of_a_user_without_a_number_is_his_who_can_change_its_mode() {
    let test = "a_folder_of_a_user_without_a_number_is_his_who_can_change_its_mode";
    let Some(role) = role() else {
        let temporary = tempfile::tempdir().unwrap();
        let inside = temporary.path().join("asyncipc-65534");
        for whose in ["mine", "another's"] {
            if whose == "another's" {
                fs::create_dir(&inside).unwrap();
                fs::set_permissions(&inside, Permissions::from_mode(0o777)).unwrap();
                drop(UnixListener::bind(inside.join("it.sock")).unwrap());
                if chown(&inside, Some(12345), None).is_err() {
                    return skipped("only root can give a folder away");
                }
            }
            // Its runtime folder as well.
            let runtime = temporary.path().join("runtime");
            let _ = fs::create_dir(&runtime);
            let _ = chown(&runtime, Some(12345), None);
            let prepare = format!(
                "TMPDIR='{0}' XDG_RUNTIME_DIR='{0}/runtime'; export TMPDIR XDG_RUNTIME_DIR;",
                temporary.path().display()
            );
            let ran = in_namespace(WITHOUT_USERS, &prepare, test, whose);
            if !ran {
                return;
            }
            if whose == "mine" {
                assert_eq!(mode(&inside), 0o700);
                fs::remove_dir_all(&inside).unwrap();
            }
        }
        return;
    };
    if role == "mine" {
        let mut server = PipeServer::bind("it").unwrap();
        let path = server.name().as_path().to_path_buf();
        meet(&mut server).await;
        drop(server);
        assert!(path.parent().unwrap().exists() && !path.exists());
        return;
    }
    for error in [
        PipeServer::bind("it").unwrap_err(),
        PipeClient::connect("it").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
        assert!(error.to_string().contains("asyncipc-65534"), "{error}");
    }
}

#[tokio::test]
async fn where_everybody_has_a_number_nobody_is_a_user_like_others() {
    let test = "where_everybody_has_a_number_nobody_is_a_user_like_others";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    // SAFETY: takes a number.
    if unsafe { libc::setuid(65534) } != 0 {
        return skipped("only root can be somebody else");
    }
    let (_folder, path) = place();
    let mut server = PipeServer::bind(&path).unwrap();
    let verifying = PipeClient::builder(&path).verify_server(true);
    let _client = within(verifying.connect()).await.unwrap();
    let accepted = within(server.accept()).await.unwrap();
    assert_eq!(accepted.peer().unwrap().user.unwrap().as_str(), "65534");
}

#[tokio::test]
async fn a_private_folder_that_keeps_its_owner_out_is_mended() {
    let test = "a_private_folder_that_keeps_its_owner_out_is_mended";
    let Some(role) = role() else {
        return again_in_a_folder_for_all(test);
    };
    // Root is kept out of nothing.
    // SAFETY: takes numbers.
    let user = unsafe {
        libc::setuid(12345);
        libc::geteuid()
    };
    let folder = Path::new(&role).join(format!("asyncipc-{user}"));
    for mask in UMASKS {
        umask(mask);
        let mut server = PipeServer::bind("it").unwrap();
        assert_eq!(mode(&folder), 0o700, "under {mask:o}");
        meet(&mut server).await;
        drop(server);
        for closed in [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o077] {
            fs::set_permissions(&folder, Permissions::from_mode(closed)).unwrap();
            let mut server = PipeServer::bind("it").unwrap();
            assert_eq!(mode(&folder), 0o700, "from {closed:o}");
            meet(&mut server).await;
        }
        // Nothing is left, the lock file included.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}

#[tokio::test]
async fn without_the_variable_a_missing_server_is_looked_for_where_logging_in_sets_it_to() {
    let test = "without_the_variable_a_missing_server_is_looked_for_where_logging_in_sets_it_to";
    let options = ["--user", "--map-root-user", "--mount"];
    let prepare = "mount -t tmpfs none /run && mkdir -p -m 700 /run/user/0/asyncipc && \
                   unset XDG_RUNTIME_DIR &&";
    if role().is_none() {
        in_namespace(&options, prepare, test, "without it");
        return;
    }
    let path = Path::new("/run/user/0/asyncipc/it.sock");
    let _server = PipeServer::bind(path).unwrap();
    let error = PipeClient::connect("it").await.unwrap_err();
    assert!(
        matches!(&error, Error::NotFound { elsewhere, .. } if elsewhere.as_deref() == Some(path)),
        "{error:?}"
    );
}
