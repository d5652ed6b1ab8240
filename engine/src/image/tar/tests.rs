use std::io::Write;

use proptest::prelude::*;

use super::write::{END, blank, header, padding};
use super::*;

/// Collects what the tap sees.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Tap for Raw {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

fn read_all(archive: &[u8]) -> Result<Vec<(TarEntry, Vec<u8>)>, TarError> {
    let mut reader = TarReader::new(archive, NoTap);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let content = reader.read_content(1 << 20)?;
        entries.push((entry, content));
    }
    reader.drain()?;
    Ok(entries)
}

fn file(path: &str, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(&TarEntry { size: content.len() as u64, ..blank(EntryKind::File, path, 0o644) });
    bytes.extend_from_slice(content);
    bytes.extend_from_slice(padding(content.len() as u64));
    bytes
}

fn pax(records: &[u8]) -> Vec<u8> {
    let mut bytes = file("pax", records);
    bytes[156] = b'x';
    fix_checksum(&mut bytes);
    bytes
}

fn fix_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u64 = header[..512].iter().map(|byte| u64::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

fn ended(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend_from_slice(&END);
    bytes
}

#[test]
fn what_we_write_we_read() {
    let long = "d/".repeat(80) + "file";
    let entry = TarEntry {
        uid: 5_000_000,
        gid: 7,
        modified: (1_700_000_000, 123_000_000),
        attributes: vec![(b"security.capability".to_vec(), vec![0, 1, b'=', b'\n', 255])],
        size: 3,
        ..blank(EntryKind::File, &long, 0o4755)
    };
    let mut archive = header(&entry);
    archive.extend_from_slice(b"abc");
    archive.extend_from_slice(padding(3));
    archive.extend(header(&TarEntry { link: long.clone().into_bytes(), ..blank(EntryKind::Link, "link", 0o777) }));
    let entries = read_all(&ended(archive)).unwrap();
    assert_eq!(entries[0], (entry, b"abc".to_vec()));
    assert_eq!(entries[1].0.link, long.into_bytes());
}

#[test]
fn gnu_tar_in_all_its_formats_is_read() {
    let host = tempfile::tempdir().unwrap();
    let long = "n".repeat(120);
    std::fs::write(host.path().join(&long), "long").unwrap();
    std::fs::write(host.path().join("plain"), vec![7; 1500]).unwrap();
    std::os::unix::fs::symlink("plain", host.path().join("link")).unwrap();
    std::fs::hard_link(host.path().join("plain"), host.path().join("second")).unwrap();
    let mut holes = std::fs::File::create(host.path().join("holes")).unwrap();
    for part in 0..12_u64 {
        std::os::unix::fs::FileExt::write_all_at(&holes, b"data", part << 20).unwrap();
    }
    holes.flush().unwrap();
    drop(holes);
    for format in [
        &["--format=gnu", "--sparse"][..],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=gnu"],
        &["--format=posix"],
    ] {
        #[expect(clippy::disallowed_methods, reason = "the other implementation in a test")]
        let output = std::process::Command::new("tar")
            .args(format)
            .args(["-c", "-C"])
            .arg(host.path())
            .args([&long, "plain", "link", "second", "holes"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut reader = TarReader::new(&output.stdout[..], Raw::default());
        let mut seen = Vec::new();
        let mut contents = 0;
        while let Some(entry) = reader.next_entry().unwrap() {
            let content = reader.read_content(64 << 20).unwrap();
            contents += content.len();
            if entry.path == b"holes" {
                assert_eq!(entry.size, (11 << 20) + 4, "{format:?}");
                let sparse = entry.extents.as_ref().is_some_and(|extents| extents.len() >= 12);
                assert_eq!(sparse, format.contains(&"--sparse"), "{format:?}");
            }
            seen.push((String::from_utf8(entry.path).unwrap(), entry.kind));
        }
        reader.drain().unwrap();
        let raw = reader.into_parts().1.0.len();
        assert_eq!(raw + contents, output.stdout.len(), "every byte is content or raw: {format:?}");
        let kinds = [EntryKind::File, EntryKind::File, EntryKind::Link, EntryKind::HardLink, EntryKind::File];
        let names = [&long, "plain", "link", "second", "holes"];
        let expected: Vec<_> = names.iter().map(|name| (*name).to_owned()).zip(kinds).collect();
        assert_eq!(seen, expected, "{format:?}");
    }
}

#[test]
fn a_size_in_an_extension_header_counts() {
    // The header says 0: a reader that believes it would take the content for headers (CVE-2025-62518).
    let inner = file("smuggled", b"x");
    let mut archive = pax(format!("{} size={}\n", 10 + 3, inner.len()).as_bytes());
    let mut outer = header(&blank(EntryKind::File, "outer", 0o644));
    archive.append(&mut outer);
    archive.extend_from_slice(&inner);
    let entries = read_all(&ended(archive)).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].1, inner);
}

#[test]
fn what_readers_disagree_about_is_refused() {
    let plain = file("a", b"content");
    let mut wrong_sum = plain.clone();
    wrong_sum[0] = b'b';
    let mut link_with_size = file("l", b"content");
    link_with_size[156] = b'2';
    fix_checksum(&mut link_with_size);
    let mut unknown = file("u", b"");
    unknown[156] = b'Z';
    fix_checksum(&mut unknown);
    let lone_zeros = [&[0; 512][..], &plain].concat();
    let mut global = pax(b"12 path=abc\n");
    global[156] = b'g';
    fix_checksum(&mut global);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("checksum", wrong_sum),
        ("size on a link", link_with_size),
        ("type", unknown),
        ("zeros", lone_zeros),
        ("global path", global),
        ("record length", [pax(b"99 path=abc\n"), plain.clone()].concat()),
        ("record end", [pax(b"12 path=abcd"), plain.clone()].concat()),
        ("record without key", [pax(b"6 =ab\n"), plain.clone()].concat()),
        ("record without value", [pax(b"8 path\n\n"), plain.clone()].concat()),
        ("NUL in path", [pax(b"12 path=a\0c\n"), plain.clone()].concat()),
        ("two headers", [pax(b"12 path=abc\n"), pax(b"12 path=abd\n"), plain.clone()].concat()),
        ("dangling header", pax(b"12 path=abc\n")),
        ("negative size", [pax(b"11 size=-1\n"), plain.clone()].concat()),
        ("uid", [pax(b"18 uid=4294967295\n"), plain.clone()].concat()),
        ("uid beyond", [pax(b"18 uid=4294967296\n"), plain.clone()].concat()),
        ("sparse beyond size", [pax(b"21 GNU.sparse.size=1\n25 GNU.sparse.map=0,9999\n"), plain.clone()].concat()),
    ];
    for (what, archive) in cases {
        let result = read_all(&ended(archive));
        assert!(matches!(result, Err(TarError::Malformed { .. })), "{what}: {result:?}");
    }
}

