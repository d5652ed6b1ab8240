//! Archives that lie about what they hold.

use serde_json::json;
use shoal_engine::image::Digest;

use super::support::{Fixture, archive};

fn config(layers: &[Digest]) -> Vec<u8> {
    json!({"os": "linux", "architecture": "amd64", "config": {}, "rootfs": {"type": "layers", "diff_ids": layers}})
        .to_string()
        .into_bytes()
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// An OCI layout of these blobs, under their own or under other names.
fn layout(index: &serde_json::Value, blobs: &[(Digest, &[u8])]) -> Vec<u8> {
    let index = index.to_string().into_bytes();
    let names: Vec<_> = blobs.iter().map(|(digest, _)| blob(digest)).collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(String::as_str).zip(blobs.iter().map(|(_, b)| *b)).collect();
    files.push(("index.json", &index));
    files.push(("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#));
    archive(&files)
}

fn descriptor(bytes: &[u8], media_type: &str) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes).to_string(), "size": bytes.len()})
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

struct Parts {
    gzip: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn parts() -> Parts {
    use std::io::Write;

    let layer = archive(&[("a", b"content")]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&layer).unwrap();
    let gzip = encoder.finish().unwrap();
    let config = config(&[Digest::of(&layer)]);
    let manifest = json!({
        "schemaVersion": 2,
        "config": descriptor(&config, CONFIG),
        "layers": [descriptor(&gzip, GZIP)],
    });
    Parts { gzip, config, manifest: manifest.to_string().into_bytes() }
}

fn blobs(parts: &Parts) -> Vec<(Digest, &[u8])> {
    [&parts.gzip, &parts.config, &parts.manifest].map(|bytes| (Digest::of(bytes), bytes.as_slice())).to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn layouts_are_loaded_with_and_without_names() {
    let parts = parts();
    let mut named = descriptor(&parts.manifest, MANIFEST);
    named["annotations"] = json!({"org.opencontainers.image.ref.name": "me/app:v1"});
    let mut tagged = descriptor(&parts.manifest, MANIFEST);
    tagged["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let attestation = json!({"mediaType": MANIFEST, "digest": Digest::of(b"x"), "size": 1,
        "platform": {"os": "unknown", "architecture": "unknown"}});
    let index = json!({"schemaVersion": 2, "manifests": [named, attestation]});
    let fixture = Fixture::new();
    assert_eq!(fixture.load(&layout(&index, &blobs(&parts))).await.unwrap(), ["Loaded image: me/app:v1\n"]);
    let index = json!({"schemaVersion": 2, "manifests": [tagged]});
    let id = Digest::of(&parts.config);
    assert_eq!(fixture.load(&layout(&index, &blobs(&parts))).await.unwrap(), [format!("Loaded image ID: {id}\n")]);
    assert_eq!(fixture.store.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_for_this_machine_is_taken() {
    let parts = parts();
    let mut ours = descriptor(&parts.manifest, MANIFEST);
    ours["platform"] = json!({"os": "linux", "architecture": shoal_engine::image::document::host_architecture()});
    let other = json!({"mediaType": MANIFEST, "digest": Digest::of(b"other"), "size": 5,
        "platform": {"os": "linux", "architecture": "s390x"}});
    let inner = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [other, ours]}).to_string().into_bytes();
    let index = json!({"schemaVersion": 2, "manifests": [descriptor(&inner, INDEX)]});
    let mut blobs = blobs(&parts);
    blobs.push((Digest::of(&inner), &inner));
    assert_eq!(Fixture::new().load(&layout(&index, &blobs)).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_are_found_out() {
    let parts = parts();
    let whole = json!({"schemaVersion": 2, "manifests": [descriptor(&parts.manifest, MANIFEST)]});
    let other_layer = archive(&[("a", b"evil")]);
    let other_config = config(&[Digest::of(&other_layer)]);
    let swapped = |from: &[u8], to: &'static [u8]| {
        let digest = Digest::of(from);
        blobs(&parts)
            .into_iter()
            .map(|(name, bytes)| (name, if name == digest { to } else { bytes }))
            .collect::<Vec<_>>()
    };
    let other_layer: &'static [u8] = other_layer.leak();
    let other_config: &'static [u8] = other_config.leak();
    let confused: &'static [u8] = {
        let mut manifest: serde_json::Value = serde_json::from_slice(&parts.manifest).unwrap();
        manifest["manifests"] = json!([]);
        manifest.to_string().into_bytes().leak()
    };
    let mut with_confused = blobs(&parts);
    with_confused.push((Digest::of(confused), confused));
    let confused_index = json!({"schemaVersion": 2, "manifests": [descriptor(confused, MANIFEST)]});
    let as_index = json!({"schemaVersion": 2, "manifests": [descriptor(&parts.manifest, INDEX)]});
    let mut wrong_size = descriptor(&parts.manifest, MANIFEST);
    wrong_size["size"] = json!(1);
    let wrong_size = json!({"schemaVersion": 2, "manifests": [wrong_size]});
    let escaping = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": MANIFEST, "digest": "sha256:../../../etc/passwd", "size": 1}]});
    let cases = [
        ("layer blob", layout(&whole, &swapped(&parts.gzip, other_layer)), "verification failed"),
        ("config blob", layout(&whole, &swapped(&parts.config, other_config)), "blob verification failed"),
        ("missing layer", layout(&whole, &blobs(&parts)[1..]), "is missing"),
        ("index and manifest", layout(&confused_index, &with_confused), "both an index and a manifest"),
        ("media type", layout(&as_index, &blobs(&parts)), "neither an index nor a manifest"),
        ("size", layout(&wrong_size, &blobs(&parts)), "where 1 were announced"),
        ("digest", layout(&escaping, &blobs(&parts)), "invalid checksum digest format"),
        ("nothing", archive(&[("x", b"y")]), "does not contain a manifest.json"),
        ("no images", layout(&json!({"schemaVersion": 2, "manifests": []}), &[]), "no images"),
    ];
    for (what, bytes, message) in cases {
        let fixture = Fixture::new();
        let error = fixture.load(&bytes).await.unwrap_err();
        assert!(error.contains(message), "{what}: {error}");
        assert_eq!(fixture.store.count(), 0, "{what}");
        fixture.assert_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_are_checked_too() {
    let layer = archive(&[("a", b"content")]);
    let good = config(&[Digest::of(&layer)]);
    let wrong = config(&[Digest::of(b"something else")]);
    let two = config(&[Digest::of(&layer), Digest::of(&layer)]);
    let manifest = |tags: serde_json::Value, config: &str, layers: &[&str]| {
        json!([{"Config": config, "RepoTags": tags, "Layers": layers}]).to_string().into_bytes()
    };
    let load = async |manifest: &[u8], config: &[u8]| {
        let files: [(&str, &[u8]); 3] = [("c.json", config), ("x/layer.tar", &layer), ("manifest.json", manifest)];
        Fixture::new().load(&archive(&files)).await
    };
    let tags = json!(["app:v1"]);
    let right = manifest(tags.clone(), "c.json", &["x/layer.tar"]);
    assert_eq!(load(&right, &good).await.unwrap(), ["Loaded image: app:v1\n"]);
    let id = Digest::of(&good);
    let nameless = manifest(json!(null), "./c.json", &["x/../x/layer.tar"]);
    assert_eq!(load(&nameless, &good).await.unwrap(), [format!("Loaded image ID: {id}\n")]);
    for (manifest, config, message) in [
        (&right, &wrong, "invalid diffID for layer 0: expected"),
        (&right, &two, "layers length mismatch: expected 2, got 1"),
        (&manifest(json!(["App"]), "c.json", &["x/layer.tar"]), &good, "must be lowercase"),
        (&manifest(json!(["app"]), "c.json", &["x/layer.tar"]), &good, "invalid tag \"app\""),
        (&manifest(tags.clone(), "../../etc/passwd", &["x/layer.tar"]), &good, "is outside"),
        (&manifest(tags.clone(), "c.json", &["../x/layer.tar"]), &good, "is outside"),
        (&manifest(tags.clone(), "c.json", &["c.json"]), &good, "is missing"),
        (&manifest(tags.clone(), "x/layer.tar", &["x/layer.tar"]), &good, "is missing"),
        (&b"{}".to_vec(), &good, "invalid type"),
    ] {
        let error = load(manifest, config).await.unwrap_err();
        assert!(error.contains(message), "{error}");
    }
}
