//! Mounts, as root.

use std::os::fd::AsFd;

use shoal_engine_sys::fs::handle_path;
use shoal_engine_sys::mount::{Overlay, is_mountpoint};

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
    let overlay = Overlay { layers, lower, upper: Some((upper.clone(), work)), volatile: true };
    let root = overlay.open().unwrap();
    let path = handle_path(root.as_fd());
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 200);
    std::fs::write(path.join("new"), "x").unwrap();
    drop(root);
    assert!(upper.join("new").exists());
    assert!(!is_mountpoint(host.path()).unwrap());
}
