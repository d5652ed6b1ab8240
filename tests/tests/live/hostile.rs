//! Archives that want to write where they must not, or are not what they say.

use std::path::PathBuf;

use anyhow::ensure;
use serde_json::json;
use shoal_tests::command::{Said, command, run_with_input};
use shoal_tests::image::{self, entry};
use shoal_tests::lab::{Lab, live};

#[test]
fn what_is_no_archive_makes_no_image() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("tar", 1, 0, &["--no-cluster"])?;
    let load = |verb: &[&str], data: &[u8]| run_with_input(lab.docker_command("m1", verb), data);
    let refused = load(&["load"], b"this is no archive")?.refused()?;
    ensure!(!refused.is_empty(), "no reason");
    let cut = &image::busybox()?[..5000];
    let refused = load(&["import", "-", "cut:1"], cut)?.refused()?;
    ensure!(!refused.is_empty(), "no reason");
    ensure!(lab.ok("m1", "images -q")?.is_empty(), "half an image was made");
    lab.down()
}

/// An entry of a hostile archive: name, type flag, what it links to, contents.
type Entry<'a> = (&'a str, u8, &'a str, &'a [u8]);

fn archive(entries: &[Entry<'_>]) -> anyhow::Result<Vec<u8>> {
    let mut tar = Vec::new();
    for (name, kind, link, data) in entries {
        entry(&mut tar, name, *kind, 0o644, link, data)?;
    }
    tar.extend([0; 1024]);
    Ok(tar)
}

/// A file of the host that must stay as it is, in a folder where nothing may appear.
struct Victim {
    folder: PathBuf,
}

impl Victim {
    fn new() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("shoal-victim-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join("file"), "untouched")?;
        Ok(Self { folder })
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    fn check(&self, what: &str) -> anyhow::Result<()> {
        ensure!(
            std::fs::read_to_string(self.folder.join("file"))? == "untouched",
            "{what}: the host's file was written"
        );
        let names = std::fs::read_dir(&self.folder)?.count();
        ensure!(names == 1, "{what}: {names} files in the host's folder");
        Ok(())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// `docker load`'s archive of one layer, with the digest that it claims.
fn docker_archive(layer: &[u8], digest: &str) -> anyhow::Result<Vec<u8>> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["evil:1"], "Layers": ["layer.tar"] }]);
    archive(&[
        ("config.json", b'0', "", config.to_string().as_bytes()),
        ("layer.tar", b'0', "", layer),
        ("manifest.json", b'0', "", manifest.to_string().as_bytes()),
    ])
}

fn sha256(data: &[u8]) -> anyhow::Result<String> {
    let said = run_with_input(command("sha256sum", &[]), data)?.ok()?;
    Ok(said.split(' ').next().unwrap_or_default().to_owned())
}

