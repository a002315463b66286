//! Sockets are streams of bytes: there is none that keeps messages apart.

use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::sys::Received;

/// Never exists here.
#[derive(Debug)]
pub(crate) enum Messages {}

impl Messages {
    pub(crate) fn poll_recv(&self, _: &mut Context<'_>, _: usize) -> Poll<io::Result<Received>> {
        match *self {}
    }

    pub(crate) fn start_send(&self, _: Bytes) {
        match *self {}
    }

    pub(crate) fn keep_spent(&self) {
        match *self {}
    }

    pub(crate) fn take_spent(&self) -> Vec<Bytes> {
        match *self {}
    }

    pub(crate) fn is_idle(&self) -> bool {
        match *self {}
    }

    pub(crate) fn poll_flush(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}
