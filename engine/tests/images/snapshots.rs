//! One suite for both drivers.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use shoal_engine::image::Digest;
use shoal_engine::image::layer::LayerStore;
use shoal_engine::image::layer::stream::Limits;
use shoal_engine::image::tar::write::{END, blank, header, padding};
use shoal_engine::image::tar::{EntryKind, TarEntry};
use shoal_engine::snapshot::{MountedRoot, PrepareOptions, RootfsMount, SnapshotDriver, Snapshots};
use shoal_engine_sys::fs::{self, Directory};

struct Fixture {
    host: tempfile::TempDir,
    snapshots: Snapshots,
    layers: Arc<LayerStore>,
    chain: Vec<Digest>,
}

fn archive(entries: &[(EntryKind, &str, &str, u32, u32)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, content, mode, uid) in entries {
        let is_file = *kind == EntryKind::File;
        let size = if is_file { content.len() as u64 } else { 0 };
        let link = if is_file { Vec::new() } else { content.as_bytes().to_vec() };
        bytes.extend(header(&TarEntry { link, size, uid: *uid, ..blank(*kind, path, *mode) }));
        if is_file {
            bytes.extend_from_slice(content.as_bytes());
            bytes.extend_from_slice(padding(size));
        }
    }
    bytes.extend_from_slice(&END);
    bytes
}

impl Fixture {
    fn new(driver: SnapshotDriver) -> Self {
        use EntryKind::{Directory as D, File as F, HardLink as H, Link as L};
        let host = tempfile::tempdir().unwrap();
        let root = host.path().join("image");
        let layers = LayerStore::open(&root, Limits::default()).unwrap();
        let lower = archive(&[
            (D, "etc", "", 0o755, 0),
            (F, "etc/config", "lower", 0o644, 0),
            (F, "etc/removed", "lower", 0o644, 0),
            (D, "data", "", 0o750, 1000),
            (F, "data/one", "one", 0o640, 1000),
            (H, "data/two", "data/one", 0o640, 1000),
            (L, "data/link", "/etc/passwd", 0o777, 0),
            (D, "old", "", 0o755, 0),
            (F, "old/file", "old", 0o644, 0),
            (F, "program", "elf", 0o4755, 0),
            (L, "away", "/data", 0o777, 0),
        ]);
        let upper = archive(&[
            (F, "etc/config", "upper", 0o600, 0),
            (F, "etc/.wh.removed", "", 0o644, 0),
            (D, "old", "", 0o755, 0),
            (F, "old/.wh..wh..opq", "", 0o644, 0),
            (F, "old/new", "new", 0o644, 0),
        ]);
        let chain = [lower, upper].into_iter().map(|bytes| {
            let pin = layers.add(&bytes[..], None).unwrap();
            let digest = pin.record().digest;
            pin.keep();
            digest
        });
        let chain = chain.collect();
        let snapshots = Snapshots::open(&root, Arc::clone(&layers), Some(driver)).unwrap();
        Self { host, snapshots, layers, chain }
    }

    fn prepare(&self, container: &str) -> RootfsMount {
        self.snapshots.prepare(container, &self.chain, PrepareOptions::default()).unwrap()
    }
}

fn read(root: &MountedRoot, path: &str) -> String {
    io::read_to_string(root.directory().open_file(Path::new(path)).unwrap()).unwrap()
}

fn exists(root: &MountedRoot, path: &str) -> bool {
    root.directory().open_any(Path::new(path), false).is_ok()
}

fn in_both(test: impl Fn(&Fixture)) {
    for driver in [SnapshotDriver::Overlay, SnapshotDriver::Copy] {
        test(&Fixture::new(driver));
    }
}

#[test]
fn layers_are_seen_as_one() {
    in_both(|fixture| {
        fixture.prepare("c1");
        let root = fixture.snapshots.open_root("c1").unwrap();
        assert_eq!(read(&root, "etc/config"), "upper");
        assert!(!exists(&root, "etc/removed"));
        assert!(exists(&root, "old/new") && !exists(&root, "old/file"));
        assert_eq!(read(&root, "away/two"), "one");
        for path in ["proc", "sys", "dev/pts", "etc/hosts", ".dockerenv", "dev/console"] {
            assert!(exists(&root, path), "{path}");
        }
        let path = fs::handle_path(root.as_fd());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(path.join("program").metadata().unwrap().mode() & 0o7777, 0o4755);
        let one = path.join("data/one").metadata().unwrap();
        assert_eq!((one.uid(), one.mode() & 0o777), (1000, 0o640));
        assert_eq!(one.ino(), path.join("data/two").metadata().unwrap().ino());
        assert_eq!(std::fs::read_link(path.join("data/link")).unwrap(), Path::new("/etc/passwd"));
    });
}

