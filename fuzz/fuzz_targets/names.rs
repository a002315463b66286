//! Names: whatever is given, a rule refuses it or it stands for one path, which as a name stands
//! for itself.
#![no_main]

use std::ffi::OsStr;

use asyncipc::PipeName;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        check(OsStr::from_bytes(bytes));
    }
    check(OsStr::new(&*String::from_utf8_lossy(bytes)));
});

fn check(given: &OsStr) {
    match PipeName::new(given) {
        Ok(name) => {
            let path = name.as_path();
            assert!(path.is_absolute());
            let again = PipeName::new(path).expect("a path that a name resolved to is a name");
            assert_eq!(again.as_path(), path);
            if path.as_os_str() != given {
                // A logical name: two of them never share a path.
                let file = path.file_name().expect("a path with a file's name");
                let given = given.to_str().expect("a logical name is valid Unicode");
                let expected = if cfg!(windows) {
                    given.to_owned()
                } else {
                    format!("{given}.sock")
                };
                assert_eq!(file, OsStr::new(&expected));
            }
        }
        Err(refused) => {
            assert_eq!(refused.name(), given.to_string_lossy());
            assert!(!refused.rule().is_empty());
        }
    }
}
