//! A plain layer's blob without its files' data: `blobs/sha256/<hex>.parts`.
//!
//! The data of a plain layer lies unpacked in `layers` already. So its blob is kept as a recipe: what is not data (headers,
//! padding) as it came, and for the data the file that has it. Played back, it is the tar stream byte by byte, whatever
//! program wrote it. What is not simple is kept as it came, too.
//!
//! An archive may have several entries of one name; the last one counts, but the data of the others belongs to the stream.
//! Such a file is moved to `<hex>.aside/<n>` instead of being deleted, and the recipe remembers the move.
//!
//! ```text
//! file      = has-moves (1 byte), zstd(record…)
//! record    = 1, length u32, bytes                              literal
//!           | 2, path length u16, path, offset u64, length u64  data of a file of the layer
//!           | 3, path length u16, path, number u64              what was at the path is aside from here on
//!           | 0                                                 end
//! ```

use crate::error::{At, Error, Result};
use crate::limits::Names;
use crate::root::{open_dir, open_no_links};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Literals are collected up to this size.
const LITERAL: usize = 64 << 10;

const END: u8 = 0;
const BYTES: u8 = 1;
const DATA: u8 = 2;
const MOVED: u8 = 3;

/// Where what was replaced lies, beside the recipe.
pub(crate) fn aside_of(recipe: &Path) -> PathBuf {
    recipe.with_extension("aside")
}

/// A recipe being written.
pub(crate) struct Recipe {
    out: zstd::stream::write::Encoder<'static, BufWriter<File>>,
    literal: Vec<u8>,
    /// What passes is data of a file that was named already.
    in_data: bool,
    aside: PathBuf,
    moves: u64,
    names: Names,
}

/// A recipe that a [`Recorded`] stream and the one who unpacks it write together.
#[derive(Clone)]
pub(crate) struct Tape(Rc<RefCell<Recipe>>);

impl Tape {
    pub fn create(path: &Path) -> Result<Tape> {
        let mut file = File::create_new(path).at("create", path.display())?;
        file.write_all(&[0]).at("write", path.display())?;
        let out = zstd::stream::write::Encoder::new(BufWriter::new(file), 1).at("compress", path.display())?;
        let recipe = Recipe { out, literal: Vec::new(), in_data: false, aside: aside_of(path), moves: 0, names: Names::default() };
        Ok(Tape(Rc::new(RefCell::new(recipe))))
    }

    /// What passes now is the data of this file.
    pub fn data(&self, path: &[u8], offset: u64, length: u64) -> Result<()> {
        let mut recipe = self.0.borrow_mut();
        recipe.flush_literal().and_then(|()| recipe.record(DATA, path, &[offset, length])).at("write", "the recipe of a layer")?;
        recipe.in_data = true;
        Ok(())
    }

    /// What passes now is no data.
    pub fn data_ends(&self) {
        self.0.borrow_mut().in_data = false;
    }

    /// Moves what is about to be replaced aside.
    pub fn set_aside(&self, dir: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<()> {
        let mut recipe = self.0.borrow_mut();
        recipe.names.remember(path, "files that a layer has twice")?;
        match rustix::fs::mkdirat(rustix::fs::CWD, &recipe.aside, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno).at("create", recipe.aside.display()),
        }
        let number = recipe.moves;
        recipe.moves += 1;
        rustix::fs::renameat(dir, name, rustix::fs::CWD, recipe.aside.join(number.to_string())).at("set aside", recipe.aside.display())?;
        recipe.flush_literal().and_then(|()| recipe.record(MOVED, path, &[number])).at("write", "the recipe of a layer")
    }

    /// Completes the file. The stream has ended, and all other owners are gone.
    pub fn finish(self) -> Result<()> {
        let Some(recipe) = Rc::into_inner(self.0) else { return Err(Error::invalid("recipe of a layer", "it is still being written")) };
        let mut recipe = recipe.into_inner();
        let written = recipe.flush_literal().and_then(|()| recipe.out.write_all(&[END]));
        let file = written.and_then(|()| recipe.out.finish()).and_then(|out| out.into_inner().map_err(io::IntoInnerError::into_error));
        let file = file.at("write", "the recipe of a layer")?;
        if recipe.moves > 0 {
            file.write_all_at(&[1], 0).at("write", "the recipe of a layer")?;
        }
        Ok(())
    }
}

impl Recipe {
    fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.in_data {
            return Ok(());
        }
        if self.literal.len() + bytes.len() > LITERAL {
            self.flush_literal()?;
        }
        if bytes.len() > LITERAL {
            return self.write_literal(bytes);
        }
        self.literal.extend_from_slice(bytes);
        Ok(())
    }

    fn flush_literal(&mut self) -> io::Result<()> {
        let mut literal = std::mem::take(&mut self.literal);
        if !literal.is_empty() {
            self.write_literal(&literal)?;
        }
        literal.clear();
        self.literal = literal;
        Ok(())
    }

    fn write_literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(1 << 30) {
            self.out.write_all(&[BYTES])?;
            self.out.write_all(&u32::try_from(part.len()).expect("at most 1 GiB").to_le_bytes())?;
            self.out.write_all(part)?;
        }
        Ok(())
    }

    fn record(&mut self, kind: u8, path: &[u8], numbers: &[u64]) -> io::Result<()> {
        let length = u16::try_from(path.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.out.write_all(&[kind])?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(path)?;
        for number in numbers {
            self.out.write_all(&number.to_le_bytes())?;
        }
        Ok(())
    }
}

