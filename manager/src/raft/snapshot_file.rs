//! Snapshots on disk: one sealed file each, written beside its final name, synced, renamed.
//!
//! ## Design notes
//! The content is cut into chunks of [`CHUNK`] bytes, each sealed on its own (the STREAM construction): the nonce is a
//! random prefix, the chunk's number and a flag that marks the last one, the file's header is associated data. So a
//! file that was cut short, reordered or glued together from two does not open. A file that is being read stays
//! readable after retention removed its name, because readers hold it open.
//!
//! The plaintext is a list of records, each with its length before it: first what the snapshot covers, then whatever
//! the state machine wrote. Another manager gets the plaintext (over TLS) and seals it with its own key.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shoal_proto::codec;

use crate::raft::types::SnapshotMeta;
use crate::seal::Keyring;

const MAGIC: &[u8; 8] = b"SHOALSN1";
const HEADER: usize = 8 + 4 + 19;
const TAG: usize = 16;
/// Plaintext bytes of a chunk.
pub(crate) const CHUNK: usize = 256 << 10;
const SUFFIX: &str = ".snapshot";

/// A snapshot that is on disk and open.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    path: PathBuf,
    file: Arc<File>,
    keyring: Arc<Keyring>,
}

/// The folder that snapshots live in.
#[derive(Debug, Clone)]
pub struct SnapshotFolder {
    directory: PathBuf,
    keyring: Arc<Keyring>,
    keep_old: Arc<AtomicU64>,
}

fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged snapshot: {what}"))
}

fn nonce(prefix: &[u8; 19], number: u32, last: bool) -> [u8; 24] {
    let mut nonce = [0; 24];
    nonce[..19].copy_from_slice(prefix);
    nonce[19..23].copy_from_slice(&number.to_be_bytes());
    nonce[23] = u8::from(last);
    nonce
}

/// Seals what is written into it, chunk by chunk.
struct SealingWriter {
    sink: BufWriter<File>,
    keyring: Arc<Keyring>,
    key: u32,
    prefix: [u8; 19],
    header: Vec<u8>,
    number: u32,
    pending: Vec<u8>,
}

impl SealingWriter {
    fn begin(file: File, keyring: Arc<Keyring>) -> io::Result<Self> {
        let (key, prefix) = (keyring.current_id(), keyring.nonce_prefix());
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&key.to_be_bytes());
        header.extend_from_slice(&prefix);
        let mut sink = BufWriter::with_capacity(CHUNK + TAG, file);
        sink.write_all(&header)?;
        Ok(Self { sink, keyring, key, prefix, header, number: 0, pending: Vec::with_capacity(CHUNK) })
    }

    fn put_chunk(&mut self, last: bool) -> io::Result<()> {
        let nonce = nonce(&self.prefix, self.number, last);
        let sealed =
            self.keyring.seal_chunk(self.key, &nonce, &self.pending, &self.header).map_err(io::Error::other)?;
        self.number = self.number.checked_add(1).ok_or_else(|| io::Error::other("snapshot too large"))?;
        self.pending.clear();
        self.sink.write_all(&sealed)
    }

    /// Seals the last chunk. Durable when it returns.
    fn finish(mut self) -> io::Result<()> {
        self.put_chunk(true)?;
        self.sink.flush()?;
        self.sink.get_ref().sync_all()
    }

    fn record(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.write_all(&length.to_be_bytes())?;
        self.write_all(bytes)
    }
}

impl Write for SealingWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        // A full chunk is sealed only when more follows, because the last one carries a flag.
        if self.pending.len() == CHUNK {
            self.put_chunk(false)?;
        }
        let taken = data.len().min(CHUNK - self.pending.len());
        self.pending.extend_from_slice(&data[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens what a `SealingWriter` wrote. Reports the end only after the last chunk.
pub struct OpeningReader {
    file: Arc<File>,
    offset: u64,
    length: u64,
    keyring: Arc<Keyring>,
    key: u32,
    prefix: [u8; 19],
    header: Vec<u8>,
    number: u32,
    chunk: Vec<u8>,
    position: usize,
    done: bool,
}

impl OpeningReader {
    fn begin(file: Arc<File>, keyring: Arc<Keyring>) -> io::Result<Self> {
        use std::os::unix::fs::FileExt;
        let length = file.metadata()?.len();
        let mut header = vec![0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(|_| damaged("no header"))?;
        if !header.starts_with(MAGIC) {
            return Err(damaged("unknown format"));
        }
        let key = header[8..12].try_into().map(u32::from_be_bytes).map_err(|_| damaged("header"))?;
        let prefix = header[12..HEADER].try_into().map_err(|_| damaged("header"))?;
        let offset = HEADER as u64;
        Ok(Self {
            file,
            offset,
            length,
            keyring,
            key,
            prefix,
            header,
            number: 0,
            chunk: Vec::new(),
            position: 0,
            done: false,
        })
    }

    /// The next chunk of plaintext; `None` after the last one.
    pub fn next_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        use std::os::unix::fs::FileExt;
        if self.done {
            return Ok(None);
        }
        let left = self.length.saturating_sub(self.offset);
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK + TAG);
        let last = left == size as u64;
        let mut sealed = vec![0; size];
        self.file.read_exact_at(&mut sealed, self.offset)?;
        let nonce = nonce(&self.prefix, self.number, last);
        let opened = self
            .keyring
            .open_chunk(self.key, &nonce, &sealed, &self.header)
            .map_err(|_| damaged("a chunk does not open"))?;
        self.offset += size as u64;
        self.number = self.number.wrapping_add(1);
        self.done = last;
        Ok(Some(opened))
    }
}

impl Read for OpeningReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.position == self.chunk.len() {
            match self.next_chunk()? {
                None => return Ok(0),
                Some(chunk) => {
                    self.chunk = chunk;
                    self.position = 0;
                }
            }
        }
        let taken = out.len().min(self.chunk.len() - self.position);
        out[..taken].copy_from_slice(&self.chunk[self.position..self.position + taken]);
        self.position += taken;
        Ok(taken)
    }
}

