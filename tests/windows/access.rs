//! Who may connect, and who may take the name.

use std::os::windows::io::{AsRawHandle, RawHandle};
use std::ptr::null_mut;

use asyncipc::windows::ServerBuilderExt;
use asyncipc::{Access, ClientBuilder, Error, PipeClient, PipeServer, PipeStream, ServerBuilder};
use futures::SinkExt;
use windows_sys::Win32::Foundation::{ERROR_SUCCESS, LocalFree};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_KERNEL_OBJECT,
};
use windows_sys::Win32::Security::{
    DACL_SECURITY_INFORMATION, OWNER_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR,
};

use crate::common::{skipped, under_wine, unique_name, within};
use crate::{ends, messages, receive};

/// Who owns the pipe, and who may do what, as the system reports it.
fn descriptor(pipe: &PipeStream) -> String {
    let handle: RawHandle = pipe.as_raw_handle();
    let mut descriptor = null_mut();
    // SAFETY: the handle is open; `descriptor` is written on success, and freed below.
    unsafe {
        let error = GetSecurityInfo(
            handle,
            SE_KERNEL_OBJECT,
            PARTS,
            null_mut(),
            null_mut(),
            null_mut(),
            null_mut(),
            &mut descriptor,
        );
        assert_eq!(error, ERROR_SUCCESS);
        text(descriptor)
    }
}

const PARTS: u32 = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;

/// A descriptor as the system writes it, with its own abbreviations.
fn as_the_system_writes_it(sddl: &str) -> String {
    let wide: Vec<u16> = sddl.encode_utf16().chain([0]).collect();
    let mut descriptor = null_mut();
    // SAFETY: the text ends with NUL; `descriptor` is written on success, and freed by `text`.
    unsafe {
        let done = ConvertStringSecurityDescriptorToSecurityDescriptorW(
            wide.as_ptr(),
            SDDL_REVISION_1,
            &mut descriptor,
            null_mut(),
        );
        assert_ne!(done, 0, "{sddl}");
        text(descriptor)
    }
}

/// # Safety
///
/// The system must have allocated `descriptor`. This frees it.
unsafe fn text(descriptor: PSECURITY_DESCRIPTOR) -> String {
    let (mut text, mut len) = (null_mut(), 0);
    // SAFETY: on success `text` has `len` units. They are freed here as well.
    unsafe {
        let done = ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor,
            SDDL_REVISION_1,
            PARTS,
            &mut text,
            &mut len,
        );
        assert_ne!(done, 0, "{}", std::io::Error::last_os_error());
        let units = std::slice::from_raw_parts(text, len as usize);
        let string = String::from_utf16(units).unwrap();
        LocalFree(text.cast());
        LocalFree(descriptor);
        string.trim_end_matches('\0').into()
    }
}

/// The client's end of a pipe that `builder` makes, and this user.
async fn opened(builder: &ServerBuilder, client: &ClientBuilder) -> (PipeStream, String) {
    let mut server = builder.bind_bytes().unwrap();
    let (client, accepted) =
        within(async { tokio::join!(client.connect_bytes(), server.accept()) }).await;
    let user = accepted.unwrap().peer().unwrap().user.unwrap();
    (client.unwrap(), user.to_string())
}

#[tokio::test]
async fn a_pipe_belongs_to_its_user_and_others_may_do_what_access_says() {
    for (access, others) in [
        (None, ""),
        (Some(Access::Owner), ""),
        (Some(Access::Group), "(A;;0x12019b;;;AU)"),
        (Some(Access::Everyone), "(A;;0x12019b;;;WD)"),
    ] {
        let (mut builder, client) = ends("access");
        if let Some(access) = access {
            builder = builder.access(access);
        }
        let (pipe, user) = opened(&builder, &client).await;
        let expected = format!("O:{user}D:P(A;;FA;;;{user})(A;;FA;;;SY){others}");
        assert_eq!(
            descriptor(&pipe),
            as_the_system_writes_it(&expected),
            "{access:?}"
        );
    }
}

#[tokio::test]
async fn a_descriptor_of_ones_own_is_taken_in_place_of_the_access() {
    let (builder, client) = messages("user");
    let (_, user) = opened(&builder, &client).await;
    let (builder, client) = messages("descriptor");
    let sddl = format!("O:{user}D:P(A;;FA;;;{user})(D;;FA;;;NU)(A;;0x12019b;;;IU)");
    let builder = builder.access(Access::Everyone).security_descriptor(&sddl);
    let (pipe, _) = opened(&builder, &client).await;
    assert_eq!(descriptor(&pipe), as_the_system_writes_it(&sddl));
}