#[test]
fn changes_stay_in_their_container() {
    in_both(|fixture| {
        fixture.prepare("c1");
        fixture.prepare("c2");
        let one = fixture.snapshots.open_root("c1").unwrap();
        let path = fs::handle_path(one.as_fd());
        assert!(fixture.snapshots.diff("c1").unwrap().is_empty());
        assert_eq!(fixture.snapshots.usage("c1").unwrap().bytes, 0);
        std::fs::write(path.join("etc/config"), "changed").unwrap();
        std::fs::write(path.join("new"), "12345").unwrap();
        std::fs::create_dir(path.join("made")).unwrap();
        std::fs::write(path.join("made/inside"), "x").unwrap();
        std::fs::remove_file(path.join("data/link")).unwrap();
        std::fs::remove_dir_all(path.join("old")).unwrap();
        drop(one);
        let mut expected = vec![
            ("/data", 0),
            ("/data/link", 2),
            ("/etc", 0),
            ("/etc/config", 0),
            ("/made", 1),
            ("/made/inside", 1),
            ("/new", 1),
            ("/old", 2),
        ];
        expected.sort_unstable();
        let changes = fixture.snapshots.diff("c1").unwrap();
        let changes: Vec<_> = changes.iter().map(|change| (change.path.as_str(), change.kind)).collect();
        assert_eq!(changes, expected);
        assert_eq!(fixture.snapshots.usage("c1").unwrap().bytes, 7 + 5 + 1);
        let two = fixture.snapshots.open_root("c2").unwrap();
        assert_eq!(read(&two, "etc/config"), "upper");
        assert!(!exists(&two, "new"));
        let one = fixture.snapshots.open_root("c1").unwrap();
        assert_eq!(read(&one, "etc/config"), "changed");
    });
}

#[test]
fn a_directory_that_is_made_anew_hides_the_old_one() {
    in_both(|fixture| {
        fixture.prepare("c1");
        let root = fixture.snapshots.open_root("c1").unwrap();
        let path = fs::handle_path(root.as_fd());
        std::fs::remove_dir_all(path.join("data")).unwrap();
        std::fs::create_dir(path.join("data")).unwrap();
        std::fs::write(path.join("data/one"), "again").unwrap();
        drop(root);
        let changes = fixture.snapshots.diff("c1").unwrap();
        let changes: Vec<_> = changes.iter().map(|change| (change.path.as_str(), change.kind)).collect();
        assert_eq!(changes, [("/data", 0), ("/data/link", 2), ("/data/one", 0), ("/data/two", 2)]);
    });
}

#[test]
fn volumes_are_filled_from_the_image() {
    in_both(|fixture| {
        fixture.prepare("c1");
        let volume = fixture.host.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        // Through a link of the image, which must not lead out of it (CVE-2022-23648).
        fixture.snapshots.copy_up("c1", Path::new("/away"), &volume).unwrap();
        let metadata = volume.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (1000, 0o750));
        assert_eq!(std::fs::read(volume.join("one")).unwrap(), b"one");
        assert_eq!(volume.join("one").metadata().unwrap().nlink(), 2);
        assert_eq!(std::fs::read_link(volume.join("link")).unwrap(), Path::new("/etc/passwd"));
        // What is there stays.
        std::fs::write(volume.join("one"), "mine").unwrap();
        fixture.snapshots.copy_up("c1", Path::new("/data"), &volume).unwrap();
        assert_eq!(std::fs::read(volume.join("one")).unwrap(), b"mine");
        let other = fixture.host.path().join("other");
        std::fs::create_dir(&other).unwrap();
        for path in ["/nothing", "/etc/config"] {
            fixture.snapshots.copy_up("c1", Path::new(path), &other).unwrap();
        }
        assert!(std::fs::read_dir(&other).unwrap().next().is_none());
    });
}

