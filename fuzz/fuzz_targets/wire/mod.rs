//! What both targets of receiving put on the wire.

use libfuzzer_sys::arbitrary::{self, Arbitrary};

#[derive(Arbitrary, Debug)]
pub enum Part {
    Frame(Vec<u8>),
    /// A payload of so many bytes, all this one.
    Long(u16, u8),
    /// The same, in units of 256.
    Longer(u16, u8),
    /// A header, whatever comes behind it.
    Header(u32),
    Bytes(Vec<u8>),
}

/// At most so many bytes, and where in them each part ends.
pub fn wire(parts: &[Part], most: usize) -> (Vec<u8>, Vec<usize>) {
    let (mut wire, mut ends) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Frame(payload) => frame(&mut wire, payload),
            Part::Long(len, fill) => frame(&mut wire, &vec![*fill; (*len).into()]),
            Part::Longer(len, fill) => {
                let len = (usize::from(*len) << 8).min(most / 2);
                frame(&mut wire, &vec![*fill; len]);
            }
            Part::Header(len) => wire.extend_from_slice(&len.to_be_bytes()),
            Part::Bytes(bytes) => wire.extend_from_slice(bytes),
        }
        if wire.len() > most {
            wire.truncate(most);
            break;
        }
        ends.push(wire.len());
    }
    (wire, ends)
}

fn frame(wire: &mut Vec<u8>, payload: &[u8]) {
    wire.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    wire.extend_from_slice(payload);
}
