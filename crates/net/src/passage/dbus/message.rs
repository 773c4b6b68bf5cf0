//! Messages of the bus as far as answers need them: who is answered, and a text. Whatever the bytes are, nothing here panics.

/// No answer asked for is longer than a name and a sentence.
pub const LONGEST: usize = 64 << 10;

/// The part of a message that tells its length.
pub const HEADER: usize = 16;

/// What is needed of a message from the bus.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// A call, an answer, a refusal or a signal.
    pub kind: u8,
    /// The call it answers.
    pub to: Option<u32>,
    /// The name of the error it is.
    pub error: Option<String>,
    /// Its first argument, if that is a text.
    pub text: Option<String>,
}

/// How long the message is that begins so; none when it is not one, or none that would be an answer.
pub fn length(header: &[u8; HEADER]) -> Option<usize> {
    let reader = Reader::new(header)?;
    let [body, fields] = [4, 12].map(|at| reader.number(at).and_then(|number| usize::try_from(number).ok()));
    let length = HEADER.checked_add(fields?)?.checked_next_multiple_of(8)?.checked_add(body?)?;
    (length <= LONGEST).then_some(length)
}

/// Reads a whole message. Fields of a type that no known field has make it unreadable.
pub fn decode(bytes: &[u8]) -> Option<Message> {
    let mut reader = Reader::new(bytes)?;
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    let end = HEADER.checked_add(usize::try_from(reader.number(12)?).ok()?)?;
    let mut has_text = false;
    reader.at = HEADER;
    while reader.at < end {
        reader.align(8);
        let code = reader.byte()?;
        let kind = reader.signature()?;
        match (code, kind) {
            (5, b"u") => message.to = Some(reader.next_number()?),
            (4, b"s") => message.error = Some(reader.text()?),
            (8, b"g") => has_text = reader.signature()?.starts_with(b"s"),
            (_, b"u") => drop(reader.next_number()?),
            (_, b"s" | b"o") => drop(reader.text()?),
            (_, b"g") => drop(reader.signature()?),
            _ => return None,
        }
    }
    reader.align(8);
    if has_text {
        message.text = Some(reader.text()?);
    }
    Some(message)
}

/// Reads values where they are aligned from the message's beginning.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    is_little: bool,
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Option<Self> {
        let is_little = match bytes.first()? {
            b'l' => true,
            b'B' => false,
            _ => return None,
        };
        Some(Reader { bytes, at: 0, is_little })
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn number(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn next_number(&mut self) -> Option<u32> {
        self.align(4);
        let number = self.number(self.at)?;
        self.at += 4;
        Some(number)
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// So many bytes, and the zero behind them.
    fn ended(&mut self, length: usize) -> Option<&'b [u8]> {
        let end = self.at.checked_add(length)?;
        let value = self.bytes.get(self.at..end)?;
        self.at = end;
        (self.byte()? == 0).then_some(value)
    }

    fn signature(&mut self) -> Option<&'b [u8]> {
        let length = self.byte()?;
        self.ended(length.into())
    }

    fn text(&mut self) -> Option<String> {
        let length = self.next_number()?;
        let value = self.ended(usize::try_from(length).ok()?)?;
        String::from_utf8(value.to_vec()).ok()
    }
}