#[test]
fn snapshots_keep_their_layers() {
    in_both(|fixture| {
        fixture.prepare("c1");
        fixture.prepare("c1"); // again is fine
        for layer in &fixture.chain {
            assert!(fixture.layers.release(layer).unwrap().is_none(), "the image is gone, the container is not");
        }
        let image = fixture.host.path().join("image");
        let layers = LayerStore::open(&image, Limits::default()).unwrap();
        let snapshots = Snapshots::open(&image, Arc::clone(&layers), Some(fixture.snapshots.driver())).unwrap();
        layers.collect();
        assert_eq!(snapshots.list(), ["c1"]);
        assert_eq!(snapshots.describe("c1").unwrap(), fixture.snapshots.describe("c1").unwrap());
        let root = snapshots.open_root("c1").unwrap();
        assert_eq!(read(&root, "etc/config"), "upper");
        drop(root);
        snapshots.remove("c1").unwrap();
        snapshots.remove("c1").unwrap();
        assert!(layers.all().is_empty());
        assert!(std::fs::read_dir(image.join("snapshots")).unwrap().next().is_none());
        assert!(snapshots.open_root("c1").is_err());
    });
}

#[test]
fn a_lost_record_costs_no_data() {
    in_both(|fixture| {
        fixture.prepare("c1");
        let root = fixture.snapshots.open_root("c1").unwrap();
        std::fs::write(fs::handle_path(root.as_fd()).join("mine"), "x").unwrap();
        drop(root);
        let image = fixture.host.path().join("image");
        std::fs::write(image.join("snapshots/c1/snapshot.json"), "").unwrap(); // as a power cut may leave it
        let layers = LayerStore::open(&image, Limits::default()).unwrap();
        let snapshots = Snapshots::open(&image, layers, Some(fixture.snapshots.driver())).unwrap();
        assert!(snapshots.describe("c1").is_err());
        snapshots.prepare("c1", &fixture.chain, PrepareOptions::default()).unwrap();
        assert_eq!(read(&snapshots.open_root("c1").unwrap(), "mine"), "x");
    });
}

#[test]
fn nothing_is_mounted_on_the_host() {
    let fixture = Fixture::new(SnapshotDriver::Overlay);
    let mount = fixture.prepare("c1");
    let root = fixture.snapshots.open_root("c1").unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&fixture.host.path().display().to_string()), "{mounts}");
    drop(root);
    let json = serde_json::to_string(&mount).unwrap();
    assert_eq!(serde_json::from_str::<RootfsMount>(&json).unwrap(), mount);
}

#[test]
fn a_handle_outlives_its_mount() {
    in_both(|fixture| {
        fixture.prepare("c1");
        let root = Directory::from(fixture.snapshots.open_root("c1").unwrap());
        root.open_dir(Path::new("etc")).unwrap().create_file(OsStr::new("new"), 0o600).unwrap();
        drop(root);
        assert!(exists(&fixture.snapshots.open_root("c1").unwrap(), "etc/new"));
    });
}

#[test]
fn containers_that_need_no_sync_start_again() {
    let fixture = Fixture::new(SnapshotDriver::Overlay);
    let options = PrepareOptions { volatile: true, ..PrepareOptions::default() };
    let mount = fixture.snapshots.prepare("c1", &fixture.chain, options).unwrap();
    for _ in 0..3 {
        drop(mount.open(None).unwrap().unwrap());
    }
}

#[test]
fn an_image_may_have_no_layer_at_all() {
    in_both(|fixture| {
        let options = PrepareOptions::default();
        fixture.snapshots.prepare("c1", &[], options.clone()).unwrap();
        assert!(exists(&fixture.snapshots.open_root("c1").unwrap(), "proc"));
        let volume = fixture.host.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        fixture.snapshots.copy_up("c1", Path::new("/etc"), &volume).unwrap();
        assert!(volume.join("hosts").exists());
        let missing = Digest::of(b"missing");
        assert!(fixture.snapshots.prepare("c2", &[missing], options.clone()).is_err());
        for name in ["", "..", "a/b", "."] {
            assert!(fixture.snapshots.prepare(name, &[], options.clone()).is_err(), "{name}");
            let _ = fixture.snapshots.remove(name);
        }
        assert!(fixture.host.path().join("image/l").exists());
    });
}
