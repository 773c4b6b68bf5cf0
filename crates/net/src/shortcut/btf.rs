//! The kernel's own description of its types (BTF, Documentation/bpf/btf.rst): where a field lies differs between kernels.

/// What a type is made of, as far as it is asked for.
const ARRAY: u32 = 3;
pub(super) const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// Names and qualifiers of a type that follows: typedef, volatile, const, restrict, a tag.
const PASSING: [u32; 5] = [8, 9, 10, 11, 18];
pub(super) const FUNCTION: u32 = 12;

/// Deeper than any type of the kernel is nested.
const DEPTH: usize = 16;

/// The types, read where they lie.
pub(super) struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; number 0 is `void`, which has no place.
    starts: Vec<u32>,
}

/// A field of a structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    /// Bytes from the structure's beginning.
    pub offset: u32,
    kind: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

impl<'a> Types<'a> {
    /// Finds the types in the text of `/sys/kernel/btf/vmlinux`; nothing where it is not what it should be.
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        const MAGIC: u16 = 0xeb9f;
        (text.get(..2)? == MAGIC.to_ne_bytes()).then_some(())?;
        let body = text.get(word(text, 4)? as usize..)?;
        let part = |at: usize| body.get(word(text, at)? as usize..)?.get(..word(text, at + 4)? as usize);
        let (types, strings) = (part(8)?, part(16)?);
        let mut starts = vec![];
        let mut at = 0;
        while at < types.len() {
            starts.push(u32::try_from(at).ok()?);
            let info = word(types, at + 4)?;
            let count = (info & 0xffff) as usize;
            at += 12
                + match info >> 24 & 0x1f {
                    // An integer's encoding, a variable's linkage, what a tag of a declaration is about.
                    1 | 14 | 17 => 4,
                    ARRAY => 12,
                    STRUCT | UNION | 15 | 19 => count * 12,
                    6 | 13 => count * 8,
                    _ => 0,
                };
        }
        Some(Types { types, strings, starts })
    }

    fn start(&self, number: u32) -> Option<usize> {
        Some(*self.starts.get(number.checked_sub(1)? as usize)? as usize)
    }

    fn kind_at(&self, start: usize) -> Option<u32> {
        Some(word(self.types, start + 4)? >> 24 & 0x1f)
    }

    fn is_named(&self, at: usize, name: &str) -> bool {
        let text = word(self.types, at).and_then(|start| self.strings.get(start as usize..));
        text.and_then(|text| text.strip_prefix(name.as_bytes())).is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The number of a type or function.
    pub fn number(&self, kind: u32, name: &str) -> Option<u32> {
        let is = |start: &u32| self.kind_at(*start as usize) == Some(kind) && self.is_named(*start as usize, name);
        u32::try_from(self.starts.iter().position(is)? + 1).ok()
    }

    /// How many bytes a structure has.
    pub fn size(&self, kind: u32, name: &str) -> Option<u32> {
        word(self.types, self.start(self.number(kind, name)?)? + 8)
    }

    /// Where the field lies whose way from the structure is `path`; what lies in parts without a name is found by its own.
    pub fn field(&self, structure: &str, path: &[&str]) -> Option<Field> {
        let mut field = Field { offset: 0, kind: self.number(STRUCT, structure)? };
        for name in path {
            let inner = self.member(field.kind, name, DEPTH)?;
            field = Field { offset: field.offset.checked_add(inner.offset)?, kind: inner.kind };
        }
        Some(field)
    }

    fn member(&self, kind: u32, name: &str, depth: usize) -> Option<Field> {
        let start = self.start(self.plain(kind)?)?;
        if depth == 0 || !matches!(self.kind_at(start)?, STRUCT | UNION) {
            return None;
        }
        let info = word(self.types, start + 4)?;
        // With the flag the upper byte is the width of a bit field.
        let mask = if info >> 31 == 1 { 0x00ff_ffff } else { u32::MAX };
        let members = (0..(info & 0xffff) as usize).map(|number| start + 12 + number * 12);
        members.into_iter().find_map(|at| {
            let field = Field { offset: (word(self.types, at + 8)? & mask) / 8, kind: word(self.types, at + 4)? };
            if self.is_named(at, name) {
                return Some(field);
            }
            let inner = self.is_named(at, "").then(|| self.member(field.kind, name, depth - 1))??;
            Some(Field { offset: field.offset.checked_add(inner.offset)?, kind: inner.kind })
        })
    }

    /// The type behind names and qualifiers.
    fn plain(&self, mut kind: u32) -> Option<u32> {
        for _ in 0..DEPTH {
            let start = self.start(kind)?;
            if !PASSING.contains(&self.kind_at(start)?) {
                return Some(kind);
            }
            kind = word(self.types, start + 8)?;
        }
        None
    }

    /// How many elements a field has that is an array.
    pub fn length(&self, field: Field) -> Option<u32> {
        let start = self.start(self.plain(field.kind)?)?;
        (self.kind_at(start)? == ARRAY).then(|| word(self.types, start + 12 + 8))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `struct outer { int a; union { struct inner b; int c; }; }; struct inner { int x[3]; named y; }`
    fn text() -> Vec<u8> {
        let strings = b"\0outer\0inner\0a\0b\0c\0x\0y\0named\0int\0";
        let at = |name: &str| {
            let name = format!("\0{name}\0");
            strings.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() as u32 + 1
        };
        let info = |kind: u32, count: u32| kind << 24 | count;
        let types: Vec<u32> = [
            vec![at("int"), info(1, 0), 4, 0x0100_0020],
            vec![0, info(ARRAY, 0), 0, 1, 1, 3],
            vec![at("named"), info(8, 0), 1],
            vec![at("inner"), info(STRUCT, 2), 16, at("x"), 2, 0, at("y"), 3, 96],
            vec![0, info(UNION, 2), 16, at("b"), 4, 0, at("c"), 1, 0],
            vec![at("outer"), info(STRUCT, 2), 20, at("a"), 1, 0, 0, 5, 32],
        ]
        .concat();
        let length = types.len() as u32 * 4;
        let header = [0x0001_eb9f, 24, 0, length, length, strings.len() as u32];
        let words = header.into_iter().chain(types).flat_map(u32::to_ne_bytes);
        words.chain(strings.iter().copied()).collect()
    }

    #[test]
    fn fields_are_found_by_their_way() {
        let text = text();
        let types = Types::parse(&text).unwrap();
        assert_eq!(types.number(STRUCT, "outer"), Some(6));
        assert_eq!(types.number(FUNCTION, "outer"), None);
        assert_eq!((types.size(STRUCT, "outer"), types.size(STRUCT, "nosuch")), (Some(20), None));
        assert_eq!(types.field("outer", &["c"]).unwrap().offset, 4);
        assert_eq!(types.field("outer", &["b", "y"]).unwrap().offset, 16);
        assert_eq!(types.length(types.field("outer", &["b", "x"]).unwrap()), Some(3));
        assert_eq!(types.length(types.field("outer", &["a"]).unwrap()), None);
        assert_eq!(types.field("outer", &["z"]), None);
        assert_eq!(types.field("inner", &["x", "a"]), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(damage in proptest::collection::vec((0usize..300, any::<u8>()), 1..8), cut in 0usize..300) {
            let mut text = text();
            for (at, byte) in damage {
                let length = text.len();
                text[at % length] = byte;
            }
            text.truncate(cut.max(1));
            if let Some(types) = Types::parse(&text) {
                let field = types.field("outer", &["b", "x"]);
                field.and_then(|field| types.length(field));
            }
        }
    }
}