#[tokio::test]
async fn a_bad_descriptor_is_refused_with_its_place() {
    let (builder, client) = ends("bad-descriptor");
    for (sddl, place) in [
        (
            "D:P(A;;FA;;;SY)(A;;nonsense;;;WD)",
            Some((15, "(A;;nonsense;;;WD)")),
        ),
        (
            "D:P(A;;FA;;;SY)S:(ML;;BAD;;;LW)",
            Some((17, "(ML;;BAD;;;LW)")),
        ),
        ("D:P(A;;FA;;;NOBODY)", Some((3, "(A;;FA;;;NOBODY)"))),
        ("nonsense", None),
        ("D:P(A;;FA;;;SY", None),
    ] {
        let error = builder
            .clone()
            .security_descriptor(sddl)
            .bind()
            .unwrap_err();
        let Error::InvalidOption { option, rule, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(option, "security_descriptor");
        assert!(rule.contains(&format!("{sddl:?}")), "{rule}");
        if let Some((at, part)) = place {
            assert!(rule.contains(&format!("{part:?} at byte {at} ")), "{rule}");
        }
    }
    let error = client.no_wait().connect().await.unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_name_that_another_program_listens_on_is_refused() {
    if under_wine() {
        return skipped("Wine does not enforce FILE_FLAG_FIRST_PIPE_INSTANCE");
    }
    let name = unique_name("squatted");
    let path = format!(r"\\.\pipe\{name}");
    let squatter = tokio::net::windows::named_pipe::ServerOptions::new();
    let _squatter = squatter.create(&path).unwrap();
    let verbatim = format!(r"\\?\pipe\{name}");
    for builder in [
        PipeServer::builder(&name),
        PipeServer::builder(&name).message_mode(),
        PipeServer::builder(&verbatim),
    ] {
        let error = builder.bind().unwrap_err();
        assert!(matches!(error, Error::AddressInUse { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn remote_clients_are_rejected_unless_they_are_allowed() {
    if under_wine() {
        return skipped("Wine has no remote pipes");
    }
    let (allowed, refused) = (unique_name("remote"), unique_name("remote"));
    let builder = PipeServer::builder(&allowed).access(Access::Everyone);
    let mut server = builder.allow_remote_clients().bind().unwrap();
    let _refusing = PipeServer::builder(&refused)
        .access(Access::Everyone)
        .bind()
        .unwrap();
    for host in ["localhost", "127.0.0.1"] {
        let remote = |name| PipeClient::builder(format!(r"\\{host}\pipe\{name}")).no_wait();
        // The pipe that allows remote clients shows whether this machine serves pipes to others at all.
        let mut client = match within(remote(&allowed).connect()).await {
            Ok(client) => client,
            Err(e) => {
                skipped(format_args!("{host} serves no pipes: {e}"));
                continue;
            }
        };
        client.send("from afar".into()).await.unwrap();
        let mut accepted = within(server.accept()).await.unwrap();
        assert_eq!(receive(&mut accepted).await, "from afar");
        let error = within(remote(&refused).connect()).await.unwrap_err();
        assert!(
            !matches!(error, Error::ModeMismatch { .. } | Error::TimedOut { .. }),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_descriptor_without_an_owner_makes_the_pipe_the_users_own() {
    let (server, client) = ends("no-owner");
    let server = server.security_descriptor("D:P(A;;FA;;;WD)");
    let mut server = server.bind().unwrap();
    let connecting = client.verify_server(true).connect();
    let (client, accepted) = within(async { tokio::join!(connecting, server.accept()) }).await;
    accepted.unwrap();
    assert!(client.unwrap().peer().unwrap().is_same_user());
}

#[tokio::test]
async fn a_descriptor_that_keeps_the_server_from_making_instances_is_refused_when_binding() {
    if under_wine() {
        return skipped("Wine does not ask for the right to make instances");
    }
    let (server, _) = ends("no-instances");
    // Everybody may connect, nobody may make instances.
    let server = server.security_descriptor("D:P(A;;0x12019b;;;WD)");
    let error = server.bind().unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_descriptor_with_a_nul_is_refused() {
    let builder = PipeServer::builder(unique_name("nul"));
    let error = builder
        .security_descriptor("D:P(A;;FA;;;WD)\0 and more")
        .bind()
        .unwrap_err();
    assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
}