/// A stream whose bytes go to a recipe.
pub(crate) struct Recorded<R> {
    pub inner: R,
    pub tape: Option<Tape>,
}

impl<R: Read> Read for Recorded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        if let Some(tape) = &self.tape {
            let passed = tape.0.borrow_mut().pass(&buffer[..got]);
            passed.at("write", "the recipe of a layer")?;
        }
        Ok(got)
    }
}

/// The blob of a recipe, played back.
pub(crate) struct Playback {
    records: Records,
    layer: OwnedFd,
    aside: Option<OwnedFd>,
    /// Moves that are still to come, by their path, in their order.
    moves: HashMap<Vec<u8>, VecDeque<u64>>,
    now: Now,
}

enum Now {
    Nothing,
    Literal(u64),
    File(File, u64),
    End,
}

struct Records(BufReader<zstd::stream::read::Decoder<'static, BufReader<File>>>);

enum Record {
    Literal(u32),
    Data(Vec<u8>, u64, u64),
    Moved(Vec<u8>, u64),
    End,
}

fn damaged(reason: impl Into<String>) -> io::Error {
    Error::invalid("layer in the store", reason).into()
}

impl Records {
    fn open(path: &Path) -> io::Result<(Records, bool)> {
        let mut file = File::open(path)?;
        let mut flag = [0];
        file.read_exact(&mut flag)?;
        file.seek(SeekFrom::Start(1))?;
        Ok((Records(BufReader::new(zstd::stream::read::Decoder::new(file)?)), flag[0] != 0))
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.0.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn path(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.0.read_exact(&mut length)?;
        let mut path = vec![0; usize::from(u16::from_le_bytes(length))];
        self.0.read_exact(&mut path)?;
        Ok(path)
    }

    /// The next record; a literal's bytes follow it.
    fn next(&mut self) -> io::Result<Record> {
        let mut kind = [0];
        self.0.read_exact(&mut kind)?;
        Ok(match kind[0] {
            END => Record::End,
            BYTES => {
                let mut length = [0; 4];
                self.0.read_exact(&mut length)?;
                Record::Literal(u32::from_le_bytes(length))
            }
            DATA => Record::Data(self.path()?, self.number()?, self.number()?),
            MOVED => Record::Moved(self.path()?, self.number()?),
            _ => return Err(damaged("its recipe is damaged")),
        })
    }
}

impl Playback {
    /// Plays the recipe at `path` back, of the layer unpacked at `layer`.
    pub fn open(path: &Path, layer: &Path) -> io::Result<Playback> {
        let (mut records, has_moves) = Records::open(path)?;
        let mut moves: HashMap<Vec<u8>, VecDeque<u64>> = HashMap::new();
        let mut aside = None;
        if has_moves {
            aside = Some(open_dir(&aside_of(path))?);
            loop {
                match records.next()? {
                    Record::End => break,
                    Record::Literal(length) => {
                        io::copy(&mut (&mut records.0).take(length.into()), &mut io::sink())?;
                    }
                    Record::Moved(path, number) => moves.entry(path).or_default().push_back(number),
                    Record::Data(..) => {}
                }
            }
            records = Records::open(path)?.0;
        }
        Ok(Playback { records, layer: open_dir(layer)?, aside, moves, now: Now::Nothing })
    }

    /// Opens the file that has the data now: where it was written, or where a later entry made it go.
    fn file(&self, path: &[u8], offset: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]);
        // The next move of the file or of a directory it is in.
        let moved = ends.filter_map(|end| Some((*self.moves.get(&path[..end])?.front()?, &path[end..]))).min_by_key(|(number, _)| *number);
        let opened = match (moved, &self.aside) {
            (Some((number, rest)), Some(aside)) => open_no_links(aside.as_fd(), &[number.to_string().as_bytes(), rest].concat(), flags),
            _ => open_no_links(self.layer.as_fd(), path, flags),
        };
        let lost =
            |error: Errno| damaged(format!("its file {:?} cannot be read: {}", crate::error::printable(path), io::Error::from(error)));
        let mut file = File::from(opened.map_err(lost)?);
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        Ok(file)
    }
}

impl Read for Playback {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let (source, left, short): (&mut dyn Read, _, _) = match &mut self.now {
                Now::End => return Ok(0),
                Now::Nothing => (&mut io::empty(), &mut 0, ""),
                Now::Literal(left) => (&mut self.records.0, left, "its recipe is cut off"),
                Now::File(file, left) => (file, left, "one of its files is shorter than it was"),
            };
            if *left > 0 {
                let want = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                let got = source.read(&mut buffer[..want])?;
                *left -= got as u64;
                return if got > 0 { Ok(got) } else { Err(damaged(short)) };
            }
            self.now = match self.records.next()? {
                Record::End => Now::End,
                Record::Literal(length) => Now::Literal(length.into()),
                Record::Data(path, offset, length) => Now::File(self.file(&path, offset)?, length),
                Record::Moved(path, _) => {
                    if let Some(moves) = self.moves.get_mut(&path) {
                        moves.pop_front();
                    }
                    Now::Nothing
                }
            };
        }
    }
}
