//! What differs between platforms.

pub(crate) use imp::*;

#[cfg(unix)]
mod imp {
    use rustix::process::{Pid, Signal, kill_process_group};
    use tokio::process::Command;

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
    use tokio::process::Command;

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