impl SnapshotFile {
    /// Its plaintext from the start.
    ///
    /// # Errors
    /// When the header cannot be read.
    pub fn reader(&self) -> io::Result<OpeningReader> {
        OpeningReader::begin(Arc::clone(&self.file), Arc::clone(&self.keyring))
    }

    /// What it covers, and then its records.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn records(&self) -> io::Result<(SnapshotMeta, Records)> {
        let mut records = Records(self.reader()?);
        let meta = records.next().ok_or_else(|| damaged("it is empty"))??;
        let meta = codec::decode(&meta).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok((meta, records))
    }
}

/// The records of a snapshot. An end before the last chunk is an error.
pub struct Records(OpeningReader);

impl Iterator for Records {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut length = [0; 4];
        match self.0.read(&mut length[..1]) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
        let record = self.0.read_exact(&mut length[1..]).and_then(|()| {
            let length = u64::from(u32::from_be_bytes(length));
            // Grown as it is read: a forged length must not reserve memory.
            let mut bytes = Vec::new();
            match (&mut self.0).take(length).read_to_end(&mut bytes)? as u64 {
                read if read == length => Ok(bytes),
                _ => Err(damaged("a record is cut short")),
            }
        });
        Some(record)
    }
}

/// A snapshot that arrives from another manager, piece by piece.
pub struct Incoming {
    path: PathBuf,
    keyring: Arc<Keyring>,
    writer: Option<SealingWriter>,
}

