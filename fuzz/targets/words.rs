//! The words of `naru_types`: what is understood and written again means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use naru_types::{ByteSize, ContainerId, Digest, ImageRef, Name, Platform, Signal};
use std::fmt::{Debug, Display};
use std::str::FromStr;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    same::<Digest>(text);
    same::<ContainerId>(text);
    same::<Name>(text);
    same::<Platform>(text);
    same::<ByteSize>(text);
    same::<Signal>(text);
    same::<ImageRef>(text);
    if let Ok(reference) = ImageRef::parse(text) {
        assert_eq!(ImageRef::parse(&reference.canonical()).as_ref(), Ok(&reference));
        assert_eq!(ImageRef::parse(&reference.familiar()).as_ref(), Ok(&reference));
        assert_eq!(ImageRef::parse(&reference.tagged().canonical()), Ok(reference.tagged()));
    }
    if let Ok(signal) = text.parse::<Signal>() {
        assert_eq!(signal.name().parse(), Ok(signal));
    }
});

fn same<T: FromStr<Err: Debug> + Display + Debug + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().expect("what we write we understand"), value);
    }
}
