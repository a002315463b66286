use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use crate::Error;

/// The length of the header before each payload.
pub(crate) const HEADER: usize = 4;

/// The rules for messages on a stream of bytes, without any I/O: a 4-byte big-endian length,
/// then that many bytes of payload.
///
/// This is the wire format of tokio-util's [`LengthDelimitedCodec`] with its defaults, and this
/// codec can replace it in a [`Framed`]. It differs in how it treats a hostile or
/// broken peer: a length above the limit is refused as soon as its header is there, before any memory
/// is allocated for it, and memory for a long message grows with what has arrived.
///
/// ```
/// use asyncipc::MessageCodec;
/// use bytes::{Bytes, BytesMut};
/// use tokio_util::codec::{Decoder, Encoder};
///
/// let mut codec = MessageCodec::new(1024);
/// let mut wire = BytesMut::new();
/// codec.encode(Bytes::from_static(b"hello"), &mut wire)?;
/// assert_eq!(&wire[..], b"\0\0\0\x05hello");
/// assert_eq!(codec.decode(&mut wire)?.unwrap(), "hello");
/// # Ok::<(), asyncipc::Error>(())
/// ```
///
/// [`LengthDelimitedCodec`]: tokio_util::codec::LengthDelimitedCodec
/// [`Framed`]: tokio_util::codec::Framed
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageCodec {
    max_message_size: usize,
}

/// How much of the next frame is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The whole frame is there, with a payload of this length.
    Complete(usize),
    /// The frame needs this many bytes in all, header included, as far as is known.
    Needs(usize),
    /// The frame has a payload of this length, above the limit.
    TooLarge(usize),
}

impl MessageCodec {
    /// The default limit on a message's size: 16 MiB.
    pub const DEFAULT_MAX_MESSAGE_SIZE: usize = 16 << 20;

    /// A codec that refuses messages longer than `max_message_size` bytes, in both directions.
    ///
    /// The header can announce at most [`u32::MAX`] bytes, so a higher limit is lowered to that.
    pub fn new(max_message_size: usize) -> Self {
        // On 32-bit systems, a buffer can have at most half of what the header can announce.
        let most = (u32::MAX as usize).min(isize::MAX as usize - HEADER);
        MessageCodec {
            max_message_size: max_message_size.min(most),
        }
    }

    /// The longest message that is accepted, in bytes.
    pub fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    /// The header for a payload of `len` bytes.
    #[inline]
    pub(crate) fn header(&self, len: usize) -> Result<[u8; HEADER], Error> {
        if len > self.max_message_size {
            return Err(self.too_large(len));
        }
        // `new` keeps the limit within u32, so the cast loses nothing.
        Ok((len as u32).to_be_bytes())
    }

    /// Looks at the start of `bytes` without taking anything from it.
    #[inline]
    pub(crate) fn progress(&self, bytes: &[u8]) -> Progress {
        let Some((header, payload)) = bytes.split_first_chunk::<HEADER>() else {
            return Progress::Needs(HEADER);
        };
        let len = u32::from_be_bytes(*header) as usize;
        if len > self.max_message_size {
            Progress::TooLarge(len)
        } else if payload.len() >= len {
            Progress::Complete(len)
        } else {
            Progress::Needs(HEADER + len)
        }
    }

    pub(crate) fn too_large(&self, size: usize) -> Error {
        Error::MessageTooLarge {
            size,
            max: self.max_message_size,
        }
    }
}

impl Default for MessageCodec {
    fn default() -> Self {
        MessageCodec::new(Self::DEFAULT_MAX_MESSAGE_SIZE)
    }
}

impl Decoder for MessageCodec {
    type Item = BytesMut;
    type Error = Error;

    /// Takes the next message from the front of `src`, or returns `None` when it is not all there.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`] as soon as a header announces more than the limit.
    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<BytesMut>, Error> {
        match self.progress(src) {
            Progress::Complete(len) => {
                src.advance(HEADER);
                Ok(Some(src.split_to(len)))
            }
            Progress::Needs(_) => Ok(None),
            Progress::TooLarge(len) => Err(self.too_large(len)),
        }
    }

