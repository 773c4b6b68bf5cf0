//! The framing of output without a terminal: 1 byte stream, 3 zero bytes, 4 bytes big-endian length, payload.

use bytes::{Buf, Bytes, BytesMut};

/// Length of a frame's header.
pub const HEADER: usize = 8;
/// The largest payload a reader accepts: far above what engines write (64 KiB), below what could exhaust memory.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StreamKind {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    /// The engine reports an error of its own.
    SystemError = 3,
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("unrecognized stream: {0}")]
    UnknownStream(u8),
    #[error("frame of {0} bytes is too large")]
    TooLarge(usize),
}

/// The header of a frame.
pub fn header(kind: StreamKind, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

/// Appends whole frames; a payload too long for one header is split.
pub fn encode(kind: StreamKind, payload: &[u8], out: &mut Vec<u8>) {
    for chunk in payload.chunks(MAX_PAYLOAD) {
        out.extend_from_slice(&header(kind, u32::try_from(chunk.len()).expect("chunks are below 4 GiB")));
        out.extend_from_slice(chunk);
    }
}

/// Cuts a byte stream into frames, however it arrives.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// A decoder with nothing in it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it has arrived.
    pub fn next_frame(&mut self) -> Result<Option<(StreamKind, Bytes)>, FrameError> {
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let kind = match self.buffer[0] {
            0 => StreamKind::Stdin,
            1 => StreamKind::Stdout,
            2 => StreamKind::Stderr,
            3 => StreamKind::SystemError,
            other => return Err(FrameError::UnknownStream(other)),
        };
        let length = u32::from_be_bytes([self.buffer[4], self.buffer[5], self.buffer[6], self.buffer[7]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(FrameError::TooLarge(length));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        Ok(Some((kind, self.buffer.split_to(length).freeze())))
    }

    /// Whether the stream ended inside a frame.
    pub fn is_inside_frame(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_frame() {
        let mut decoder = Decoder::new();
        decoder.feed(b"plain text, not a frame");
        assert_eq!(decoder.next_frame(), Err(FrameError::UnknownStream(b'p')));
        let mut decoder = Decoder::new();
        decoder.feed(&header(StreamKind::Stdout, u32::MAX));
        assert_eq!(decoder.next_frame(), Err(FrameError::TooLarge(u32::MAX as usize)));
    }

    proptest::proptest! {
        #[test]
        fn frames_survive_any_cutting(
            frames in proptest::collection::vec((1u8..3, proptest::collection::vec(0u8.., 0..50)), 0..10),
            cut in 1usize..20,
        ) {
            let mut wire = Vec::new();
            let mut expected = Vec::new();
            for (kind, payload) in &frames {
                let kind = if *kind == 1 { StreamKind::Stdout } else { StreamKind::Stderr };
                encode(kind, payload, &mut wire);
                if !payload.is_empty() {
                    expected.push((kind, Bytes::copy_from_slice(payload)));
                }
            }
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            for chunk in wire.chunks(cut) {
                decoder.feed(chunk);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            proptest::prop_assert_eq!(seen, expected);
            proptest::prop_assert!(!decoder.is_inside_frame());
        }
    }
}
