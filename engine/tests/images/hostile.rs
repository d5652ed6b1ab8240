//! Archives that try to get out. Around the store lies a tree that must be the same after each of them.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use shoal_engine::image::Digest;
use shoal_engine::image::layer::stream::Limits;
use shoal_engine::image::layer::{LayerError, LayerPin};
use shoal_engine::image::tar::write::blank;
use shoal_engine::image::tar::{EntryKind, TarEntry};

use super::support::{Archive, Store};

/// A host with things worth attacking beside the store.
struct Victim {
    store: Store,
    before: String,
}

fn listing(path: &Path, text: &mut String) {
    use std::os::unix::fs::MetadataExt;

    let mut entries: Vec<_> = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.file_name() == Some(OsStr::new("image")) {
            continue;
        }
        let metadata = entry.symlink_metadata().unwrap();
        let content =
            if metadata.is_file() { Digest::of(&std::fs::read(&entry).unwrap()).short() } else { String::new() };
        writeln!(
            text,
            "{} {:o} {} {} {} {} {content}",
            entry.display(),
            metadata.mode(),
            metadata.uid(),
            metadata.nlink(),
            metadata.mtime(),
            metadata.ino()
        )
        .unwrap();
        if metadata.is_dir() {
            listing(&entry, text);
        }
    }
}

impl Victim {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let store = Store::with(limits);
        let host = store.host.path();
        std::fs::create_dir_all(host.join("etc/sub")).unwrap();
        std::fs::write(host.join("etc/passwd"), "root").unwrap();
        std::fs::write(host.join("etc/sub/file"), "file").unwrap();
        let mut before = String::new();
        listing(host, &mut before);
        Self { store, before }
    }

    fn host(&self) -> String {
        self.store.host.path().display().to_string()
    }

    /// Unpacks it; whatever comes of it, the host is as before.
    fn attack(&self, what: &str, archive: &Archive) -> Result<(LayerPin, PathBuf), LayerError> {
        let result = self.store.add(archive);
        let mut after = String::new();
        listing(self.store.host.path(), &mut after);
        assert_eq!(self.before, after, "{what}");
        result
    }

    fn refused(&self, what: &str, archive: &Archive) -> String {
        let error = self.attack(what, archive).err().unwrap_or_else(|| panic!("{what} was unpacked"));
        shoal_proto::error::chain(&error)
    }
}

#[test]
fn climbing_is_refused() {
    let victim = Victim::new();
    for path in ["../etc/passwd", "../../../../../../etc/passwd", "a/../../etc/passwd", "./../x", ".."] {
        let error = victim.refused(path, &Archive::default().file(path, b"evil"));
        assert!(error.contains("is outside of the archive's root"), "{error}");
    }
    let error = victim.refused("link target", &Archive::default().file("a", b"").hard_link("x", "../../etc/passwd"));
    assert!(error.contains("is outside of the archive's root"), "{error}");
}

#[test]
fn absolute_paths_are_below_the_root() {
    let victim = Victim::new();
    let path = format!("{}/etc/passwd", victim.host());
    let (_pin, files) =
        victim.attack("absolute", &Archive::default().file(&path, b"evil").file("/../x", b"x")).unwrap();
    assert_eq!(std::fs::read(files.join(path.trim_start_matches('/'))).unwrap(), b"evil");
    assert!(files.join("x").exists());
}

#[test]
fn links_lead_nowhere_outside() {
    let victim = Victim::new();
    let etc = format!("{}/etc", victim.host());
    let up = "../".repeat(40) + etc.trim_start_matches('/');
    for text in [etc.clone(), up, "/proc/self/root".into(), "/proc/self/cwd".into(), "/proc/1/root".into()] {
        let link = || Archive::default().link("out", &text);
        // Through the link: either contained or refused.
        let _ = victim.attack("write through", &link().file("out/passwd", b"evil"));
        let _ = victim.attack("mkdir through", &link().dir("out/new"));
        let _ = victim.attack("deep through", &link().file("out/sub/file", b"evil"));
        let _ = victim.attack("whiteout through", &link().file("out/.wh.passwd", b""));
        let _ = victim.attack("opaque through", &link().file("out/.wh..wh..opq", b""));
        let _ = victim.attack("special through", &link().entry(blank(EntryKind::Fifo, "out/p", 0o600), b""));
        let _ = victim.attack("link through", &link().link("out/l", "/x"));
        assert!(victim.attack("hard link from", &link().hard_link("in", "out/passwd")).is_err());
        // At the name itself: replaced, not followed.
        let own = TarEntry { uid: 99, size: 4, ..blank(EntryKind::File, "out", 0o4777) };
        let (_pin, files) = victim.attack("write at", &link().entry(own, b"evil")).unwrap();
        assert!(files.join("out").symlink_metadata().unwrap().is_file());
        let (_pin, files) = victim.attack("directory at", &link().dir("out").file("out/passwd", b"x")).unwrap();
        assert!(files.join("out").symlink_metadata().unwrap().is_dir());
    }
}

