//! A log file with its rotated predecessors: `log`, `log.1`, `log.2`, ..., packed ones with `.gz` behind that.
//!
//! ## Design notes
//! - A rotated file is packed by a child process of the shim, which goes on meanwhile. The packed file appears by rename,
//!   under the same number, and tells in its header which file it was; then the plain one goes. Whoever reads a file while
//!   it is packed recognises it so.
//! - What a full disk did not take of a write is written before anything else, so that no record is ever torn in the middle
//!   of a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::process::{WaitId, WaitIdOptions};
use shoal_engine_sys::namespace::open_process;
use shoal_engine_sys::process::{self, Fork, SingleThread};

use crate::shim::config::LogFile;

/// How much less than others the packing of a file may hold up.
const PATIENCE_OF_PACKING: i32 = 10;

/// A log file with its rotated predecessors.
#[derive(Debug)]
pub(super) struct RotatedFile {
    options: LogFile,
    file: File,
    length: u64,
    /// Whole records that are not written yet.
    pending: Vec<u8>,
    /// What is still to be written of a write that failed half-way.
    owed: Vec<u8>,
    /// The process that packs the last rotated file.
    packing: Option<OwnedFd>,
}

impl RotatedFile {
    /// Opens it for appending.
    pub(super) fn open(options: &LogFile) -> io::Result<Self> {
        let file = open(&options.path)?;
        let length = file.metadata()?.len();
        Ok(Self { options: options.clone(), file, length, pending: Vec::new(), owed: Vec::new(), packing: None })
    }

    /// The file as it is now, and for whoever wants to mend its end.
    pub(super) fn path(&self) -> &Path {
        &self.options.path
    }

    /// The descriptor of the file as it is now.
    pub(super) fn as_raw_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.file)
    }

    /// Cuts it off.
    pub(super) fn cut(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.length = length;
        Ok(())
    }

    /// Where the next record goes, until [`Self::flush`]. As dockerd: a file that has reached the limit is rotated before the
    /// next message, so one may be a message too long.
    pub(super) fn begin_record(&mut self) -> io::Result<&mut Vec<u8>> {
        let length = self.length + self.pending.len() as u64;
        if self.options.max_size_bytes.is_some_and(|limit| length >= limit) {
            self.flush()?;
            self.rotate()?;
        }
        Ok(&mut self.pending)
    }

    /// Writes the records that were begun.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let (owed, pending) = (std::mem::take(&mut self.owed), std::mem::take(&mut self.pending));
        self.write(&owed)?;
        self.write(&pending)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.length += written as u64;
                    if written > 0 {
                        self.owed = bytes[written..].to_vec();
                    }
                    return Err(error);
                }
            }
        }
        self.length += written as u64;
        Ok(())
    }

    /// `log` becomes `log.1`, that one `log.2`, and so on; the oldest goes.
    fn rotate(&mut self) -> io::Result<()> {
        self.finish();
        if self.options.max_file > 1 {
            for number in (1..self.options.max_file).rev() {
                for packed in [false, true] {
                    let from = numbered(self.path(), number, packed);
                    if number + 1 == self.options.max_file {
                        remove_if_there(&from)?;
                    } else {
                        rename_if_there(&from, &numbered(self.path(), number + 1, packed))?;
                    }
                }
            }
            rename_if_there(self.path(), &numbered(self.path(), 1, false))?;
            self.file = open(self.path())?;
        } else {
            self.file.set_len(0)?;
        }
        self.length = 0;
        self.owed = Vec::new();
        if self.options.compress && self.options.max_file > 1 {
            self.packing = begin_packing(self.path())?;
        }
        Ok(())
    }

    /// Waits until the last rotated file is packed.
    pub(super) fn finish(&mut self) {
        let Some(child) = self.packing.take() else { return };
        // Left to whoever collects this process's children.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::PidFd(child.as_fd()), options) {}
    }
}

fn begin_packing(path: &Path) -> io::Result<Option<OwnedFd>> {
    let Ok(single) = SingleThread::prove() else {
        return pack(path).map(|()| None);
    };
    match single.fork()? {
        Fork::Parent(pid) => Ok(open_process(pid).ok()),
        Fork::Child => {
            // The container's streams and clients are the shim's alone.
            let _ = process::close_all_but(&[0, 1, 2]);
            let _ = rustix::process::nice(PATIENCE_OF_PACKING);
            let packed = pack(path);
            if let Err(error) = &packed {
                crate::shim::say(&format!("cannot pack a log file: {error}"));
            }
            process::exit_now(i32::from(packed.is_err()))
        }
    }
}

/// Packs the last rotated file.
fn pack(path: &Path) -> io::Result<()> {
    let plain = numbered(path, 1, false);
    let mut source = File::open(&plain)?;
    let metadata = source.metadata()?;
    let (packed, mut temporary) = (numbered(path, 1, true), plain.clone().into_os_string());
    temporary.push(".packing");
    let target = OpenOptions::new().create(true).write(true).truncate(true).mode(0o640).open(&temporary)?;
    let identity = identity_text(&metadata);
    let mut encoder = flate2::GzBuilder::new().comment(identity).write(target, flate2::Compression::default());
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?;
    std::fs::rename(&temporary, packed)?;
    std::fs::remove_file(plain)
}

/// What a packed file says that it was: inode and time of the last change, which a rotated file keeps.
fn identity_text(metadata: &std::fs::Metadata) -> String {
    format!("{} {}.{:09}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

/// Was this packed file made of that one?
pub(crate) fn packed_identity(packed: &File, plain: &std::fs::Metadata) -> io::Result<bool> {
    let decoder = flate2::read::GzDecoder::new(packed);
    let comment = decoder.header().and_then(|header| header.comment().map(<[u8]>::to_vec));
    Ok(comment.is_some_and(|comment| comment == identity_text(plain).into_bytes()))
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// The path of a generation.
pub(crate) fn numbered(path: &Path, number: u32, packed: bool) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    if number > 0 {
        name.push(format!(".{number}"));
    }
    if packed {
        name.push(".gz");
    }
    PathBuf::from(name)
}

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