    /// As [`decode`](Decoder::decode), for when nothing more will come.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`] when `src` holds a part of a message.
    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<BytesMut>, Error> {
        match self.progress(src) {
            Progress::Needs(expected) if !src.is_empty() => Err(Error::Truncated {
                received: src.len(),
                expected: Some(expected),
            }),
            _ => self.decode(src),
        }
    }
}

impl Encoder<Bytes> for MessageCodec {
    type Error = Error;

    /// Appends the header and the payload to `dst`.
    ///
    /// # Errors
    ///
    /// [`Error::MessageTooLarge`] when the payload is above the limit; `dst` is unchanged.
    fn encode(&mut self, message: Bytes, dst: &mut BytesMut) -> Result<(), Error> {
        let header = self.header(message.len())?;
        dst.reserve(HEADER + message.len());
        dst.put_slice(&header);
        dst.put_slice(&message);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_util::codec::LengthDelimitedCodec;

    use super::*;

    fn wire(messages: &[Vec<u8>]) -> BytesMut {
        let mut wire = BytesMut::new();
        for message in messages {
            MessageCodec::default()
                .encode(Bytes::copy_from_slice(message), &mut wire)
                .unwrap();
        }
        wire
    }

    proptest! {
        #[test]
        fn the_wire_format_is_that_of_length_delimited_codec(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)
        ) {
            let mut theirs = BytesMut::new();
            let mut codec = LengthDelimitedCodec::new();
            for message in &messages {
                codec.encode(Bytes::copy_from_slice(message), &mut theirs).unwrap();
            }
            prop_assert_eq!(wire(&messages), theirs);
        }

        #[test]
        fn messages_come_out_as_they_went_in_however_the_bytes_are_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            step in 1usize..64,
        ) {
            let wire = wire(&messages);
            let (mut codec, mut buf, mut out) = (MessageCodec::default(), BytesMut::new(), vec![]);
            for piece in wire.chunks(step) {
                buf.extend_from_slice(piece);
                while let Some(message) = codec.decode(&mut buf).unwrap() {
                    out.push(message.to_vec());
                }
            }
            prop_assert!(codec.decode_eof(&mut buf).unwrap().is_none());
            prop_assert_eq!(out, messages);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_yield_more_than_the_limit(
            bytes in prop::collection::vec(any::<u8>(), 0..200), max in 0usize..100
        ) {
            let (mut codec, mut buf) = (MessageCodec::new(max), BytesMut::from(&bytes[..]));
            while let Ok(Some(message)) = codec.decode_eof(&mut buf) {
                prop_assert!(message.len() <= max);
            }
        }
    }

    #[test]
    fn a_length_at_the_limit_passes_and_one_above_is_refused_by_its_header_alone() {
        let mut codec = MessageCodec::new(5);
        let mut wire = BytesMut::new();
        codec
            .encode(Bytes::from_static(b"12345"), &mut wire)
            .unwrap();
        assert_eq!(codec.decode(&mut wire).unwrap().unwrap(), "12345");
        assert!(matches!(
            codec.encode(Bytes::from_static(b"123456"), &mut wire),
            Err(Error::MessageTooLarge { size: 6, max: 5 })
        ));
        assert!(wire.is_empty());
        assert!(matches!(
            codec.decode(&mut BytesMut::from(&[0, 0, 0, 6][..])),
            Err(Error::MessageTooLarge { size: 6, max: 5 })
        ));
    }

    #[test]
    fn an_end_inside_a_frame_is_truncated_and_says_how_far_it_came() {
        let mut codec = MessageCodec::default();
        let eof = |codec: &mut MessageCodec, bytes: &[u8]| codec.decode_eof(&mut bytes.into());
        assert!(eof(&mut codec, b"").unwrap().is_none());
        assert!(matches!(
            eof(&mut codec, b"\0\0"),
            Err(Error::Truncated {
                received: 2,
                expected: Some(4)
            })
        ));
        assert!(matches!(
            eof(&mut codec, b"\0\0\0\x05hel"),
            Err(Error::Truncated {
                received: 7,
                expected: Some(9)
            })
        ));
    }
}
