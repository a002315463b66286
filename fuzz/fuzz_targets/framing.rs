//! The receiver's buffer without a socket: whatever comes, cut in whatever pieces, with waits in
//! between, taken or copied out, the messages and errors are those that the bytes say.
#![no_main]

mod wire;

use asyncipc::Error;
use asyncipc::fuzzing::Reading;
use bytes::BytesMut;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use wire::{Part, wire};

/// The longest wire.
const MOST: usize = 1 << 20;

#[derive(Arbitrary, Debug)]
struct Input {
    limit: Option<u16>,
    skip: bool,
    read_ahead: u16,
    wire: Vec<Part>,
    steps: Vec<Step>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Read(u8),
    ReadMore(u16),
    ReadAll,
    Wait,
    /// The next message is copied into a buffer that has something in it.
    Copy,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Message(Vec<u8>),
    TooLarge(usize),
}

fuzz_target!(|input: Input| {
    let limit = input.limit.map_or(16 << 20, usize::from);
    let (wire, _) = wire(&input.wire, MOST);
    let (read_ahead, mut rest) = wire.split_at(wire.len().min(input.read_ahead.into()));
    let mut reading = Reading::new(limit, input.skip, read_ahead);
    let (mut outcomes, mut buf, mut copy) = (Vec::new(), BytesMut::new(), false);
    let mut steps = input.steps.iter();
    let left = loop {
        if !copy {
            buf.clear();
        }
        let before = buf.len();
        match reading.next(&mut buf, copy) {
            Ok(None) => {
                outcomes.push(Outcome::Message(buf[before..].to_vec()));
                copy = false;
            }
            Ok(Some(_)) if rest.is_empty() => break reading.take_all().to_vec(),
            Ok(Some(needs)) => match steps.next() {
                Some(Step::Read(n)) => rest = &rest[reading.fill(needs, rest, (*n).into())..],
                Some(Step::ReadMore(n)) => rest = &rest[reading.fill(needs, rest, (*n).into())..],
                Some(Step::ReadAll) | None => {
                    rest = &rest[reading.fill(needs, rest, usize::MAX)..];
                }
                Some(Step::Wait) => reading.wait(),
                Some(Step::Copy) => copy = true,
            },
            Err(Error::MessageTooLarge { size, max, .. }) => {
                assert!(size > max && max == limit);
                outcomes.push(Outcome::TooLarge(size));
                if !input.skip {
                    break [&reading.take_all()[..], rest].concat();
                }
            }
            Err(other) => panic!("no error of framing: {other}"),
        }
    };
    assert_eq!((outcomes, left), model(&wire, limit, input.skip));
});

/// What comes out of this wire, and what is left of it at the end.
fn model(mut wire: &[u8], max: usize, skip: bool) -> (Vec<Outcome>, Vec<u8>) {
    let mut outcomes = Vec::new();
    while let Some((header, payload)) = wire.split_first_chunk::<4>() {
        let size = u32::from_be_bytes(*header) as usize;
        if size > max {
            outcomes.push(Outcome::TooLarge(size));
            if !skip {
                break;
            }
            wire = &payload[size.min(payload.len())..];
        } else if let Some((message, rest)) = payload.split_at_checked(size) {
            outcomes.push(Outcome::Message(message.to_vec()));
            wire = rest;
        } else {
            break;
        }
    }
    (outcomes, wire.to_vec())
}
