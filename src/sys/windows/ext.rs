use crate::{PipeStream, ServerBuilder};

/// What a server on a Windows named pipe can be told besides.
pub trait ServerBuilderExt: Sized {
    /// The quotas of the pipe in bytes, for what comes in and for what goes out. Default 64 KiB
    /// each. A write waits while the peer's unread bytes exceed the quota.
    fn buffer_sizes(self, incoming: u32, outgoing: u32) -> Self;

    /// Lets clients on other machines connect, which are rejected otherwise.
    fn allow_remote_clients(self) -> Self;

    /// Who may do what, in the [security descriptor definition language][sddl]. Default: the
    /// user that the server runs as and the system account may do everything, nobody else
    /// anything.
    ///
    /// FILE_GENERIC_WRITE contains the right to create instances of the pipe, so whoever has it
    /// can pose as the server: give others individual rights. The text is checked when binding.
    ///
    /// [sddl]: https://learn.microsoft.com/windows/win32/secauthz/security-descriptor-string-format
    fn security_descriptor(self, sddl: impl Into<String>) -> Self;
}

impl ServerBuilderExt for ServerBuilder {
    fn buffer_sizes(mut self, incoming: u32, outgoing: u32) -> Self {
        self.platform.in_buffer = incoming;
        self.platform.out_buffer = outgoing;
        self
    }

    fn allow_remote_clients(mut self) -> Self {
        self.platform.accept_remote = true;
        self
    }

    fn security_descriptor(mut self, sddl: impl Into<String>) -> Self {
        self.platform.security_descriptor = Some(sddl.into());
        self
    }
}

impl std::os::windows::io::AsHandle for PipeStream {
    fn as_handle(&self) -> std::os::windows::io::BorrowedHandle<'_> {
        self.io.as_handle()
    }
}

impl std::os::windows::io::AsRawHandle for PipeStream {
    fn as_raw_handle(&self) -> std::os::windows::io::RawHandle {
        std::os::windows::io::AsHandle::as_handle(self).as_raw_handle()
    }
}
