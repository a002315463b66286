//! What differs between platforms.

pub(crate) use imp::*;

#[cfg(unix)]
mod imp {
    use std::io::{self, IoSlice};
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    use std::path::Path;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, send, sendmsg};
    use rustix::process::{Pid, Signal, kill_process_group};
    use tokio::io::{AsyncWriteExt, Interest};
    use tokio::net::UnixStream;
    use tokio::process::Command;

    /// A peer that knows nothing of the crate.
    pub(crate) type Raw = UnixStream;

    pub(crate) async fn connect(path: &Path) -> io::Result<Raw> {
        UnixStream::connect(path).await
    }

    /// Whether the server takes nobody at the moment.
    pub(crate) fn is_busy(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::WouldBlock
    }

    /// Writes all bytes, the first of them with some descriptors.
    pub(crate) async fn write_with_descriptors(
        peer: &mut Raw,
        bytes: &[u8],
        descriptors: usize,
    ) -> io::Result<()> {
        let null = std::fs::File::open("/dev/null")?;
        let fds = vec![null.as_fd(); descriptors];
        let written = peer
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                assert!(
                    control.push(SendAncillaryMessage::ScmRights(&fds)),
                    "has room for 8"
                );
                let flags = SendFlags::empty();
                Ok(sendmsg(
                    &*peer,
                    &[IoSlice::new(bytes)],
                    &mut control,
                    flags,
                )?)
            })
            .await?;
        peer.write_all(&bytes[written..]).await
    }

    /// Sends a byte that is not part of the stream. Only Linux has this.
    pub(crate) async fn write_urgent(peer: &mut Raw) -> io::Result<()> {
        if !cfg!(target_os = "linux") {
            return Ok(());
        }
        let sent = peer.async_io(Interest::WRITABLE, || {
            Ok(send(&*peer, b"!", SendFlags::OOB)?)
        });
        match sent.await {
            // Linux before 5.15 has it for other sockets only.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            sent => sent.map(drop),
        }
    }

    /// Puts a command's process and all of its children into a group, to end them together.
    pub(crate) fn in_own_group(command: &mut Command) {
        command.process_group(0);
    }

    /// Ends every process of the group.
    pub(crate) fn end_group(group: u32) {
        if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
            // Nobody may be left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(windows)]
mod imp {
    use std::io;
    use std::path::Path;

    use tokio::io::AsyncWriteExt;
    use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient};
    use tokio::process::Command;

    /// A peer that knows nothing of the crate.
    pub(crate) type Raw = NamedPipeClient;

    pub(crate) async fn connect(path: &Path) -> io::Result<Raw> {
        ClientOptions::new().open(path)
    }

    /// Whether the server takes nobody at the moment: ERROR_PIPE_BUSY.
    pub(crate) fn is_busy(error: &io::Error) -> bool {
        error.raw_os_error() == Some(231)
    }

    /// A pipe carries bytes only.
    pub(crate) async fn write_with_descriptors(
        peer: &mut Raw,
        bytes: &[u8],
        _descriptors: usize,
    ) -> io::Result<()> {
        peer.write_all(bytes).await
    }

    pub(crate) async fn write_urgent(_peer: &mut Raw) -> io::Result<()> {
        Ok(())
    }

    /// Children end by themselves when their parent has.
    pub(crate) fn in_own_group(_command: &mut Command) {}

    pub(crate) fn end_group(_group: u32) {}
}

/// How many processes of the group live, where the system tells.
pub(crate) fn living(group: u32) -> usize {
    if !cfg!(target_os = "linux") {
        return 0;
    }
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    let stats = processes.flatten().filter_map(|it| {
        let stat = std::fs::read_to_string(it.path().join("stat")).ok()?;
        // proc(5): pid (comm) state ppid pgrp; comm may hold anything but ends with the last ')'.
        let (_, fields) = stat.rsplit_once(") ")?;
        let mut fields = fields.split(' ');
        let (state, pgrp) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
        Some((state != "Z" && state != "X") && pgrp == group)
    });
    stats.filter(|lives| *lives).count()
}

/// How many descriptors this process has open, where the system tells.
pub(crate) fn descriptors() -> Option<usize> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    // One of them reads the folder.
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() - 1)
}

/// How much memory of this process is in use, in bytes, where the system tells.
pub(crate) fn memory() -> Option<u64> {
    // proc(5): size and resident, in pages, which have 4 KiB on the machines that this runs on.
    if !cfg!(target_os = "linux") {
        // Under Wine there is such a file, but no word of descriptors.
        return None;
    }
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
