//! Those that are measured, all of them.
//!
//! Each peer is used as its documentation does, for the work that is nearest to its nature: a
//! socket that blocks does so in its own process, requests are answered, shared memory is polled.

#[cfg(feature = "iceoryx2")]
mod iceoryx2;
#[cfg(feature = "ipc-channel")]
mod ipc_channel;
#[cfg(feature = "nng")]
mod nng;
#[cfg(feature = "tarpc")]
mod tarpc;
#[cfg(feature = "tonic")]
mod tonic;
#[cfg(feature = "zeromq")]
mod zeromq;

use crate::harness::{Entry, contenders};

/// The contenders of the criterion groups, and then the peers that were built in.
pub(crate) fn everybody() -> Vec<Entry> {
    let mut all = contenders();
    let peers: Vec<Entry> = vec![
        #[cfg(feature = "tarpc")]
        Entry::of::<tarpc::Tarpc>(),
        #[cfg(feature = "tonic")]
        Entry::of::<tonic::Tonic>(),
        #[cfg(feature = "ipc-channel")]
        Entry::of::<ipc_channel::IpcChannel>(),
        #[cfg(feature = "zeromq")]
        Entry::of::<zeromq::ZeroMq>(),
        #[cfg(feature = "nng")]
        Entry::of::<nng::Nng>(),
        #[cfg(feature = "iceoryx2")]
        Entry::of::<iceoryx2::Iceoryx2>(),
    ];
    all.extend(peers);
    all
}
