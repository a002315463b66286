//! Handles: numbers in the shape of pointers, none of which is ever used twice. So a handle whose
//! pipe is destroyed is an error, and not a crash.

use std::collections::HashMap;
use std::ptr::without_provenance_mut;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::failure::{Code, Failure};
use crate::pipe::Pipe;
use crate::sync::lock;

/// One end of a pipe: a server with all its clients, or a client. Only the functions here know what
/// it is. Any thread can use it; after asyncipc_destroy() every use is ASYNCIPC_RESULT_INVALID_HANDLE.
#[derive(Debug)]
pub struct Handle {
    _private: (),
}

#[derive(Default)]
struct Registry {
    last: usize,
    pipes: HashMap<usize, Arc<Pipe>>,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

pub(crate) fn add(pipe: Pipe) -> Result<*mut Handle, Failure> {
    let mut registry = locked();
    let full = || Failure::new(Code::Internal, "all numbers for pipes are used");
    registry.last = registry.last.checked_add(1).ok_or_else(full)?;
    let number = registry.last;
    registry.pipes.insert(number, Arc::new(pipe));
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

fn locked() -> MutexGuard<'static, Registry> {
    lock(&REGISTRY)
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
