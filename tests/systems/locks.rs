//! Files that a server takes for stale, and the lock for binding.

use std::cell::{Cell, OnceCell};
use std::fs::{self, Permissions};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use asyncipc::{Error, PipeServer};

use crate::common::{itself, mode, place, role, run_as};
use crate::{
    again_in_a_folder_for_all, filter, in_namespace, install, meet, refuse, refused_with, umask,
};

/// Asks a question each time this thread is about to make one of the calls, and keeps the answers.
/// The question itself must not need these calls.
#[allow(
    clippy::useless_conversion,
    clippy::unnecessary_cast,
    reason = "the system's types are the same on 32 bits"
)]
fn before_each(
    calls: &[libc::c_long],
    question: impl Fn(libc::c_long) -> bool + Send + 'static,
) -> Arc<Mutex<Vec<bool>>> {
    // SECCOMP_IOCTL_NOTIF_RECV and SECCOMP_IOCTL_NOTIF_SEND (linux/seccomp.h).
    const RECV: libc::Ioctl = 0xc050_2100_u32 as libc::Ioctl;
    const SEND: libc::Ioctl = 0xc018_2101_u32 as libc::Ioctl;
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = install(filter(calls, libc::SECCOMP_RET_USER_NOTIF), flags);
    // SAFETY: the call has just made the descriptor for us.
    let asked = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    let answers = Arc::new(Mutex::new(vec![]));
    let kept = answers.clone();
    // This thread ends with the process.
    std::thread::spawn(move || {
        loop {
            // SAFETY: zeros are a valid value of this structure.
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

/// The calls that remove a file.
#[cfg(target_arch = "x86_64")]
const UNLINK: [libc::c_long; 2] = [libc::SYS_unlink, libc::SYS_unlinkat];

#[cfg(not(target_arch = "x86_64"))]
const UNLINK: [libc::c_long; 1] = [libc::SYS_unlinkat];

/// A socket that has come meanwhile is not the one that was found stale.
#[tokio::test]
async fn a_socket_that_takes_the_place_of_a_stale_one_is_not_removed_with_it() {
    let test = "locks::a_socket_that_takes_the_place_of_a_stale_one_is_not_removed_with_it";
    let Some(role) = role() else {
        let (_folder, path) = place();
        drop(UnixListener::bind(&path).unwrap());
        return run_as(path.to_str().unwrap(), &mut itself(test));
    };
    let path = PathBuf::from(role);
    let (asked, other) = (Cell::new(false), OnceCell::new());
    let answers = before_each(&[libc::SYS_connect, libc::SYS_close], {
        let path = path.clone();
        // Acts once somebody has tried to connect and was refused.
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

/// A file is stale when nobody answers. Whoever finds it stale takes the name.
#[tokio::test]
async fn a_server_that_ends_answers_until_its_file_is_gone() {
    let test = "locks::a_server_that_ends_answers_until_its_file_is_gone";
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
    let test = "locks::an_endpoint_that_ends_answers_until_its_file_is_gone";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    let endpoint = asyncipc::Endpoint::bind(crate::common::unique_name("ends")).unwrap();
    let path = endpoint.pipe().as_path().to_path_buf();
    let answers = before_each(&UNLINK, {
        let path = path.clone();
        move |_| UnixStream::connect(&path).is_ok()
    });
    let handle = endpoint.handle();
    handle.shutdown();
    crate::common::within(endpoint.run()).await;
    assert!(!path.exists());
    assert_eq!(*answers.lock().unwrap(), [true]);
}

/// Anyone who could take the lock before a server listens would hold the server up for good.
#[tokio::test]
async fn the_lock_for_binding_is_a_file_that_only_the_user_can_open_and_is_gone_afterwards() {
    let test =
        "locks::the_lock_for_binding_is_a_file_that_only_the_user_can_open_and_is_gone_afterwards";
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
    let test =
        "locks::where_a_filter_refuses_locks_a_free_path_is_bound_and_a_dead_servers_socket_stays";
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
    let test = "locks::where_a_filter_refuses_locks_the_lock_of_another_server_is_left_alone";
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
    let test = "locks::where_the_user_may_not_write_nobody_is_said_to_be_binding";
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
    let test = "locks::on_a_file_system_that_cannot_be_written_binding_says_so";
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