impl Incoming {
    /// Takes the next piece of plaintext. Pieces may have any size.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        match &mut self.writer {
            Some(writer) => writer.write_all(piece),
            None => Err(io::Error::other("the transfer is over")),
        }
    }

    /// All pieces are there: the file, durable, but not yet one of the folder's snapshots.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<SnapshotFile> {
        let writer = self.writer.take().ok_or_else(|| io::Error::other("the transfer is over"))?;
        writer.finish()?;
        let file = Arc::new(File::open(&self.path)?);
        let path = std::mem::take(&mut self.path);
        Ok(SnapshotFile { path, file, keyring: Arc::clone(&self.keyring) })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl SnapshotFolder {
    /// The folder, made if needed; leftovers of unfinished writes are removed.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub fn open(directory: &Path, keyring: Arc<Keyring>, keep_old: u64) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(Self { directory: directory.to_owned(), keyring, keep_old: Arc::new(AtomicU64::new(keep_old)) })
    }

    /// How many snapshots older than the newest stay.
    pub fn set_keep_old(&self, keep: u64) {
        self.keep_old.store(keep, Ordering::Relaxed);
    }

    fn name(meta: &SnapshotMeta) -> String {
        let (term, index) = meta.last_log_id.map_or((0, 0), |id| (id.committed_leader_id().term, id.index));
        format!("{term:020}-{index:020}{SUFFIX}")
    }

    /// Names of complete snapshots, newest last.
    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name.ends_with(SUFFIX)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The snapshots, newest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> io::Result<Vec<SnapshotFile>> {
        self.names()?.iter().rev().map(|name| self.open_file(self.directory.join(name))).collect()
    }

    fn open_file(&self, path: PathBuf) -> io::Result<SnapshotFile> {
        let file = Arc::new(File::open(&path)?);
        Ok(SnapshotFile { path, file, keyring: Arc::clone(&self.keyring) })
    }

    /// Writes a snapshot of these records. Durable when it returns.
    ///
    /// # Errors
    /// When any step fails; nothing is left behind then.
    pub fn write(&self, meta: &SnapshotMeta, records: impl Iterator<Item = Vec<u8>>) -> io::Result<SnapshotFile> {
        let temporary = self.directory.join(format!("{}.build.tmp", Self::name(meta)));
        let written = (|| {
            let mut writer = SealingWriter::begin(create_private(&temporary)?, Arc::clone(&self.keyring))?;
            writer.record(&codec::encode(meta))?;
            for record in records {
                writer.record(&record)?;
            }
            writer.finish()
        })();
        if let Err(error) = written {
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        self.publish(&temporary, meta)
    }

    /// Size of the newest snapshot; 0 when there is none.
    pub(crate) fn newest_bytes(&self) -> u64 {
        let newest = std::fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        newest
            .max_by_key(std::fs::DirEntry::file_name)
            .and_then(|file| file.metadata().ok())
            .map_or(0, |file| file.len())
    }

    fn publish(&self, temporary: &Path, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
        let path = self.directory.join(Self::name(meta));
        std::fs::rename(temporary, &path)?;
        File::open(&self.directory)?.sync_all()?;
        let file = self.open_file(path)?;
        if let Err(error) = self.retire() {
            tracing::warn!(%error, "old snapshots stay");
        }
        Ok(file)
    }

    fn retire(&self) -> io::Result<()> {
        let names = self.names()?;
        let keep = usize::try_from(self.keep_old.load(Ordering::Relaxed)).unwrap_or(usize::MAX).saturating_add(1);
        for name in names.iter().take(names.len().saturating_sub(keep)) {
            std::fs::remove_file(self.directory.join(name))?;
        }
        Ok(())
    }

    /// Begins to receive a snapshot. `unique` tells transfers apart that run at the same time.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn receive(&self, unique: u64) -> io::Result<Incoming> {
        let path = self.directory.join(format!("incoming-{unique:016x}.tmp"));
        let writer = SealingWriter::begin(create_private(&path)?, Arc::clone(&self.keyring))?;
        Ok(Incoming { path, keyring: Arc::clone(&self.keyring), writer: Some(writer) })
    }

    /// Takes a received snapshot into the folder, so that a restart finds it.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn adopt(&self, received: &SnapshotFile, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
        self.publish(&received.path, meta)
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use shoal_kit::entropy::Entropy;

    use super::*;

    fn folder(directory: &Path, keep_old: u64) -> SnapshotFolder {
        let keyring = Arc::new(Keyring::ephemeral(Entropy::from_seed(5)));
        SnapshotFolder::open(directory, keyring, keep_old).unwrap()
    }

    fn meta(index: u64) -> SnapshotMeta {
        let last_log_id = Some(openraft::testing::log_id::<crate::raft::types::TypeConfig>(1, 0, index));
        SnapshotMeta { last_log_id, ..SnapshotMeta::default() }
    }

    fn read(file: &SnapshotFile) -> io::Result<Vec<Vec<u8>>> {
        file.records().and_then(|(_, records)| records.collect())
    }

    #[test]
    fn records_round_trip_at_chunk_borders() {
        let directory = tempfile::tempdir().unwrap();
        let folder = folder(directory.path(), 0);
        for size in [0, 1, CHUNK - 40, CHUNK - 8, CHUNK - 4, CHUNK, 2 * CHUNK, 3 * CHUNK + 17] {
            let records = vec![vec![7u8; size], vec![], vec![9; 5]];
            let file = folder.write(&meta(size as u64 + 1), records.clone().into_iter()).unwrap();
            assert_eq!(read(&file).unwrap(), records, "size {size}");
        }
        assert_eq!(folder.list().unwrap().len(), 1, "old ones are retired");
    }

    #[test]
    fn a_cut_or_changed_file_does_not_open() {
        let directory = tempfile::tempdir().unwrap();
        let folder = folder(directory.path(), 0);
        let file = folder.write(&meta(1), vec![vec![7u8; CHUNK * 2]].into_iter()).unwrap();
        let whole = std::fs::read(&file.path).unwrap();
        for length in [0, 5, HEADER, HEADER + 1, HEADER + CHUNK + TAG, whole.len() - 1] {
            std::fs::write(&file.path, &whole[..length]).unwrap();
            assert!(read(&folder.list().unwrap()[0]).is_err(), "length {length}");
        }
        for byte in [0, 9, 15, HEADER, HEADER + CHUNK, whole.len() - 1] {
            let mut forged = whole.clone();
            forged[byte] ^= 1;
            std::fs::write(&file.path, &forged).unwrap();
            assert!(read(&folder.list().unwrap()[0]).is_err(), "byte {byte}");
        }
    }

    #[test]
    fn a_transfer_is_adopted_or_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let sent = folder(&from, 0).write(&meta(3), vec![vec![1u8; CHUNK + 9], vec![2; 3]].into_iter()).unwrap();
        let receiver = folder(&to, 0);
        let mut incoming = receiver.receive(1).unwrap();
        let mut reader = sent.reader().unwrap();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            incoming.push(&chunk).unwrap();
        }
        let received = incoming.finish().unwrap();
        let adopted = receiver.adopt(&received, &meta(3)).unwrap();
        assert_eq!(read(&adopted).unwrap(), read(&sent).unwrap());
        drop(receiver.receive(2).unwrap());
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 1);
    }

    #[test]
    fn retention_keeps_what_is_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let folder = folder(directory.path(), 2);
        for index in 1..6 {
            folder.write(&meta(index), vec![vec![1u8]].into_iter()).unwrap();
        }
        assert_eq!(folder.list().unwrap().len(), 3);
    }
}
