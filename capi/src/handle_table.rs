//! Finds the pipe of a handle. Handles are numbers with the type of a pointer, and no number is used twice.
//! So using the handle of a destroyed pipe is an error, and not a crash.

use std::collections::HashMap;
use std::ptr::without_provenance_mut;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::failure::{Code, Failure};
use crate::handle::Handle;
use crate::pipe::Pipe;
use crate::sync::lock;

#[derive(Default)]
struct HandleTable {
    last: usize,
    pipes: HashMap<usize, Arc<Pipe>>,
}

static TABLE: LazyLock<Mutex<HandleTable>> = LazyLock::new(Mutex::default);

pub(crate) fn add(pipe: Pipe) -> Result<*mut Handle, Failure> {
    let mut table = locked();
    let full = || Failure::new(Code::Internal, "all numbers for pipes are used");
    table.last = table.last.checked_add(1).ok_or_else(full)?;
    let number = table.last;
    table.pipes.insert(number, Arc::new(pipe));
    Ok(without_provenance_mut(number))
}

pub(crate) fn find(handle: *mut Handle) -> Result<Arc<Pipe>, Failure> {
    let pipe = locked().pipes.get(&handle.addr()).cloned();
    pipe.ok_or_else(|| unknown(handle))
}

pub(crate) fn remove(handle: *mut Handle) -> Result<Arc<Pipe>, Failure> {
    let pipe = locked().pipes.remove(&handle.addr());
    pipe.ok_or_else(|| unknown(handle))
}

fn locked() -> MutexGuard<'static, HandleTable> {
    lock(&TABLE)
}

fn unknown(handle: *mut Handle) -> Failure {
    if handle.is_null() {
        return Failure::new(Code::InvalidArgument, "the pipe is a null pointer");
    }
    let number = handle.addr();
    let text = match (1..=locked().last).contains(&number) {
        true => format!("pipe {number} was destroyed"),
        false => format!("{handle:p} is not a pipe"),
    };
    Failure::new(Code::InvalidHandle, text)
}
