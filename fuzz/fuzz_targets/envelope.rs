//! What endpoints read: whatever comes, decoding does not panic, and what was decoded is encoded
//! to what is decoded the same.
#![no_main]

use asyncipc::fuzzing::Decoded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Some(decoded) = Decoded::new(json) else {
        return;
    };
    let Some(encoded) = decoded.encode() else {
        return;
    };
    let text = String::from_utf8(encoded.to_vec()).unwrap();
    assert_eq!(Decoded::new(&encoded), Some(decoded), "{text}");
});
