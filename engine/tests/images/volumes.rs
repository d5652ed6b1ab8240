//! Volumes that are mounted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use shoal_engine::model::VolumeCreate;
use shoal_engine::volume::{VolumeStore, VolumeStoreOptions};
use shoal_engine_sys::mount;
use shoal_kit::clock::SystemClock;
use shoal_kit::entropy::Entropy;

fn open(host: &Path) -> VolumeStore {
    let options = VolumeStoreOptions {
        root: host.join("volumes"),
        clock: Arc::new(SystemClock),
        entropy: Entropy::from_seed(1),
        owner: (0, 0),
    };
    VolumeStore::open(options).unwrap()
}

fn request(name: &str, options: &[(&str, &str)]) -> VolumeCreate {
    let options: BTreeMap<_, _> =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    VolumeCreate { name: name.to_owned(), driver_opts: Some(options), ..VolumeCreate::default() }
}

#[test]
fn options_are_mounted_while_containers_use_them() {
    let host = tempfile::tempdir().unwrap();
    let store = open(host.path());
    let directory = host.path().join("shown");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), "x").unwrap();
    let source = directory.display().to_string();
    let bind = [("type", "none"), ("device", source.as_str()), ("o", "bind,ro")];
    store.create(request("shown", &bind)).unwrap();
    let tmpfs = [("type", "tmpfs"), ("device", "tmpfs"), ("o", "size=1m,uid=1000,noexec")];
    store.create(request("memory", &tmpfs)).unwrap();
    let shown = store.mount("shown", "c1").unwrap();
    assert!(shown.join("file").exists());
    assert!(std::fs::write(shown.join("new"), "x").is_err(), "read-only");
    let memory = store.mount("memory", "c1").unwrap();
    assert_eq!(store.mount("memory", "c2").unwrap(), memory);
    std::fs::write(memory.join("file"), "x").unwrap();
    // A daemon that starts again finds the mounts and keeps those that are used.
    let again = open(host.path());
    again.mount("memory", "c2").unwrap();
    again.unmount_unused();
    assert!(memory.join("file").exists());
    assert!(!shown.join("file").exists());
    again.unmount("memory", "c1").unwrap();
    assert!(memory.join("file").exists());
    again.unmount("memory", "c2").unwrap();
    assert!(!mount::is_mountpoint(&memory).unwrap());
    // Removing never goes through what is mounted.
    again.mount("shown", "c1").unwrap();
    again.remove("shown", false).unwrap();
    assert!(directory.join("file").exists());
    let missing = [("type", "none"), ("device", "/nonexistent/x"), ("o", "bind")];
    again.create(request("missing", &missing)).unwrap();
    let error = again.mount("missing", "c1").unwrap_err();
    assert!(error.message.starts_with("failed to mount local volume: mount /nonexistent/x:"), "{error}");
    again.remove("memory", false).unwrap();
}
