//! Writing archives: headers as Go's `archive/tar` would read and write them.

use super::header::BLOCK;
use super::{EntryKind, TarEntry};

/// Zeros that end an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Zeros after content of this length.
pub fn padding(size: u64) -> &'static [u8] {
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    &END[..(BLOCK - rest) % BLOCK]
}

/// The header of a plain file of an archive that we make ourselves: root's, read-only for others.
pub fn plain_file(path: &str, size: u64, modified: i64) -> Vec<u8> {
    header(&TarEntry { modified: (modified, 0), size, ..blank(EntryKind::File, path, 0o644) })
}

/// The header of a directory of such an archive.
pub fn plain_directory(path: &str, modified: i64) -> Vec<u8> {
    header(&TarEntry { modified: (modified, 0), ..blank(EntryKind::Directory, path, 0o755) })
}

/// An entry of root's with nothing but kind, path and mode.
pub fn blank(kind: EntryKind, path: &str, mode: u32) -> TarEntry {
    TarEntry {
        kind,
        path: path.as_bytes().to_vec(),
        link: Vec::new(),
        mode,
        uid: 0,
        gid: 0,
        modified: (0, 0),
        device: (0, 0),
        size: 0,
        attributes: Vec::new(),
        extents: None,
    }
}

/// The header blocks of an entry; what does not fit goes into an extension header before it.
pub fn header(entry: &TarEntry) -> Vec<u8> {
    let mut records = Vec::new();
    if entry.path.len() > 100 {
        record(&mut records, b"path", &entry.path);
    }
    if entry.link.len() > 100 {
        record(&mut records, b"linkpath", &entry.link);
    }
    if entry.size > 0o77_777_777_777 {
        record(&mut records, b"size", entry.size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if id > 0o7_777_777 {
            record(&mut records, key, id.to_string().as_bytes());
        }
    }
    if entry.modified.1 != 0 || entry.modified.0 > 0o77_777_777_777 {
        let time = format!("{}.{:09}", entry.modified.0, entry.modified.1);
        record(&mut records, b"mtime", time.trim_end_matches('0').trim_end_matches('.').as_bytes());
    }
    for (name, value) in &entry.attributes {
        record(&mut records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    let mut bytes = Vec::with_capacity(3 * BLOCK);
    if !records.is_empty() {
        let name = [b"PaxHeaders.0/", last_name(&entry.path)].concat();
        let extension = TarEntry { path: name, size: records.len() as u64, ..blank(EntryKind::File, "", 0o644) };
        bytes.extend_from_slice(&block(&extension, b'x'));
        let size = records.len() as u64;
        bytes.append(&mut records);
        bytes.extend_from_slice(padding(size));
    }
    let kind = match entry.kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Link => b'2',
        EntryKind::CharacterDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    };
    bytes.extend_from_slice(&block(entry, kind));
    bytes
}

fn last_name(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    &name[..name.len().min(80)]
}

/// `<length> <key>=<value>\n`, where the length counts its own digits.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length = body + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn block(entry: &TarEntry, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let path = &entry.path[..entry.path.len().min(100)];
    block[..path.len()].copy_from_slice(path);
    let link = &entry.link[..entry.link.len().min(100)];
    block[157..157 + link.len()].copy_from_slice(link);
    octal(&mut block[100..108], u64::from(entry.mode));
    octal(&mut block[108..116], u64::from(entry.uid));
    octal(&mut block[116..124], u64::from(entry.gid));
    octal(&mut block[124..136], entry.size);
    octal(&mut block[136..148], u64::try_from(entry.modified.0).unwrap_or(0));
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(entry.device.0));
    octal(&mut block[337..345], u64::from(entry.device.1));
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// Digits and a NUL; zeros when it does not fit, because then an extension header says it.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let digits = format!("{value:0width$o}");
    let digits = if digits.len() > width { "0".repeat(width) } else { digits };
    field[..width].copy_from_slice(digits.as_bytes());
    field[width] = 0;
}
