//! Which names are taken, what they resolve to, and what is said about the others.

mod common;

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use asyncipc::{Error, InvalidName, PipeClient, PipeName, PipeServer};
use bytes::Bytes;
use common::{unique_name, within};
use futures::{FutureExt, SinkExt, StreamExt};

/// Where the logical name `x` is, with `x` itself taken away at the end.
const PREFIX: &str = if cfg!(windows) {
    r"\\.\pipe\"
} else {
    "/asyncipc"
};

fn rule_of(name: impl AsRef<OsStr>) -> String {
    let name = name.as_ref();
    let error = PipeName::new(name).expect_err(&format!("{name:?} was taken"));
    assert_eq!(error.name(), name.to_string_lossy());
    let text = error.to_string();
    assert!(
        text.contains(&format!("{:?}", error.name())) && text.contains(error.rule()),
        "{text:?} does not tell the name and the rule"
    );
    error.rule().to_string()
}

#[track_caller]
fn refused(name: impl AsRef<OsStr>, because: &str) {
    let rule = rule_of(name.as_ref());
    assert!(
        rule.contains(because),
        "{:?} was refused for {rule:?} and not for {because:?}",
        name.as_ref()
    );
}

async fn meet(name: &str) {
    let mut server = PipeServer::bind(name).unwrap();
    let mut client = within(PipeClient::connect(name)).await.unwrap();
    client.send(Bytes::from_static(b"hello")).await.unwrap();
    let mut accepted = within(server.accept()).await.unwrap();
    assert_eq!(within(accepted.next()).await.unwrap().unwrap(), "hello");
}

#[test]
fn every_rule_for_logical_names_is_the_same_on_every_platform() {
    refused("", "not empty");
    for name in [".", "..", "...", "a.", "a ", " "] {
        refused(name, "a logical name does not end with a dot or a space");
    }
    for name in ["a/b", r"a\b", "a/", r"a\", "./a", "../a", r"..\a", r"C:\a"] {
        refused(name, r"no `/` or `\`");
    }
    for name in [
        "a\0",
        "\0",
        "a\nb",
        "\ta",
        "\u{1b}[31m",
        "a\u{7f}",
        "\u{85}",
    ] {
        refused(name, "no control characters");
    }
}

#[test]
fn a_logical_name_that_is_not_unicode_is_refused() {
    refused(not_unicode("a"), "valid Unicode");
}

#[test]
fn a_full_path_of_the_other_platform_is_refused_with_the_way_out() {
    if cfg!(windows) {
        for name in ["/run/echo.sock", "/"] {
            refused(name, "use the logical name");
        }
    } else {
        for name in [r"\\.\pipe\echo", r"\\server\pipe\echo", r"\\"] {
            refused(name, "use the logical name");
        }
    }
}

#[test]
fn a_full_path_has_rules_of_its_own() {
    if cfg!(windows) {
        for name in [r"\\.\pipe\", r"\\server\PIPE\", r"\\?\UNC\server\pipe\"] {
            refused(name, "the pipe's name is not empty");
        }
        refused("\\\\.\\pipe\\a\0b", "no NUL");
        for name in [
            r"\\.\pipe\\a",
            r"\\.\pipe\a\",
            r"\\.\pipe\a\\b",
            r"\\?\pipe\a\",
            r"\\server\pipe\a\\b",
        ] {
            refused(name, r"something before and behind each `\`");
        }
        for name in ["//./pipe/echo", "//server/pipe/echo", r"//./pipe\echo"] {
            refused(name, r"written with `\`");
        }
        for name in [
            r"\\",
            r"\\.",
            r"\\.\pipe",
            r"\\.\pope\a",
            r"\\\pipe\a",
            r"\\./pipe/a",
            r"\\.\UNC\server",
            r"\\.\UNC\server\pope\a",
            r"\\?\UNC\.\pipe\a",
        ] {
            refused(name, r"\\.\pipe\NAME");
        }
    } else {
        refused("/run/a\0b", "no NUL");
        for name in ["/", "/run/", "/run/.", "/run/.."] {
            refused(name, "ends with a file's name");
        }
    }
}

