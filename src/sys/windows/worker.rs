//! A channel to a child process: a pipe of one instance, under a name that nobody can guess, which
//! only the child may take.

use std::ffi::OsStr;
use std::io;
use std::os::windows::io::{AsHandle, AsRawHandle};
use std::path::Path;
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::task::yield_now;
use tokio_util::task::TaskTracker;
use windows_sys::Wdk::System::Threading::{NtQueryInformationProcess, ProcessBasicInformation};
use windows_sys::Win32::Foundation::RtlNtStatusToDosError;
use windows_sys::Win32::Security::Cryptography::ProcessPrng;
use windows_sys::Win32::System::Pipes::DisconnectNamedPipe;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, PROCESS_BASIC_INFORMATION};

use super::connect::{ConnectOptions, connect, wait_until_free};
use super::listener::{Factory, ListenOptions, PendingInstance, SecurityDescriptor};
use super::name::full_path;
use super::peer::client_process;
use super::stream::Stream;
use crate::access::Access;
use crate::sys::{Address, Lingering, PlatformError, Waited};

/// The pause between two tries where the system cannot wait for a busy pipe.
const PAUSE: Duration = Duration::from_millis(10);

/// This process's end.
pub(crate) struct ParentEnd {
    pending: PendingInstance,
    factory: Factory,
    name: String,
}

/// Where the child gets its end.
#[derive(Debug)]
pub(crate) struct ChildEnd {
    name: String,
}

/// Where this process gets its end.
#[derive(Debug)]
pub(crate) struct Inherited {
    /// The process that made the channel.
    parent: u32,
    name: String,
}

/// Makes the pipe. The child can connect from this moment on.
pub(crate) fn channel() -> io::Result<(ParentEnd, ChildEnd)> {
    let (parent, random) = (std::process::id(), random());
    let name = format!(r"\\.\pipe\asyncipc-{parent}-{random:032x}");
    let options = ListenOptions::default();
    let security = SecurityDescriptor::of(Access::Owner)?;
    let factory = Factory::new(Path::new(&name), &options, security).single();
    let parent = ParentEnd {
        pending: PendingInstance::new(factory.create(true)?)?,
        factory,
        name: name.clone(),
    };
    Ok((parent, ChildEnd { name }))
}

impl ParentEnd {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the child has connected, or has ended before that. Disconnects anybody else.
    pub(crate) async fn connected(
        self,
        child: &mut Child,
        linger: Duration,
    ) -> Result<Stream, PlatformError> {
        // Waiting for the child would close its stdin.
        let stdin = child.stdin.take();
        let connected = self.wait_for(child, linger).await;
        child.stdin = stdin;
        connected
    }

    async fn wait_for(
        mut self,
        child: &mut Child,
        linger: Duration,
    ) -> Result<Stream, PlatformError> {
        let failed = |e| PlatformError::io("cannot wait for the worker on", e);
        let process_id = child.id();
        loop {
            let (instance, connected, ended) = tokio::select! {
                biased;
                (instance, connected) = &mut self.pending => (instance, connected, None),
                ended = child.wait() => {
                    // It may have connected and sent something just before.
                    let (instance, connected) = self.pending.stop();
                    (instance, connected, Some(ended.map_err(failed)?))
                }
            };
            let client = match connected {
                // The system may not know a client that has left already.
                Ok(()) => client_process(instance.as_handle()).ok(),
                Err(_) if ended.is_some() => None,
                Err(error) => return Err(failed(error)),
            };
            if client.is_some() && client == process_id {
                let instance = self.factory.adopt(instance).map_err(failed)?;
                let lingering = Lingering {
                    tasks: TaskTracker::new(),
                    limit: linger,
                };
                return Ok(Stream::server(instance, None, lingering));
            }
            if let Some(status) = ended {
                return Err(PlatformError::WorkerEnded(status));
            }
            tracing::warn!(pipe = %self.name, client, "disconnected a client that is not the worker");
            // SAFETY: the handle is open.
            if unsafe { DisconnectNamedPipe(instance.as_raw_handle()) } == 0 {
                return Err(failed(io::Error::last_os_error()));
            }
            self.pending = PendingInstance::new(instance).map_err(failed)?;
        }
    }
}