#[test]
fn empty_values_mean_nothing_said() {
    let archive = [pax(b"8 path=\n"), file("name", b"x")].concat();
    assert_eq!(read_all(&ended(archive)).unwrap()[0].0.path, b"name");
}

#[test]
fn half_an_archive_is_an_error() {
    let archive = ended(file("a", &[1; 5000]));
    for length in [100, 512, 700, 512 + 5000, 5600] {
        let result = read_all(&archive[..length]);
        if length == 5632 {
            result.unwrap();
        } else {
            assert!(matches!(result, Err(TarError::Truncated { .. })), "{length}: {result:?}");
        }
    }
}

#[test]
fn memory_has_bounds() {
    let mut archive = header(&TarEntry { size: 1 << 40, ..blank(EntryKind::File, "x", 0o644) });
    let last = archive.len() - 512;
    archive[last + 156] = b'x';
    fix_checksum(&mut archive[last..]);
    assert!(read_all(&archive).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let _ = read_all(&bytes);
    }

    #[test]
    fn no_change_makes_it_panic(
        position in 0_usize..4000, byte in any::<u8>(), fix in any::<bool>(), content in prop::collection::vec(any::<u8>(), 0..600)
    ) {
        let long = "p".repeat(300);
        let mut archive = ended([file(&long, &content), file("b", &content)].concat());
        let position = position % archive.len();
        archive[position] = byte;
        if fix {
            let start = position / 512 * 512;
            fix_checksum(&mut archive[start..]);
        }
        let _ = read_all(&archive);
    }

    /// The reader agrees with crate `tar` on what that one writes.
    #[test]
    fn agrees_with_another_implementation(
        entries in prop::collection::vec(("[a-z]{1,200}", prop::collection::vec(any::<u8>(), 0..2000), 0_u32..0o7777), 0..8)
    ) {
        let mut builder = ::tar::Builder::new(Vec::new());
        for (name, content, mode) in &entries {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(*mode);
            header.set_uid(1);
            header.set_gid(2);
            header.set_mtime(3);
            builder.append_data(&mut header, name, &content[..]).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let read = read_all(&archive).unwrap();
        prop_assert_eq!(read.len(), entries.len());
        for ((name, content, mode), (entry, read)) in entries.iter().zip(&read) {
            prop_assert_eq!(name.as_bytes(), &entry.path[..]);
            prop_assert_eq!(content, read);
            prop_assert_eq!(*mode, entry.mode);
        }
    }
}
