//! Round trips, the `tar` crate as second opinion, and arbitrary bytes.

use super::*;
use crate::error::Result;
use proptest::prelude::*;
use std::io::Read;

fn read_all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>> {
    let mut reader = Reader::new(bytes);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut data = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match reader.read_data(&mut buffer)? {
                0 => break,
                got => data.extend_from_slice(&buffer[..got]),
            }
        }
        entries.push((entry, data));
    }
    Ok(entries)
}

fn write_all(entries: &[(Entry, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        if entry.kind == Kind::File {
            writer.file(entry, &mut data.as_slice()).unwrap();
        } else {
            writer.entry(entry).unwrap();
        }
    }
    writer.finish().unwrap()
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    // No NUL, not empty, no trailing slash (that would make a file a directory); no newline, at which the tar crate
    // ends a PAX record.
    prop::collection::vec(11u8..=255, 1..300).prop_map(|mut name| {
        name.push(b'x');
        name
    })
}

fn entry() -> impl Strategy<Value = (Entry, Vec<u8>)> {
    let owner = prop_oneof![0i64..3_000_000, 0i64..4_294_967_295];
    let time = prop_oneof![-5_000_000_000i64..50_000_000_000];
    let xattrs = prop::collection::vec(("user\\.[a-z]{1,9}", prop::collection::vec(any::<u8>(), 0..200)), 0..3);
    (
        name(),
        0u8..7,
        0u32..0o10000,
        owner.clone(),
        owner,
        time,
        0u32..1_000_000_000,
        name(),
        prop::collection::vec(any::<u8>(), 0..2000),
        xattrs,
    )
        .prop_map(|(path, kind, mode, uid, gid, mtime, mtime_nanos, link, data, xattrs)| {
            let kind = [Kind::File, Kind::Link, Kind::Symlink, Kind::Char, Kind::Block, Kind::Dir, Kind::Fifo][usize::from(kind)];
            let data = if kind == Kind::File { data } else { Vec::new() };
            let link = if matches!(kind, Kind::Link | Kind::Symlink) { link } else { Vec::new() };
            let device = if matches!(kind, Kind::Char | Kind::Block) { (8, 300) } else { (0, 0) };
            let mut seen: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
            for (key, value) in xattrs {
                if !seen.iter().any(|(k, _)| k == key.as_bytes()) {
                    seen.push((key.into_bytes(), value));
                }
            }
            let entry =
                Entry { uid, gid, mtime, mtime_nanos, size: data.len() as u64, link, device, xattrs: seen, ..Entry::new(path, kind, mode) };
            (entry, data)
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_written_is_read(entries in prop::collection::vec(entry(), 0..6)) {
        prop_assert_eq!(read_all(&write_all(&entries)).unwrap(), entries);
    }

    #[test]
    fn the_tar_crate_agrees(entries in prop::collection::vec(entry(), 1..4)) {
        let bytes = write_all(&entries);
        let mut archive = ::tar::Archive::new(bytes.as_slice());
        for (mut theirs, (entry, data)) in archive.entries().unwrap().map(Result::unwrap).zip(&entries) {
            prop_assert_eq!(theirs.path_bytes().into_owned(), entry.path.clone());
            prop_assert_eq!(theirs.header().mode().unwrap(), entry.mode);
            prop_assert_eq!(theirs.size(), entry.size);
            if !entry.link.is_empty() {
                prop_assert_eq!(theirs.link_name_bytes().unwrap().into_owned(), entry.link.clone());
            }
            let mut read = Vec::new();
            theirs.read_to_end(&mut read).unwrap();
            prop_assert_eq!(&read, data);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn flipped_bits_never_panic(entries in prop::collection::vec(entry(), 1..4), at in any::<prop::sample::Index>(), bit in 0u8..8, fix in any::<bool>()) {
        let mut bytes = write_all(&entries);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if fix {
            // With a right checksum the damage reaches the fields.
            let start = at / BLOCK * BLOCK;
            bytes[start + 148..start + 156].fill(b' ');
            let sum: u32 = bytes[start..start + BLOCK].iter().map(|b| u32::from(*b)).sum();
            bytes[start + 148..start + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let _ = read_all(&bytes);
    }
}

/// A header with a checksum, for cases the writer does not make.
pub(crate) fn raw_header(name: &[u8], kind: u8, size: u64, patch: impl Fn(&mut [u8; BLOCK])) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    patch(&mut block);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(BLOCK), 0);
    data
}

fn gnu(block: &mut [u8; BLOCK]) {
    block[257..265].copy_from_slice(b"ustar  \0");
}

#[test]
fn gnu_long_names() {
    let long = [b'n'; 300];
    let bytes = [
        raw_header(b"././@LongLink", b'L', 301, gnu).to_vec(),
        padded(&[&long[..], b"\0"].concat()),
        raw_header(b"short", b'0', 0, gnu).to_vec(),
    ]
    .concat();
    let entries = read_all(&bytes).unwrap();
    assert_eq!(entries[0].0.path, long);
}

#[test]
fn sparse_formats() {
    let extents = vec![Extent { offset: 4096, length: 3 }];
    let old = raw_header(b"s", b'S', 3, |b| {
        gnu(b);
        b[386..398].copy_from_slice(b"00000010000\0");
        b[398..410].copy_from_slice(b"00000000003\0");
        b[483..495].copy_from_slice(b"00000020000\0");
    });
    let pax = |records: &[(&str, &str)]| {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = rest + if rest > 97 { 3 } else { 2 };
            data.extend(format!("{length} {key}={value}\n").bytes());
        }
        [raw_header(b"pax", b'x', data.len() as u64, |_| {}).to_vec(), padded(&data)].concat()
    };
    let v01 = pax(&[("GNU.sparse.size", "8192"), ("GNU.sparse.map", "4096,3"), ("GNU.sparse.name", "s")]);
    let v00 =
        pax(&[("GNU.sparse.size", "8192"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.offset", "4096"), ("GNU.sparse.numbytes", "3")]);
    let v10 = pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "s"), ("GNU.sparse.realsize", "8192")]);
    let plain = raw_header(b"s", b'0', 3, |_| {});
    for (what, bytes) in [
        ("old", [old.to_vec(), padded(b"abc")].concat()),
        ("0.1", [v01, plain.to_vec(), padded(b"abc")].concat()),
        ("0.0", [v00, plain.to_vec(), padded(b"abc")].concat()),
        ("1.0", [v10, raw_header(b"GNUSparse/s", b'0', 515, |_| {}).to_vec(), padded(b"1\n4096\n3\n"), padded(b"abc")].concat()),
    ] {
        let entries = read_all(&bytes).expect(what);
        let (entry, data) = &entries[0];
        assert_eq!(
            (entry.path.as_slice(), entry.size, &entry.sparse, data.as_slice()),
            (&b"s"[..], 8192, &Some(extents.clone()), &b"abc"[..]),
            "{what}"
        );
    }
}

#[test]
fn one_meaning() {
    let dir = raw_header(b"d/", b'0', 0, |_| {});
    assert_eq!(read_all(&dir).unwrap()[0].0.kind, Kind::Dir);
    // A link's size field announces no data.
    let link = raw_header(b"l", b'1', 512, |b| b[157] = b'x');
    assert_eq!(read_all(&[link, raw_header(b"f", b'0', 0, |_| {})].concat()).unwrap().len(), 2);
    // No end blocks, one end block, garbage after the end.
    let file = raw_header(b"f", b'0', 0, |_| {});
    for tail in [&[][..], &[0; 512], &[0; 1024], &[&[0; 1024][..], b"garbage"].concat()] {
        assert_eq!(read_all(&[&file[..], tail].concat()).unwrap().len(), 1, "{}", tail.len());
    }
}

#[test]
fn refused() {
    let file = raw_header(b"f", b'0', 1000, |_| {});
    let mut broken = file;
    broken[0] = b'g';
    for (what, bytes) in [
        ("truncated header", file[..100].to_vec()),
        ("truncated data", [&file[..], &[1; 400]].concat()),
        ("checksum", broken.to_vec()),
        ("zero block, then an entry", [&[0; 512][..], &raw_header(b"f", b'0', 0, |_| {})].concat()),
        ("unknown type", raw_header(b"f", b'Z', 0, |_| {}).to_vec()),
        ("a major number of 13 bits", raw_header(b"d", b'3', 0, |b| b[329..337].copy_from_slice(b"0020000\0")).to_vec()),
        ("a minor number of 21 bits", raw_header(b"d", b'4', 0, |b| b[337..345].copy_from_slice(b"4000000\0")).to_vec()),
        ("negative size", raw_header(b"f", b'0', 0, |b| b[124..136].fill(0xff)).to_vec()),
        ("huge extended header", raw_header(b"f", b'x', 2 << 20, |_| {}).to_vec()),
        ("extended header at the end", [&raw_header(b"f", b'x', 11, |_| {})[..], &padded(b"11 path=ab\n")].concat()),
        (
            "sparse beyond its size",
            [
                &raw_header(b"s", b'S', 3, |b| {
                    gnu(b);
                    b[386..398].copy_from_slice(b"00000010000\0");
                    b[398..410].copy_from_slice(b"00000000003\0");
                    b[483..495].copy_from_slice(b"00000000010\0");
                })[..],
                &padded(b"abc"),
            ]
            .concat(),
        ),
    ] {
        assert!(read_all(&bytes).is_err(), "{what}");
    }
}
