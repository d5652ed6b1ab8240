use super::*;

fn names(directory: &Directory) -> Vec<String> {
    let mut names: Vec<_> =
        directory.entries().unwrap().into_iter().map(|entry| entry.name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn links_and_dots_stay_inside() {
    let host = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(host.path().join("root/etc")).unwrap();
    std::fs::create_dir_all(host.path().join("etc")).unwrap();
    std::fs::write(host.path().join("root/etc/name"), "inside").unwrap();
    std::fs::write(host.path().join("etc/name"), "outside").unwrap();
    std::os::unix::fs::symlink("/etc/name", host.path().join("root/absolute")).unwrap();
    std::os::unix::fs::symlink("../../../etc/name", host.path().join("root/dots")).unwrap();
    std::os::unix::fs::symlink("/proc/self/root", host.path().join("root/magic")).unwrap();
    let root = Directory::open(&host.path().join("root")).unwrap();
    for path in ["absolute", "dots", "/etc/name", "../etc/name", "etc/../../etc/name"] {
        let mut file = root.open_file(Path::new(path)).unwrap();
        assert_eq!(io::read_to_string(&mut file).unwrap(), "inside", "{path}");
    }
    assert!(root.open_any(Path::new("magic/etc"), true).is_err());
}

#[test]
fn only_one_name_is_a_name() {
    let host = tempfile::tempdir().unwrap();
    let root = Directory::open(host.path()).unwrap();
    for name in ["", ".", "..", "a/b", "/a", "a\0b"] {
        assert!(root.create_file(OsStr::new(name), 0o600).is_err(), "{name:?}");
        assert!(root.make_dir(OsStr::new(name), 0o700).is_err(), "{name:?}");
    }
    assert!(names(&root).is_empty());
}

#[test]
fn trees_of_any_depth_are_removed() {
    let host = tempfile::tempdir().unwrap();
    let root = Directory::open(host.path()).unwrap();
    let mut current = root.try_clone().unwrap();
    for level in 0..1500 {
        current.make_dir(OsStr::new("deeper"), 0o700).unwrap();
        if level % 100 == 0 {
            current.create_file(OsStr::new("file"), 0o600).unwrap();
        }
        current = current.enter(OsStr::new("deeper")).unwrap();
    }
    drop(current);
    root.remove_tree(OsStr::new("deeper")).unwrap();
    root.remove_tree(OsStr::new("file")).unwrap();
    root.remove_tree(OsStr::new("missing")).unwrap();
    assert!(names(&root).is_empty());
}

#[test]
fn paths_are_made_through_links_inside() {
    let host = tempfile::tempdir().unwrap();
    let root = Directory::open(host.path()).unwrap();
    root.make_dir(OsStr::new("usr"), 0o755).unwrap();
    root.make_link(OsStr::new("lib"), OsStr::new("/usr")).unwrap();
    let made = root.make_path(Path::new("lib/a/b"), 0o755).unwrap();
    assert_eq!(real_path(&made).unwrap(), host.path().join("usr/a/b"));
    root.make_link(OsStr::new("dangling"), OsStr::new("nowhere")).unwrap();
    assert!(root.make_path(Path::new("dangling/a"), 0o755).is_err());
}

#[test]
fn holes_stay_holes() {
    use std::io::{Seek, Write};
    let host = tempfile::tempdir().unwrap();
    let root = Directory::open(host.path()).unwrap();
    let mut from = root.create_file(OsStr::new("from"), 0o600).unwrap();
    from.seek(io::SeekFrom::Start(8 << 20)).unwrap();
    from.write_all(b"end").unwrap();
    let to = root.create_file(OsStr::new("to"), 0o600).unwrap();
    copy_content(&from, &to, (8 << 20) + 3).unwrap();
    let copied = metadata(&to).unwrap();
    assert_eq!(copied.size, (8 << 20) + 3);
    assert!(copied.blocks < 1000, "{}", copied.blocks);
    assert!(std::fs::read(host.path().join("to")).unwrap().ends_with(b"\0end"));
}

#[test]
fn replaced_files_are_whole() {
    let host = tempfile::tempdir().unwrap();
    let root = Directory::open(host.path()).unwrap();
    replace_file(&root, OsStr::new("catalog"), b"one", 0o600).unwrap();
    replace_file(&root, OsStr::new("catalog"), b"two", 0o600).unwrap();
    assert_eq!(std::fs::read(host.path().join("catalog")).unwrap(), b"two");
    assert_eq!(names(&root), ["catalog"]);
}

#[test]
fn links_to_what_is_not_there_are_settled_inside() {
    let host = tempfile::tempdir().unwrap();
    let root = Directory::open(host.path()).unwrap();
    let etc = root.make_path(Path::new("etc"), 0o755).unwrap();
    let link = |directory: &Directory, name: &str, target: &str| {
        directory.make_link(OsStr::new(name), OsStr::new(target)).unwrap();
    };
    link(&etc, "resolv.conf", "../run/resolve/stub.conf");
    link(&etc, "out", "../../../../outside");
    link(&etc, "far", "/var/far");
    link(&root, "var", "/data");
    link(&root, "round", "about");
    link(&root, "about", "round");
    for (path, leads_to) in [
        ("/etc/resolv.conf", "run/resolve/stub.conf"),
        ("/etc/out/x", "outside/x"),
        ("/etc/far/a/../b", "data/far/b"),
        ("/etc/./plain", "etc/plain"),
        ("/", ""),
    ] {
        assert_eq!(root.settle(Path::new(path), ProcLinks::Refused).unwrap(), Path::new(leads_to), "{path}");
    }
    assert_eq!(
        root.settle(Path::new("round/x"), ProcLinks::Refused).unwrap_err().raw_os_error(),
        Some(Errno::LOOP.raw_os_error())
    );
    let made = root.make_place(Path::new("/etc/far/a"), 0o755).unwrap();
    assert_eq!(real_path(&made).unwrap(), host.path().join("data/far/a"));
    assert!(!host.path().parent().unwrap().join("outside").exists());
}