/// Whether Windows opens a pipe under another name than the one that it is given.
#[cfg(windows)]
fn is_changed(path: &str) -> bool {
    use std::os::windows::ffi::{OsStrExt, OsStringExt};
    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetFullPathNameW(path: *const u16, len: u32, buf: *mut u16, file: *mut *mut u16) -> u32;
    }
    let given: Vec<u16> = OsStr::new(path).encode_wide().chain([0]).collect();
    let mut full = [0; 300];
    // SAFETY: the path ends with NUL, the buffer's length is given, and no file part is asked for.
    let len =
        unsafe { GetFullPathNameW(given.as_ptr(), 300, full.as_mut_ptr(), std::ptr::null_mut()) }
            as usize;
    assert!((1..300).contains(&len), "{path} becomes {len} units");
    OsString::from_wide(&full[..len]) != path
}

#[cfg(windows)]
#[test]
fn a_path_that_windows_would_change_is_refused_and_no_other() {
    for (name, why) in [
        (r"a/b", "no `/`"),
        (r".", "ends with a dot"),
        (r"..", "ends with a dot"),
        (r"a\..\b", "ends with a dot"),
        (r"a\.\b", "ends with a dot"),
        (r"a.\b", "ends with a dot"),
        (r"a.", "ends with a dot"),
        (r"a\b..", "ends with a dot"),
        (r"a ", "end with a space"),
        (r"a\b ", "end with a space"),
    ] {
        for folder in [r"\\.\pipe\", r"\\server\pipe\"] {
            let path = format!("{folder}{name}");
            assert!(is_changed(&path), "{path}");
            refused(&path, why);
        }
        // There it means what it says.
        PipeName::new(format!(r"\\?\pipe\{name}")).unwrap();
        PipeName::new(format!(r"\\?\UNC\server\pipe\{name}")).unwrap();
    }
    for name in [
        r"a\b", r"LOCAL\x", r"a.b\c", r"a \b", r" a", r".a", r"..a", "a\nb", "a\u{1}b", "a:b",
        r"a\nul", "con", "a*?\"<>|",
    ] {
        let path = format!(r"\\.\pipe\{name}");
        assert!(!is_changed(&path), "{path}");
        PipeName::new(path).unwrap();
    }
}

#[cfg(windows)]
#[tokio::test]
async fn a_pipe_with_backslashes_in_its_name_is_a_pipe_like_others() {
    let name = unique_name("parts");
    for start in [r"\\.\pipe\", r"\\?\pipe\", r"\\.\PIPE\LOCAL\"] {
        meet(&format!(r"{start}{name}\App\query")).await;
    }
    // What Windows would change elsewhere.
    for odd in [r"a\..\b", "a/b", r"a.\b ", "a."] {
        meet(&format!(r"\\?\pipe\{name}\{odd}")).await;
    }
    // These are two pipes, and one does not stand in for the other.
    let _one = PipeServer::bind(format!(r"\\.\pipe\{name}\one\x")).unwrap();
    let two = PipeClient::connect(format!(r"\\.\pipe\{name}\two\x")).await;
    assert!(matches!(two, Err(Error::NotFound { .. })), "{two:?}");
    let x = PipeClient::connect("x").await;
    assert!(matches!(x, Err(Error::NotFound { .. })), "{x:?}");
}

#[cfg(windows)]
#[tokio::test]
async fn a_busy_pipe_is_waited_for_under_all_of_its_name() {
    use asyncipc::windows::{ClientBuilderExt, ServerBuilderExt};
    let name = format!(r"\\.\pipe\{}\sub\x", unique_name("wait"));
    let mut server = PipeServer::builder(&name)
        .max_connections(1)
        .default_timeout(std::time::Duration::from_millis(1))
        .bind()
        .unwrap();
    let first = PipeClient::connect(&name).await.unwrap();
    let accepted = within(server.accept()).await.unwrap();
    let patient = PipeClient::builder(&name).timeout(std::time::Duration::MAX);
    // Only the system knows how long this server lets its clients wait, and only by its name.
    let error = within(patient.clone().server_default_timeout().connect()).await;
    assert!(matches!(error, Err(Error::TimedOut { .. })), "{error:?}");

    let mut waiting = Box::pin(patient.connect());
    assert!(common::stays_pending(&mut waiting).await);
    drop((first, accepted));
    within(waiting).await.unwrap();
}

