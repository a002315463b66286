//! Programs in C that check by themselves what the header promises, in `tests/programs`.

mod common;

use std::process::Command;

use common::{Build, Running, program, unique_name};

/// Runs a program to its end, which has to be a good one.
fn passes(source: &str, build: Build, arguments: &[&str]) {
    if let Some(command) = program(source, build) {
        ends_well(command, arguments);
    }
}

fn ends_well(mut command: Command, arguments: &[&str]) {
    command.arg(unique_name("program")).args(arguments);
    let (code, said) = Running::start(command).ends();
    let last = said.last().map(String::as_str);
    for why in said.iter().filter_map(|it| it.strip_prefix("skipped: ")) {
        common::skipped(why);
    }
    assert_eq!((code, last), (Some(0), Some("ok")), "{said:#?}");
}

#[test]
fn misuse_is_an_error_and_not_a_crash() {
    passes("tests/programs/misuse.c", Build::Plain, &[]);
}

#[test]
fn callbacks_come_as_promised() {
    passes("tests/programs/callbacks.c", Build::Plain, &[]);
}

#[test]
fn the_classes_do_what_the_functions_do() {
    passes("tests/programs/classes.cpp", Build::Plain, &[]);
}

#[cfg(windows)]
#[test]
fn callbacks_come_as_promised_in_message_mode() {
    passes("tests/programs/callbacks.c", Build::Plain, &["messages"]);
}

#[cfg(unix)]
#[test]
fn misuse_does_nothing_to_memory() {
    passes("tests/programs/misuse.c", Build::Sanitized, &[]);
}

#[cfg(unix)]
#[test]
fn callbacks_leave_memory_as_it_should_be() {
    passes("tests/programs/callbacks.c", Build::Sanitized, &[]);
}

#[cfg(unix)]
#[test]
fn a_pipe_may_be_deleted_by_its_own_delegate() {
    passes("tests/programs/classes.cpp", Build::Sanitized, &[]);
}

#[cfg(unix)]
#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let Some(mut command) = program("tests/programs/logging.c", Build::Plain) else {
        return;
    };
    let full = match std::fs::OpenOptions::new().write(true).open("/dev/full") {
        Ok(full) => full,
        Err(error) => return common::skipped(format!("/dev/full: {error}")),
    };
    command.env("ASYNCIPC_LOG", "trace").stderr(full);
    ends_well(command, &[]);
}

#[cfg(unix)]
#[test]
fn signals_are_for_the_programs_own_threads() {
    passes("tests/programs/unix/signals.c", Build::Plain, &[]);
}

#[cfg(unix)]
#[test]
fn a_forked_child_is_told_that_a_pipe_is_its_parents() {
    passes("tests/programs/unix/fork.c", Build::Plain, &[]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_with_its_parents_number_is_told_so_too() {
    passes("tests/programs/unix/namespace.c", Build::Plain, &[]);
}

/// Where an error can be brought about that does not pass.
#[cfg(target_os = "linux")]
#[test]
fn a_server_that_can_accept_nobody_any_more_says_so() {
    passes("tests/programs/unix/ruined.c", Build::Plain, &[]);
}

/// Where memory can be limited so that it fails.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn a_thread_that_cannot_be_started_in_a_callback_is_an_error() {
    passes("tests/programs/unix/threads.c", Build::Plain, &[]);
}

/// Other systems do not limit it.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
#[test]
fn a_message_that_there_is_no_memory_for_is_an_error() {
    passes("tests/programs/unix/memory.c", Build::Plain, &[]);
}
