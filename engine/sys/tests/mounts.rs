//! Mounts, as root.

use std::os::fd::AsFd;
use std::path::Path;

use shoal_engine_sys::fs::{Directory, handle_path};
use shoal_engine_sys::mount::{Overlay, is_mountpoint};
use shoal_engine_sys::mount_tree::{MountTree, Part, clone_mount, copy_from};

#[test]
fn an_overlay_of_many_layers_lives_by_its_handle() {
    let host = tempfile::tempdir().unwrap();
    let layers = host.path().join("l");
    let mut lower = Vec::new();
    for number in 0..200 {
        let name = format!("layer{number:03}");
        std::fs::create_dir_all(layers.join(&name)).unwrap();
        std::fs::write(layers.join(&name).join(&name), &name).unwrap();
        lower.push(name);
    }
    let (upper, work) = (host.path().join("upper"), host.path().join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    let overlay = Overlay { layers, lower, upper: Some((upper.clone(), work)), volatile: true, lower_ids: None };
    let root = overlay.open().unwrap();
    let path = handle_path(root.as_fd());
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 200);
    std::fs::write(path.join("new"), "x").unwrap();
    drop(root);
    assert!(upper.join("new").exists());
    assert!(!is_mountpoint(host.path()).unwrap());
}

#[test]
fn a_tree_is_reached_by_its_handle_alone_and_links_in_it_stay_inside() {
    let host = tempfile::tempdir().unwrap();
    for folder in ["root/etc", "volume", "place"] {
        std::fs::create_dir_all(host.path().join(folder)).unwrap();
    }
    std::fs::write(host.path().join("volume/kept"), "volume").unwrap();
    std::fs::write(host.path().join("file"), "one file").unwrap();
    std::fs::write(host.path().join("root/etc/passwd"), "inside").unwrap();
    std::os::unix::fs::symlink("/deep/data", host.path().join("root/link")).unwrap();
    std::os::unix::fs::symlink("../../../../etc/passwd", host.path().join("volume/up")).unwrap();
    let mount = |name: &str| {
        let handle = std::fs::File::open(host.path().join(name)).unwrap();
        clone_mount(handle.as_fd(), true).unwrap()
    };
    let parts = [("volume", "/deep/data"), ("file", "/deep/one")];
    let parts = parts.map(|(name, place)| Part { mount: mount(name), destination: place.into() });
    let tree = MountTree::build(mount("root"), &host.path().join("place"), parts.into()).unwrap();
    let read = |path: &str| std::io::read_to_string(tree.root().open_file(Path::new(path)).unwrap()).unwrap();
    assert_eq!(read("/link/kept"), "volume");
    assert_eq!(read("deep/one"), "one file");
    assert_eq!(read("/deep/data/up"), "inside");
    assert_eq!(read("/link/../../../etc/passwd"), "inside");
    // The host does not see it; in it, mounts can be told.
    assert!(!is_mountpoint(&host.path().join("place")).unwrap());
    assert!(std::fs::read_dir(host.path().join("root/deep/data")).unwrap().next().is_none());
    let deep = tree.root().open_dir(Path::new("deep")).unwrap();
    assert!(deep.is_mount_root("one".as_ref()).unwrap() && !tree.root().is_mount_root("deep".as_ref()).unwrap());
    assert!(
        tree.bare().unwrap().open_any(Path::new("deep/data/kept"), true).is_err(),
        "the volume is in the bare root"
    );
    drop((tree, deep));
    assert!(Directory::open(host.path()).unwrap().remove_tree("root".as_ref()).is_ok());
}

#[test]
fn nothing_is_copied_from_a_namespace_with_the_same_root() {
    let own = std::fs::File::open("/proc/self/ns/mnt").unwrap();
    assert!(copy_from(own.into(), Vec::new()).is_err());
}