/// The system lets only administrators listen under this name.
#[cfg(windows)]
#[tokio::test]
async fn a_protected_name_is_denied_or_had_and_never_called_somebody_elses() {
    let name = unique_name("protected");
    let name = format!(r"\\.\pipe\ProtectedPrefix\Administrators\{name}");
    match PipeServer::bind(&name) {
        Ok(mut server) => {
            let _client = within(PipeClient::connect(&name)).await.unwrap();
            within(server.accept()).await.unwrap();
            common::skipped(
                "this system, or an administrator, may take the name: nothing is denied",
            );
        }
        Err(Error::AccessDenied { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

#[test]
fn a_full_path_is_taken_as_it_is() {
    let paths: &[&str] = if cfg!(windows) {
        &[
            r"\\.\pipe\Echo 1.x",
            r"\\.\PIPE\echo",
            r"\\?\pipe\echo",
            r"\\server\pipe\echo",
            r"\\server\pipe\sql\query",
            r"\\?\UNC\server\pipe\echo",
            r"\\.\unc\server\pipe\echo",
        ]
    } else {
        &["/run/Echo 1.x", "//run/echo", "/run/../echo", "/écho"]
    };
    for &path in paths {
        let name = PipeName::new(path).unwrap();
        assert_eq!(name.as_path(), Path::new(path));
        assert_eq!(name.to_string(), path);
    }
    let odd = not_unicode(if cfg!(windows) { r"\\.\pipe\" } else { "/run/" });
    assert_eq!(PipeName::new(&odd).unwrap().as_path(), Path::new(&odd));
}

#[test]
fn a_logical_name_shows_the_path_that_it_resolves_to() {
    let name = PipeName::new("écho 1").unwrap();
    let shown = name.to_string();
    assert_eq!(shown, name.as_path().to_str().unwrap());
    assert!(shown.contains(PREFIX), "{shown}");
    assert!(name.as_path().is_absolute(), "{shown}");
    let file = if cfg!(windows) {
        "écho 1"
    } else {
        "écho 1.sock"
    };
    assert!(shown.ends_with(file), "{shown}");
    // The path is a name too, and means the same.
    assert_eq!(
        PipeName::new(name.as_path()).unwrap().as_path(),
        name.as_path()
    );
}

#[test]
fn whatever_can_be_a_name_is_taken_as_one() {
    let name = PipeName::new("echo").unwrap();
    let text = String::from("echo");
    let path = PathBuf::from("echo");
    let taken: [PipeName; 9] = [
        "echo".try_into().unwrap(),
        (&text).try_into().unwrap(),
        text.clone().try_into().unwrap(),
        OsStr::new("echo").try_into().unwrap(),
        Path::new("echo").try_into().unwrap(),
        (&path).try_into().unwrap(),
        path.clone().try_into().unwrap(),
        (&name).into(),
        text.parse().unwrap(),
    ];
    for it in taken {
        assert_eq!(it, name);
    }
}

#[tokio::test]
async fn a_pipe_name_stands_wherever_a_text_does() {
    let name = PipeName::new(unique_name("typed")).unwrap();
    let mut server = PipeServer::bind(&name).unwrap();
    let client = within(PipeClient::connect(name.clone())).await.unwrap();
    let accepted = within(server.accept()).await.unwrap();
    for it in [server.name(), client.name(), accepted.name()] {
        assert_eq!(*it, name);
    }
}

#[test]
fn a_logical_name_and_its_full_path_are_equal() {
    let logical = PipeName::new("equal").unwrap();
    let full = PipeName::new(logical.as_path()).unwrap();
    assert_eq!(logical, full);
    assert_eq!(HashSet::from([logical, full]).len(), 1);
    assert_ne!(
        PipeName::new("equal").unwrap(),
        PipeName::new("equal2").unwrap()
    );
}

#[tokio::test]
async fn a_logical_name_and_its_full_path_reach_the_same_server() {
    let logical = unique_name("path");
    let mut server = PipeServer::bind(&logical).unwrap();
    let path = server.name().to_string();
    let client = within(PipeClient::connect(&path)).await.unwrap();
    within(server.accept()).await.unwrap();
    assert_eq!(client.name().to_string(), path);
    drop((client, server));

    let mut server = PipeServer::bind(&path).unwrap();
    within(PipeClient::connect(&logical)).await.unwrap();
    within(server.accept()).await.unwrap();
}

#[tokio::test]
async fn unusual_names_work_as_names() {
    for odd in [
        " a b ",
        "a:b",
        "é€😀",
        "con",
        ".a",
        "-a",
        "%PATH%",
        "a*?\"<>|",
    ] {
        meet(&format!("{odd}-{}", unique_name("odd"))).await;
    }
}

#[test]
fn a_path_is_at_most_as_long_as_the_system_takes() {
    let room = longest() - PipeName::new("x").unwrap().to_string().len() + 1;
    assert_eq!(
        PipeName::new("x".repeat(room)).unwrap().to_string().len(),
        longest()
    );
    let rule = rule_of("x".repeat(room + 1));
    assert!(rule.contains(&(longest() + 1).to_string()), "{rule}");

    let root = if cfg!(windows) { r"\\.\pipe\" } else { "/" };
    let path = |len: usize| format!("{root}{}", "x".repeat(len - root.len()));
    PipeName::new(path(longest())).unwrap();
    let rule = rule_of(path(longest() + 1));
    assert!(rule.contains(&(longest() + 1).to_string()), "{rule}");
}

#[test]
fn a_length_is_counted_in_what_the_system_counts() {
    // One character, two UTF-16 units, four bytes.
    let room = longest() - PipeName::new("x").unwrap().to_string().len() + 1;
    let size = if cfg!(windows) { 2 } else { 4 };
    let fits = "😀".repeat(room / size);
    PipeName::new(&fits).unwrap();
    rule_of(format!("{fits}😀"));
    let rest = "x".repeat(room % size);
    PipeName::new(format!("{fits}{rest}")).unwrap();
    rule_of(format!("{fits}{rest}x"));
}

#[tokio::test]
async fn a_server_listens_on_the_longest_name() {
    let mut name = unique_name("long");
    let room = longest() - PipeName::new(&name).unwrap().to_string().len();
    name.push_str(&"x".repeat(room));
    assert_eq!(PipeName::new(&name).unwrap().to_string().len(), longest());
    meet(&name).await;
}

#[test]
fn a_bad_name_is_found_before_anything_is_asked_of_the_system() {
    // There is no runtime here, so anything further would fail for the lack of it.
    let refused = [
        PipeServer::bind("a/b").unwrap_err(),
        PipeServer::builder("a/b").bind_bytes().unwrap_err(),
        asyncipc::PipeListener::bind("a/b").unwrap_err(),
        PipeClient::connect("a/b")
            .now_or_never()
            .unwrap()
            .unwrap_err(),
        PipeClient::builder("a/b")
            .wait_for_server(true)
            .connect_bytes()
            .now_or_never()
            .unwrap()
            .unwrap_err(),
    ];
    for error in refused {
        assert!(
            matches!(&error, Error::InvalidName(it) if it.name() == "a/b"),
            "{error:?}"
        );
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(
            error.to_string().starts_with(r#"invalid pipe name "a/b""#),
            "{error}"
        );
    }
}

#[test]
fn an_invalid_name_is_an_error_like_any_other() {
    fn good<E: std::error::Error + Clone + Send + Sync + 'static>(_: &E) {}
    let error: InvalidName = PipeName::new("").unwrap_err();
    good(&error);
    assert_eq!(error, "".parse::<PipeName>().unwrap_err());
}

#[cfg(windows)]
#[tokio::test]
async fn a_server_listens_on_its_own_machine_only() {
    for path in [r"\\server\pipe\echo", r"\\?\UNC\server\pipe\echo"] {
        let error = PipeServer::bind(path).unwrap_err();
        assert!(
            matches!(&error, Error::InvalidName(it)
                if it.name() == path && it.rule().contains("its own machine")),
            "{error:?}"
        );
    }
}

#[cfg(windows)]
#[tokio::test]
async fn windows_does_not_tell_upper_from_lower_case() {
    let name = unique_name("case");
    let mut server = PipeServer::bind(&name).unwrap();
    let upper = format!(r"\\.\PIPE\{}", name.to_uppercase());
    let _client = within(PipeClient::connect(upper)).await.unwrap();
    within(server.accept()).await.unwrap();
}

/// The longest path, in the system's units, which are bytes for the names here.
fn longest() -> usize {
    #[cfg(windows)]
    return 256;
    // The NUL at the end has its place too.
    #[cfg(unix)]
    return size_of::<libc::sockaddr_un>() - std::mem::offset_of!(libc::sockaddr_un, sun_path) - 1;
}

/// `start`, and something behind it that is no Unicode.
fn not_unicode(start: &str) -> OsString {
    #[cfg(windows)]
    let rest = {
        use std::os::windows::ffi::OsStringExt;
        OsString::from_wide(&[0xd800])
    };
    #[cfg(unix)]
    let rest = {
        use std::os::unix::ffi::OsStringExt;
        OsString::from_vec(vec![0xff])
    };
    let mut name = OsString::from(start);
    name.push(rest);
    name
}
