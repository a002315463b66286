/// Two halves that do not belong together, given back.
///
/// From [`PipeReceiver::reunite`](crate::PipeReceiver::reunite) and
/// [`OwnedReadHalf::reunite`](crate::OwnedReadHalf::reunite).
#[derive(Debug, thiserror::Error)]
#[error("these halves belong to different connections")]
pub struct ReuniteError<R, W>(
    /// The half that reads or receives.
    pub R,
    /// The half that writes or sends.
    pub W,
);
