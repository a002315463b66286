//! `MessageCodec` beside tokio-util's `LengthDelimitedCodec`: the same bytes, in the same pieces,
//! give the same messages and the same kinds of errors, and the same messages the same bytes.
#![no_main]

use asyncipc::{Error, MessageCodec};
use bytes::{Bytes, BytesMut};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

/// Theirs makes room for what a header announces.
const HIGHEST_LIMIT: u32 = 1 << 20;

#[derive(Arbitrary, Debug)]
struct Input {
    limit: u32,
    pieces: Vec<Piece>,
    sent: Vec<Vec<u8>>,
}

/// What comes in at once.
#[derive(Arbitrary, Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Header(u16),
    HighHeader(u32),
    Frame(Vec<u8>),
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Message(Vec<u8>),
    TooLarge,
    Truncated,
    End,
}

fuzz_target!(|input: Input| {
    let limit = (input.limit % HIGHEST_LIMIT) as usize;
    let pieces: Vec<_> = input.pieces.iter().map(Piece::bytes).collect();
    let (ours, rest) = decode(MessageCodec::new(limit), &pieces, |error| match error {
        Error::MessageTooLarge { size, max, .. } => {
            assert!(size > max && max == limit);
            Outcome::TooLarge
        }
        Error::Truncated {
            received,
            expected: Some(expected),
            ..
        } => {
            assert!(received < expected);
            Outcome::Truncated
        }
        other => panic!("no error of decoding: {other}"),
    });
    let (mut theirs, _) = decode(their_codec(limit), &pieces, |error| match error.kind() {
        std::io::ErrorKind::InvalidData => Outcome::TooLarge,
        std::io::ErrorKind::Other => Outcome::Truncated,
        kind => panic!("no kind of error of decoding: {kind}"),
    });
    // They have taken the header already, and do not miss a payload of which nothing has come.
    if rest == 4 && theirs.last() == Some(&Outcome::End) {
        *theirs.last_mut().unwrap() = Outcome::Truncated;
    }
    assert_eq!(ours, theirs);

    let (mut our_wire, mut their_wire) = (BytesMut::new(), BytesMut::new());
    for message in input.sent {
        let message = Bytes::from(message);
        let before = our_wire.len();
        let ours = MessageCodec::new(limit).encode(message.clone(), &mut our_wire);
        let theirs = their_codec(limit).encode(message.clone(), &mut their_wire);
        assert_eq!(ours.is_ok(), theirs.is_ok());
        assert_eq!(ours.is_ok(), message.len() <= limit);
        if ours.is_err() {
            assert_eq!(our_wire.len(), before);
        }
    }
    assert_eq!(our_wire, their_wire);
});

fn their_codec(limit: usize) -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(limit)
        .new_codec()
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Piece::Bytes(bytes) => bytes.clone(),
            Piece::Header(len) => u32::from(*len).to_be_bytes().into(),
            Piece::HighHeader(len) => len.to_be_bytes().into(),
            Piece::Frame(payload) => {
                let header = (payload.len() as u32).to_be_bytes();
                [&header[..], payload].concat()
            }
        }
    }
}

/// Everything up to the end or the first error, and how many bytes were left at the end.
fn decode<D: Decoder<Item = BytesMut>>(
    mut codec: D,
    pieces: &[Vec<u8>],
    kind: impl Fn(D::Error) -> Outcome,
) -> (Vec<Outcome>, usize) {
    let (mut outcomes, mut buf) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buf) {
                Ok(Some(message)) => outcomes.push(Outcome::Message(message.to_vec())),
                Ok(None) => break,
                Err(error) => {
                    outcomes.push(kind(error));
                    return (outcomes, buf.len());
                }
            }
        }
    }
    let left = buf.len();
    outcomes.push(match codec.decode_eof(&mut buf) {
        Ok(Some(message)) => panic!("{message:?} was there before the end"),
        Ok(None) => Outcome::End,
        Err(error) => kind(error),
    });
    (outcomes, left)
}
