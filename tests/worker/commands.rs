//! One command starts worker after worker.

#[cfg(unix)]
use std::process::Stdio;

#[cfg(unix)]
use asyncipc::PipeServer;
#[cfg(unix)]
use tokio::process::Command;

use crate::common::ROLE;
#[cfg(unix)]
use crate::common::within;
#[cfg(unix)]
use crate::ended;
use crate::{CHANNEL, REPORT, Reports, exchange, program, said, start};

#[tokio::test]
async fn a_command_starts_one_worker_after_the_other_and_then_a_process_without_a_channel() {
    let mut reports = Reports::listen();
    let mut command = program("echo");
    command.env(REPORT, &reports.name);
    let (_one, one) = start(&mut command).await;
    let (_two, two) = start(&mut command).await;
    assert_ne!(one.name(), two.name());
    assert_ne!(one.peer().unwrap(), two.peer().unwrap());
    tokio::join!(exchange(one), exchange(two));

    let _three = command.env(ROLE, "has no channel").spawn().unwrap();
    assert_eq!(
        said(&mut reports.next().await).await,
        "no channel to the parent process: this process was not started with one"
    );
    let (_four, four) = start(command.env(ROLE, "echo")).await;
    exchange(four).await;
}

/// Counts what each thread has allocated and not freed.
#[cfg(unix)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::cell::Cell;

    thread_local! {
        #[allow(clippy::missing_const_for_thread_local, reason = "which it is")]
        pub static HELD: Cell<isize> = const { Cell::new(0) };
    }

    struct Counting;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    // SAFETY: every call goes to the system's allocator as it is.
    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            HELD.set(HELD.get() + layout.size() as isize);
            // SAFETY: the caller's promises are passed on.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
            HELD.set(HELD.get() - layout.size() as isize);
            // SAFETY: the caller's promises are passed on.
            unsafe { System.dealloc(ptr, layout) }
        }
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_does_not_grow_with_the_workers_that_it_starts() {
    let with_its_own = Command::new("true");
    let mut with_none = Command::new("true");
    with_none.env_clear().env("PATH", "/bin:/usr/bin");
    for mut command in [with_its_own, with_none] {
        let mut once = async || {
            let (mut child, mut conn) = start(&mut command).await;
            ended(&mut conn).await;
            assert!(within(child.wait()).await.unwrap().success());
        };
        // What is made once, for all, is there after a few of them.
        for _ in 0..10 {
            once().await;
        }
        let before = counting::HELD.get();
        for _ in 0..1000 {
            once().await;
        }
        let grown = counting::HELD.get() - before;
        assert!(grown < 4096, "grown by {grown} bytes");
    }
}

#[tokio::test]
async fn a_command_starts_workers_wherever_it_is_and_whatever_becomes_of_its_environment() {
    let mut command = Box::new(program("echo"));
    let (_one, one) = start(&mut command).await;
    // It is moved.
    let mut moved = *command;
    let (_two, two) = start(&mut moved).await;
    // Its environment is another's, while it goes on.
    let mut copy = program("echo");
    for (key, value) in moved.as_std().get_envs() {
        match value {
            Some(value) => copy.env(key, value),
            None => copy.env_remove(key),
        };
    }
    let (_three, three) = start(&mut copy).await;
    let (_four, four) = start(&mut moved).await;
    // What the last worker has left is taken out of it.
    let (_five, five) = start(moved.env_remove(CHANNEL)).await;
    for conn in [one, two, three, four, five] {
        exchange(conn).await;
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_command_in_the_place_and_with_the_environment_of_another_is_told_apart_at_once() {
    let mut place = program("echo");
    let (_one, one) = start(&mut place).await;
    let mut copy = program("echo");
    for (key, value) in place.as_std().get_envs() {
        copy.env(key, value.unwrap_or_default());
    }
    // It may live long enough to complain.
    copy.stderr(Stdio::null());
    let mut other = std::mem::replace(&mut place, copy);
    let error = within(PipeServer::worker().spawn(&mut place)).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("that of another command"), "{error}");
    let (_two, two) = start(&mut place).await;
    let (_three, three) = start(&mut other).await;
    for conn in [one, two, three] {
        exchange(conn).await;
    }
}
