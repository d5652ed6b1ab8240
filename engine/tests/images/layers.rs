//! Layers: unpacked with everything, shared, given back byte for byte.

use std::ffi::OsStr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use shoal_engine::image::Digest;
use shoal_engine::image::layer::stream::Limits;
use shoal_engine::image::layer::{LayerError, LayerStore, apply};
use shoal_engine::image::tar::write::blank;
use shoal_engine::image::tar::{EntryKind, TarEntry};
use shoal_engine_sys::fs::{self, Directory};

use super::support::{Archive, Store};

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn is_whiteout(path: &Path) -> bool {
    let metadata = path.symlink_metadata().unwrap();
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

fn is_opaque(path: &Path) -> bool {
    let directory = Directory::open(path).unwrap();
    fs::attribute(&directory, OsStr::new(apply::OPAQUE_ATTRIBUTE)).unwrap() == Some(b"y".to_vec())
}

#[test]
fn everything_of_an_entry_is_kept() {
    let store = Store::new();
    let program = TarEntry {
        uid: 1000,
        gid: 2000,
        modified: (1_500_000_000, 5_000_000),
        attributes: vec![
            (b"user.note".to_vec(), b"hello".to_vec()),
            (b"security.capability".to_vec(), vec![1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (b"trusted.overlay.redirect".to_vec(), b"/etc".to_vec()),
        ],
        size: 3,
        ..blank(EntryKind::File, "bin/program", 0o4755)
    };
    let directory = TarEntry { uid: 7, modified: (1_400_000_000, 0), ..blank(EntryKind::Directory, "bin", 0o2700) };
    let device = TarEntry { device: (1, 3), ..blank(EntryKind::CharacterDevice, "null", 0o666) };
    let archive = Archive::default()
        .entry(directory, b"")
        .entry(program, b"abc")
        .hard_link("bin/second", "bin/program")
        .link("absolute", "/etc/passwd")
        .entry(device, b"")
        .entry(blank(EntryKind::Fifo, "pipe", 0o600), b"");
    let (pin, files) = store.add(&archive).unwrap();
    let metadata = files.join("bin/program").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (1000, 2000, 0o4755));
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_500_000_000, 5_000_000));
    assert_eq!(metadata.ino(), files.join("bin/second").metadata().unwrap().ino());
    let file = std::fs::File::open(files.join("bin/program")).unwrap();
    let mut attributes = fs::attributes(&file).unwrap();
    attributes.sort();
    assert_eq!(attributes, ["security.capability", "user.note"]);
    let metadata = files.join("bin").metadata().unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777, metadata.mtime()), (7, 0o2700, 1_400_000_000));
    assert_eq!(std::fs::read_link(files.join("absolute")).unwrap(), Path::new("/etc/passwd"));
    let null = files.join("null").metadata().unwrap();
    assert_eq!((null.rdev(), null.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
    assert!(files.join("pipe").metadata().unwrap().file_type().is_fifo());
    assert_eq!(pin.record().bytes, 3 + "/etc/passwd".len() as u64);
    assert_eq!(files.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(store.host.path().join("image").metadata().unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_their_own_layer() {
    let store = Store::new();
    let archive = Archive::default()
        .file(".wh.gone", b"")
        .hard_link("dir/.wh.linked", "some/other") // as some builders ship them
        .file("kept", b"x")
        .file(".wh.kept", b"")
        .file(".wh.early", b"")
        .dir("early")
        .file("early/file", b"x")
        .dir("late")
        .file("late/file", b"x")
        .file(".wh.late", b"")
        .file("opaque/before", b"x")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/after", b"x")
        .file(".wh.replaced", b"")
        .file("replaced", b"new")
        .file(".wh..wh.aufs", b"");
    let (_pin, files) = store.add(&archive).unwrap();
    assert!(is_whiteout(&files.join("gone")));
    assert!(is_whiteout(&files.join("dir/linked")));
    assert_eq!(std::fs::read(files.join("kept")).unwrap(), b"x");
    assert!(is_opaque(&files.join("early")) && files.join("early/file").exists());
    assert!(is_opaque(&files.join("late")) && files.join("late/file").exists());
    assert!(is_opaque(&files.join("opaque")));
    assert_eq!(names(&files.join("opaque")), ["after", "before"]);
    assert_eq!(std::fs::read(files.join("replaced")).unwrap(), b"new");
    assert!(!is_opaque(&files.join("dir")));
    assert_eq!(names(&files), ["dir", "early", "gone", "kept", "late", "opaque", "replaced"]);
}

#[test]
fn the_same_bytes_come_out() {
    let store = Store::new();
    let archive = Archive::default()
        .dir("a")
        .file("a/one", &[1; 70_000])
        .file("a/two", b"two")
        .hard_link("a/three", "a/two")
        .file("a/one", b"replaced") // the same path again
        .file("a/two", b"two again")
        .file("a/three", b"three again")
        .link("through", "a")
        .file("through/new", b"written through a link")
        .link("through", "elsewhere") // the way there is gone now
        .file("a", b"the whole directory is gone")
        .file("empty", b"");
    let mut bytes = archive.clone().bytes();
    bytes.extend_from_slice(&[0; 10240]); // tar pads to whole records
    let pin = store.layers.add(&bytes[..], None).unwrap();
    let mut output = Vec::new();
    store.layers.write_tar(&pin.record().digest, &mut output).unwrap();
    assert!(output == bytes);
    let left = ["the whole directory is gone", "elsewhere"];
    assert_eq!(pin.record().bytes, left.iter().map(|text| text.len() as u64).sum::<u64>());
    // Damage is noticed.
    std::fs::write(store.layers.files_path(&pin.record().digest).join("a"), "something of that length...").unwrap();
    let error = store.layers.write_tar(&pin.record().digest, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, LayerError::Digest { .. }), "{error}");
}

#[test]
fn equal_layers_are_one_and_go_with_their_last_user() {
    let store = Store::new();
    let archive = Archive::default().file("a", b"x");
    let (one, files) = store.add(&archive).unwrap();
    let (two, _) = store.add(&archive).unwrap();
    let digest = one.record().digest;
    let link = store.layers.links_path().join(&one.record().short);
    assert_eq!(std::fs::read(link.join("a")).unwrap(), b"x");
    drop(one);
    two.keep();
    assert!(files.exists());
    assert!(store.layers.release(&digest).unwrap().is_some());
    assert!(!files.exists() && link.symlink_metadata().is_err());
    assert!(names(&store.host.path().join("image/staging")).is_empty());
}

#[test]
fn opening_removes_what_was_interrupted() {
    let store = Store::new();
    let (kept, files) = store.add(&Archive::default().file("a", b"x")).unwrap();
    let (lost, lost_files) = store.add(&Archive::default().file("b", b"x")).unwrap();
    let (kept_digest, image) = (kept.record().digest, store.host.path().join("image"));
    kept.keep();
    lost.keep();
    std::fs::create_dir_all(image.join("staging/17/files/half")).unwrap();
    std::fs::create_dir_all(image.join("layers/broken")).unwrap();
    std::fs::remove_file(image.join("l").join(&kept_digest.hex()[..12])).unwrap();
    std::os::unix::fs::symlink("../nowhere", image.join("l/stale")).unwrap();
    let again = LayerStore::open(&image, Limits::default()).unwrap();
    again.pin(&kept_digest).unwrap().keep();
    again.collect();
    assert!(files.exists() && !lost_files.exists());
    assert!(names(&image.join("staging")).is_empty());
    assert_eq!(names(&image.join("layers")), [kept_digest.hex()]);
    assert_eq!(names(&image.join("l")), [&kept_digest.hex()[..12]]);
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let store = Store::new();
    let bytes = Archive::default().file("a", b"x").bytes();
    let error = store.layers.add(&bytes[..], Some(Digest::of(b"other"))).unwrap_err();
    assert!(matches!(error, LayerError::Digest { .. }), "{error}");
    assert!(names(&store.host.path().join("image/layers")).is_empty());
    assert!(names(&store.host.path().join("image/staging")).is_empty());
    assert!(store.layers.all().is_empty());
}