impl ChildEnd {
    /// Where the child finds its end: what [`Inherited::find`] takes.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", std::process::id(), self.name)
    }

    /// Nothing is inherited: the child connects.
    pub(crate) fn give_to(&mut self, _: &mut Command, _: Option<u64>) -> Option<u64> {
        None
    }

    /// The child has the address and needs nothing else.
    pub(crate) fn was_given(&self) -> io::Result<()> {
        Ok(())
    }
}

impl Inherited {
    /// Checks that the address is one for this process, or says why it is not.
    pub(crate) fn find(address: &str) -> Result<Self, String> {
        let parse = |(parent, path): (&str, &str)| {
            full_path(OsStr::new(path))?.ok()?;
            Some((parent.parse().ok()?, path.to_owned()))
        };
        let Some((parent, name)) = address.split_once(':').and_then(parse) else {
            return Err(format!("{address:?} is no process with its pipe"));
        };
        // Grandchildren inherit the variable too, and would wait for a pipe that is not theirs.
        match parent_process() {
            Ok(own) if own != parent => Err(format!(
                "{name} is for a process that process {parent} has started itself, and this one \
                 was started by process {own}"
            )),
            Ok(_) => Ok(Inherited { parent, name }),
            Err(e) => Err(format!("cannot tell which process started this one: {e}")),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Connects to the parent. Waits while another client is connected, which the parent disconnects.
    pub(crate) async fn open(self) -> Result<Stream, PlatformError> {
        let options = ConnectOptions::default();
        let address = Address {
            path: Path::new(&self.name),
            is_logical: false,
        };
        let stream = loop {
            match connect(address, &options).await {
                Ok(stream) => break stream,
                Err(PlatformError::Busy) => match wait_until_free(address, &options, None).await {
                    Waited::Ended => yield_now().await,
                    _ => tokio::time::sleep(PAUSE).await,
                },
                Err(error) => return Err(error),
            }
        };
        let server = stream
            .peer()
            .map_err(|e| PlatformError::io("cannot tell the server of", e))?
            .process_id;
        if server != Some(self.parent) {
            return Err(PlatformError::AccessDenied {
                action: "cannot connect to",
                reason: format!(
                    "its server is process {}, not the parent {}",
                    server.unwrap_or_default(),
                    self.parent
                ),
            });
        }
        Ok(stream)
    }
}

/// The process that started this one. It may have ended.
fn parent_process() -> io::Result<u32> {
    // SAFETY: a structure of numbers and a pointer, for which zero is valid.
    let mut basic: PROCESS_BASIC_INFORMATION = unsafe { std::mem::zeroed() };
    let size = size_of_val(&basic) as u32;
    let mut written = 0;
    // SAFETY: the pseudo-handle of the process is always valid; the structure's size is given in
    // bytes, and it is the one of this class.
    let status = unsafe {
        NtQueryInformationProcess(
            GetCurrentProcess(),
            ProcessBasicInformation,
            (&raw mut basic).cast(),
            size,
            &mut written,
        )
    };
    if status < 0 {
        // SAFETY: takes a number.
        let error = unsafe { RtlNtStatusToDosError(status) };
        return Err(io::Error::from_raw_os_error(error as i32));
    }
    Ok(basic.InheritedFromUniqueProcessId as u32)
}

fn random() -> u128 {
    let mut bytes = [0; 16];
    // SAFETY: the buffer's size is given. Its documentation says that the call cannot fail.
    unsafe { ProcessPrng(bytes.as_mut_ptr(), bytes.len()) };
    u128::from_ne_bytes(bytes)
}
