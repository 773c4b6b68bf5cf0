//! Frames of attach and logs: the first byte says how the stream is cut, which must not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_api::frames::Decoder;

fuzz_target!(|data: &[u8]| {
    let Some((cut, wire)) = data.split_first() else { return };
    assert_eq!(decode(wire, usize::from(*cut) + 1), decode(wire, wire.len().max(1)));
});

fn decode(wire: &[u8], cut: usize) -> (Vec<(u8, Vec<u8>)>, bool) {
    let (mut decoder, mut frames) = (Decoder::new(), Vec::new());
    for piece in wire.chunks(cut) {
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some((kind, payload))) => frames.push((kind as u8, payload.to_vec())),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}
