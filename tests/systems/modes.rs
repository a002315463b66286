//! The mode of the socket, where the system knows few ways to set it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use asyncipc::PipeServer;
use asyncipc::unix::ServerBuilderExt;

use crate::common::{itself, mode, place, role, run_as};
use crate::{UMASKS, in_namespace, meet, refuse, refused_with, umask};

/// The number of fchmodat2(2), for which not every libc has a name.
const FCHMODAT2: libc::c_long = 452;

/// Modes to ask for. `UMASKS` keep some, all or none of their bits.
const MODES: [u32; 3] = [0o600, 0o660, 0o666];

const WITHOUT_PROC: (&[&str], &str) = (
    &["--user", "--map-root-user", "--mount"],
    "mount -t tmpfs none /proc &&",
);

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
    let test = "modes::a_server_binds_with_any_mode_under_any_umask";
    if role().is_none() {
        return run_as("alone", &mut itself(test));
    }
    bind_with_every_mode(None).await;
    bind_with_every_mode(Some(0o777)).await;
}

#[tokio::test]
async fn a_server_binds_where_a_filter_knows_no_way_to_change_a_mode_by_descriptor() {
    let test = "modes::a_server_binds_where_a_filter_knows_no_way_to_change_a_mode_by_descriptor";
    let Some(error) = refused_with(test) else {
        return;
    };
    refuse(&[libc::SYS_fchmodat, FCHMODAT2], error);
    bind_with_every_mode(None).await;
    bind_with_every_mode(Some(0o777)).await;
}

#[tokio::test]
async fn a_server_binds_where_a_filter_refuses_to_change_modes_unless_the_umask_needs_it() {
    let test =
        "modes::a_server_binds_where_a_filter_refuses_to_change_modes_unless_the_umask_needs_it";
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
    // Binding has left nothing behind.
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_server_binds_without_proc() {
    let test = "modes::a_server_binds_without_proc";
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
    let test = "modes::a_server_binds_without_proc_and_behind_a_filter_where_nobody_else_can_write";
    let (options, prepare) = WITHOUT_PROC;
    let Some(role) = role() else {
        for error in [libc::EPERM, libc::ENOSYS] {
            in_namespace(options, prepare, test, &error.to_string());
        }
        return;
    };
    refuse(&[FCHMODAT2], role.parse().unwrap());
    bind_with_every_mode(None).await;
    // In a folder where nobody else can remove our files.
    bind_with_every_mode(Some(0o1777)).await;

    // Somebody else might replace the socket with a link, which chmod would follow.
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