#[test]
fn chains_of_links_and_swaps_stay_inside() {
    let victim = Victim::new();
    let etc = format!("{}/etc", victim.host());
    let chain = Archive::default().link("a", "b").link("b", "c").link("c", &etc).file("a/passwd", b"evil");
    let _ = victim.attack("chain", &chain);
    // A directory is open for the entries in it; then a link takes its place.
    let swap = Archive::default().dir("d").file("d/one", b"1").link("d", &etc).file("d/passwd", b"evil");
    let _ = victim.attack("swap", &swap);
    let twice = Archive::default().link("d", "e").dir("e").file("d/x", b"1").link("e", &etc).file("d/passwd", b"evil");
    let _ = victim.attack("swap behind a link", &twice);
    let own = TarEntry { uid: 4242, ..blank(EntryKind::Directory, "d", 0o777) };
    let _ = victim.attack("chown through", &Archive::default().link("d", &etc).entry(own, b""));
    let looped = Archive::default().link("a", "b").link("b", "a").file("a/x", b"1");
    assert!(victim.attack("loop", &looped).is_err());
}

#[test]
fn hard_links_stay_in_their_layer() {
    let victim = Victim::new();
    let etc = format!("{}/etc/passwd", victim.host());
    let error = victim.refused("absolute", &Archive::default().hard_link("x", &etc));
    assert!(error.contains("which the archive does not have before it"), "{error}");
    victim.refused("to nothing", &Archive::default().hard_link("x", "missing"));
    victim.refused("to a directory", &Archive::default().dir("d").hard_link("x", "d"));
    victim.refused("to the root", &Archive::default().hard_link("x", "."));
    let to_link = Archive::default().link("l", &etc).hard_link("x", "l").file("x", b"evil");
    let (_pin, files) = victim.attack("to a link, then written", &to_link).unwrap();
    assert_eq!(std::fs::read(files.join("x")).unwrap(), b"evil");
    let (_pin, files) = victim.attack("itself", &Archive::default().file("x", b"1").hard_link("x", "./x")).unwrap();
    assert_eq!(std::fs::read(files.join("x")).unwrap(), b"1");
    // The target disappears with what has to make room for the link.
    victim.refused("into itself", &Archive::default().dir("d").file("d/f", b"1").hard_link("d", "d/f"));
}

#[test]
fn whiteouts_of_everything_above_are_refused() {
    let victim = Victim::new();
    for path in [".wh...", ".wh..", ".wh.", "a/.wh...", "a/.wh..", "../.wh.etc", ".wh.x/y"] {
        victim.refused(path, &Archive::default().dir("a").file(path, b""));
    }
}

#[test]
fn files_in_the_way_are_no_directories() {
    let victim = Victim::new();
    victim.refused("below a file", &Archive::default().file("a", b"x").file("a/b", b"x"));
    victim.refused("below a dangling link", &Archive::default().link("a", "nowhere").file("a/b/c", b"x"));
    let long = "n".repeat(256);
    victim.refused("too long", &Archive::default().file(&long, b"x"));
}

#[test]
fn limits_hold() {
    let limits = Limits { entries: 10, layer_bytes: 1 << 20, ..Limits::default() };
    let victim = Victim::with(limits);
    let many = (0..11).fold(Archive::default(), |archive, number| archive.file(&number.to_string(), b""));
    assert!(victim.refused("entries", &many).contains("more than 10 entries"));
    let error = victim.refused("bytes", &Archive::default().file("big", &vec![0; 2 << 20]));
    assert!(error.contains("more than 1048576 bytes"), "{error}");
    let full = Victim::with(Limits { reserve: u64::MAX / 2, reserve_share: 0, ..Limits::default() });
    assert!(full.refused("space", &Archive::default().file("a", b"x")).contains("no space left"));
    // A small disk is not all reserve.
    assert_eq!(Limits::default().reserve_of(200 << 20), (200 << 20) / 64);
    assert_eq!(Limits::default().reserve_of(1 << 40), 256 << 20);
}

/// Steps of an archive that somebody clever put together.
fn step() -> impl Strategy<Value = (u8, String, String)> {
    let path =
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "..", ".", ".wh.a", ".wh..wh..opq"]), 1..5);
    let absolute = any::<bool>();
    let path = (path, absolute).prop_map(|(parts, absolute)| {
        let path = parts.join("/");
        if absolute { format!("/{path}") } else { path }
    });
    (0_u8..6, path.clone(), path)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever order of links, files and directories: the host stays as it is, and what was unpacked can be written
    /// again byte for byte.
    #[test]
    fn nothing_gets_out(steps in prop::collection::vec(step(), 1..14), outside in any::<bool>()) {
        let victim = Victim::new();
        let host = victim.host();
        let mut archive = Archive::default();
        for (kind, path, other) in steps {
            let target = if outside { format!("{host}/etc/{other}") } else { other };
            archive = match kind {
                0 | 1 => archive.file(&path, path.as_bytes()),
                2 => archive.dir(&path),
                3 => archive.link(&path, &target),
                4 => archive.hard_link(&path, &target),
                _ => archive.entry(blank(EntryKind::Fifo, &path, 0o600), b""),
            };
        }
        if let Ok((pin, _)) = victim.attack("random", &archive) {
            let mut output = Vec::new();
            victim.store.layers.write_tar(&pin.record().digest, &mut output).unwrap();
            prop_assert!(output == archive.bytes());
        }
    }
}