/// The same image as an OCI layout; the layer's blob lies under the digest that it claims.
fn oci_layout(layer: &[u8], digest: &str) -> anyhow::Result<Vec<u8>> {
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(layer)?)] },
    })
    .to_string();
    let descriptor = |kind: &str, digest: &str, size: usize| json!({ "mediaType": format!("application/vnd.oci.image.{kind}"), "digest": format!("sha256:{digest}"), "size": size });
    let config_digest = sha256(config.as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", &config_digest, config.len()),
        "layers": [descriptor("layer.v1.tar", digest, layer.len())],
    })
    .to_string();
    let manifest_digest = sha256(manifest.as_bytes())?;
    let mut entry = descriptor("manifest.v1+json", &manifest_digest, manifest.len());
    entry["annotations"] = json!({ "io.containerd.image.name": "docker.io/library/evil:1" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
    archive(&[
        ("oci-layout", b'0', "", br#"{"imageLayoutVersion":"1.0.0"}"#),
        ("index.json", b'0', "", index.as_bytes()),
        (&format!("blobs/sha256/{config_digest}"), b'0', "", config.as_bytes()),
        (&format!("blobs/sha256/{manifest_digest}"), b'0', "", manifest.as_bytes()),
        (&format!("blobs/sha256/{digest}"), b'0', "", layer),
    ])
}

#[test]
fn hostile_archives_do_not_climb_out() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("climb", 1, 0, &["--no-cluster"])?;
    let victim = Victim::new()?;
    let (file, new) = (victim.path("file"), victim.path("new"));
    let folder = victim.folder.display().to_string();
    let up = "../".repeat(12);
    let (climbing, climbing_new) = (format!("{up}{}", &file[1..]), format!("{up}{}", &new[1..]));
    let link = |target: &str| format!("{up}{}", &target[1..]);
    let (link_to_folder, inside) = (link(&folder), "out/new");
    let cases: [(&str, Vec<Entry<'_>>); 7] = [
        ("climbing over a file", vec![(&climbing, b'0', "", b"evil")]),
        ("climbing to a new one", vec![(&climbing_new, b'0', "", b"evil")]),
        ("an absolute path", vec![(&file, b'0', "", b"evil"), (&new, b'0', "", b"evil")]),
        ("through an absolute link", vec![("out", b'2', &folder, b""), (inside, b'0', "", b"evil")]),
        ("through a relative link", vec![("out", b'2', &link_to_folder, b""), (inside, b'0', "", b"evil")]),
        ("over a link", vec![("out", b'2', &file, b""), ("out", b'0', "", b"evil")]),
        ("through a hard link", vec![("in", b'1', &climbing, b""), ("in", b'0', "", b"evil")]),
    ];
    let run =
        |verb: &[&str], data: &[u8]| -> anyhow::Result<Said> { run_with_input(lab.docker_command("m1", verb), data) };
    for (what, entries) in &cases {
        let layer = archive(entries)?;
        // Refused, or kept inside: either will do, so long as nothing gets out and the daemon is well.
        run(&["import", "-", "evil:1"], &layer)?;
        victim.check(&format!("import, {what}"))?;
        let digest = sha256(&layer)?;
        run(&["load"], &docker_archive(&layer, &digest)?)?;
        victim.check(&format!("load, {what}"))?;
        // The archive around the layers is one, too.
        run(&["load"], &layer)?.refused()?;
        victim.check(&format!("load of the layer itself, {what}"))?;
    }
    let hard = archive(&[("in", b'1', &climbing, b"")])?;
    let refused = run(&["import", "-", "hard:1"], &hard)?.refused()?;
    ensure!(!refused.is_empty(), "no reason");
    lab.load_image(&["m1"])?;
    ensure!(lab.ok("m1", &format!("run --rm {} echo well", image::NAME))? == "well");
    lab.down()
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_refused() -> anyhow::Result<()> {
    if !live() {
        return Ok(());
    }
    let lab = Lab::up_with("digest", 1, 0, &["--no-cluster"])?;
    let layer = archive(&[("hello", b'0', "", b"hello")])?;
    let (right, wrong) = (sha256(&layer)?, "0".repeat(64));
    let load = |data: &[u8]| run_with_input(lab.docker_command("m1", &["load"]), data);
    for (what, data) in
        [("docker archive", docker_archive(&layer, &wrong)?), ("OCI layout", oci_layout(&layer, &wrong)?)]
    {
        let refused = load(&data)?.refused()?;
        ensure!(!refused.is_empty(), "{what}: no reason");
        ensure!(lab.ok("m1", "images -aq")?.is_empty(), "{what}: an image was made: {refused}");
    }
    // The same with the right digest is an image: it was the digest that was refused.
    for (what, data) in
        [("docker archive", docker_archive(&layer, &right)?), ("OCI layout", oci_layout(&layer, &right)?)]
    {
        let said = load(&data)?.ok()?;
        ensure!(said.contains("evil:1"), "{what}: {said}");
        lab.ok("m1", "rmi evil:1")?;
    }
    lab.down()
}
