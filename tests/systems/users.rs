//! Users without a number, and their folders.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use asyncipc::{Error, PipeClient, PipeServer};

use crate::common::{itself, mode, place, role, run_as, skipped, within};
use crate::{UMASKS, again_in_a_folder_for_all, in_namespace, meet, umask};

/// In a user namespace without a map, no user has a number: all appear as the same one.
const WITHOUT_USERS: &[&str] = &["--user"];

#[tokio::test]
async fn a_user_without_a_number_is_not_taken_for_another_one() {
    let test = "users::a_user_without_a_number_is_not_taken_for_another_one";
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
    let test = "users::a_folder_of_a_user_without_a_number_is_his_who_can_change_its_mode";
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
            // Gives the runtime folder away as well.
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
    let test = "users::where_everybody_has_a_number_nobody_is_a_user_like_others";
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
    let test = "users::a_private_folder_that_keeps_its_owner_out_is_mended";
    let Some(role) = role() else {
        return again_in_a_folder_for_all(test);
    };
    // Nothing keeps root out.
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
        // Nothing is left, not even the lock file.
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}

#[tokio::test]
async fn without_the_variable_a_missing_server_is_looked_for_where_logging_in_sets_it_to() {
    let test =
        "users::without_the_variable_a_missing_server_is_looked_for_where_logging_in_sets_it_to";
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
