//! What systems may lack or forbid: calls that a filter refuses, /proc, numbers of users, bits that
//! a umask clears. And what a fork leaves behind.
#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;

mod filters;
mod forks;
mod locks;
mod modes;
mod users;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use asyncipc::{PipeClient, PipeServer};
use common::{itself, role, run_as, skipped, within};
use futures::{SinkExt, StreamExt};

const UMASKS: [libc::mode_t; 3] = [0o022, 0o077, 0o777];

/// Runs the test again in a process with a temporary folder of its own that is for all, as /tmp is,
/// and with no other folder for sockets.
fn again_in_a_folder_for_all(test: &str) {
    let temporary = tempfile::tempdir().unwrap();
    fs::set_permissions(temporary.path(), Permissions::from_mode(0o1777)).unwrap();
    let mut command = itself(test);
    command
        .env("TMPDIR", temporary.path())
        .env_remove("XDG_RUNTIME_DIR");
    run_as(temporary.path().to_str().unwrap(), &mut command);
}

/// Sets the umask of this process, which must run this one test only.
fn umask(mask: libc::mode_t) {
    // SAFETY: takes a number.
    unsafe { libc::umask(mask) };
}

/// A filter (seccomp(2)) that gives `answer` to some calls.
fn filter(calls: &[libc::c_long], answer: u32) -> Vec<libc::sock_filter> {
    let statement = |code, k| libc::sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let give = |k| statement((libc::BPF_RET | libc::BPF_K) as u16, k);
    // The data that a filter gets begins with the call's number.
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

/// Puts a filter on this thread and on threads that it starts, permanently.
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

/// The error with which a filter must refuse calls in this process. In the test itself, runs the test in
/// a process for each error, and returns `None`.
fn refused_with(test: &str) -> Option<libc::c_int> {
    let Some(role) = role() else {
        for error in [libc::EPERM, libc::ENOSYS] {
            run_as(&error.to_string(), &mut itself(test));
        }
        return None;
    };
    Some(role.parse().unwrap())
}

/// Makes these calls of this thread fail with `error`.
fn refuse(calls: &[libc::c_long], error: libc::c_int) {
    install(filter(calls, libc::SECCOMP_RET_ERRNO | error as u32), 0);
}

/// Runs `test` in new namespaces, if that is allowed here. `options` are those of unshare(1), and
/// `prepare` is shell code that runs first.
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

/// The server receives a message from a client.
async fn meet(server: &mut PipeServer) {
    let mut client = within(PipeClient::connect(server.name())).await.unwrap();
    client.send("hello".into()).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
}
