//! The lock that a server takes while it binds.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use asyncipc::{Error, PipeServer};

use crate::common::{mode, place, role};
use crate::{again_below, give_away, in_use, leave_stale, meet, user};

#[tokio::test]
async fn whoever_locks_the_folder_keeps_nobody_from_a_path_in_it() {
    let (folder, path) = place();
    let held = fs::File::open(folder.path()).unwrap();
    held.lock().unwrap();
    meet(&mut PipeServer::bind(&path).unwrap()).await;

    leave_stale(&path);
    meet(&mut PipeServer::bind(&path).unwrap()).await;
}

/// The file that a server locks, beside the socket.
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
        // A process that has died holds no lock.
        drop(held);
        meet(&mut PipeServer::bind(&path).unwrap()).await;
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn without_a_place_for_a_lock_a_path_is_bound_only_when_it_is_free() {
    let test = "locks::without_a_place_for_a_lock_a_path_is_bound_only_when_it_is_free";
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
    // Only the lock's folder was missing.
    DirBuilder::new().create(missing).unwrap();
    meet(&mut PipeServer::bind(&path).unwrap()).await;
}

#[tokio::test]
async fn where_others_may_remove_files_the_lock_is_in_the_private_folder() {
    let test = "locks::where_others_may_remove_files_the_lock_is_in_the_private_folder";
    let Some(role) = role() else {
        let folder = tempfile::tempdir().unwrap();
        return again_below(test, folder.path(), None);
    };
    let shared = Path::new(&role).join("shared");
    DirBuilder::new().create(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    let path = shared.join("it.sock");
    leave_stale(&path);
    // A stranger's lock is beside the socket.
    let held = fs::File::create(lock_file(&path)).unwrap();
    held.lock().unwrap();
    meet(&mut PipeServer::bind(&path).unwrap()).await;
    let private = Path::new(&role).join(format!("asyncipc-{}", user()));
    assert_eq!(fs::read_dir(&private).unwrap().count(), 0);

    // Where users can remove only their own files, a stranger can at most be in the way.
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
    in_use(&path);
    if give_away(&lock_file(&path)) {
        meet(&mut PipeServer::bind(&path).unwrap()).await;
    }
}

#[tokio::test]
async fn servers_that_see_another_runtime_folder_take_the_same_lock() {
    let test = "locks::servers_that_see_another_runtime_folder_take_the_same_lock";
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

/// In a folder for all, others may link to a file of ours (fs.protected_hardlinks, proc_sys_fs(5)).
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
