//! The store as its users see it.

use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use shoal_engine::image::{
    Digest, ImageEvent, ImageObserver, ImageRemoveOptions, ImageUser, ImageUsers, ImportRequest, LayersUsage,
};
use shoal_engine::model::{Filters, ImageListOptions};
use shoal_proto::error::ErrorKind;

use super::support::{Fixture, archive, stream};

struct Listener(Mutex<Vec<String>>);

impl ImageObserver for Listener {
    fn image_event(&self, event: ImageEvent) {
        let name = event.attributes.get("name").cloned().unwrap_or_default();
        self.0.lock().unwrap().push(format!("{} {name}", event.action));
    }
}

struct Container(Digest, bool);

impl ImageUsers for Container {
    fn users(&self, image: &Digest) -> Vec<ImageUser> {
        let user = ImageUser { container_id: "c".repeat(64), running: self.1 };
        if *image == self.0 { vec![user] } else { Vec::new() }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_there_whole_and_again_after_a_restart() {
    let mut fixture = Fixture::new();
    let listener = Arc::new(Listener(Mutex::default()));
    fixture.store.set_observer(Arc::clone(&listener) as Arc<dyn ImageObserver>);
    let root = archive(&[("bin/sh", b"elf"), ("etc/passwd", b"root")]);
    let id = fixture.import("app:v1", &root, &["CMD [\"/bin/sh\"]", "LABEL kind=test", "EXPOSE 80"]).await;
    for _ in 0..2 {
        let image = fixture.store.inspect("app:v1").unwrap();
        assert_eq!(image.id, id.to_string());
        assert_eq!(image.repo_tags, ["app:v1"]);
        assert_eq!(image.size, 7);
        assert_eq!(image.config.cmd, Some(vec!["/bin/sh".to_owned()]));
        assert_eq!(image.created, "2023-11-14T22:13:21Z");
        assert_eq!(image.metadata.last_tag_time, "2023-11-14T22:13:21Z");
        assert_eq!((image.os.as_str(), image.comment.as_str()), ("linux", "Imported from -"));
        assert_eq!(image.root_fs.layers, [Digest::of(&root).to_string()]);
        let history = fixture.store.history("app:v1").unwrap();
        assert_eq!((history.len(), history[0].size, history[0].id.as_str()), (1, 7, image.id.as_str()));
        assert_eq!(history[0].tags, Some(vec!["app:v1".to_owned()]));
        let record = fixture.store.resolve(&id.hex()[..12]).unwrap();
        assert_eq!(record.layers, [Digest::of(&root)]);
        fixture.assert_clean();
        fixture.reopen();
    }
    assert_eq!(*listener.0.lock().unwrap(), ["tag app:v1".to_owned(), format!("import {id}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_of_what_is_here_tells_the_tag_first() {
    let fixture = Fixture::new();
    let id = fixture.import("box", &archive(&[("a", b"1")]), &[]).await;
    fixture.store.tag("box", "localhost:5000/team/app", "v1").await.unwrap();
    let listener = Arc::new(Listener(Mutex::default()));
    fixture.store.set_observer(Arc::clone(&listener) as Arc<dyn ImageObserver>);
    let told = |name: &str| -> Vec<_> {
        let messages = fixture.store.pull_present(name).unwrap();
        messages.into_iter().map(|message| (message.status.unwrap(), message.id)).collect()
    };
    let says = |text: &str, id: Option<&str>| (text.to_owned(), id.map(str::to_owned));
    assert_eq!(
        told("localhost:5000/team/app:v1"),
        [
            says("Pulling from team/app", Some("v1")),
            says("Status: Image is up to date for localhost:5000/team/app:v1", None)
        ]
    );
    assert_eq!(told("box")[0], says("Pulling from library/box", Some("latest")));
    assert_eq!(*listener.0.lock().unwrap(), ["pull localhost:5000/team/app", "pull box"]);
    for (name, kind) in [
        ("box:other", ErrorKind::NotFound),
        // An id is no name, nor is its beginning, whatever it stands for.
        (&id.hex()[..12], ErrorKind::NotFound),
        (&id.hex(), ErrorKind::InvalidArgument),
        ("Box", ErrorKind::InvalidArgument),
    ] {
        assert_eq!(fixture.store.pull_present(name).unwrap_err().kind, kind, "{name}");
    }
    assert_eq!(listener.0.lock().unwrap().len(), 2, "what fails is not told");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_imports_share_their_layer() {
    let fixture = Fixture::new();
    let root = archive(&[("a", b"12345")]);
    let one = fixture.import("one", &root, &[]).await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&root).unwrap();
    let two = fixture.import("two", &gzip.finish().unwrap(), &["CMD x"]).await;
    let three = fixture.import("", &zstd::encode_all(&root[..], 3).unwrap(), &[]).await;
    assert!(one != two && two != three);
    assert_eq!(fixture.store.layers_usage(), LayersUsage { count: 1, bytes: 5 });
    let all = fixture.store.list(&ImageListOptions { shared_size: true, ..ImageListOptions::default() }).unwrap();
    assert_eq!(all.iter().map(|image| image.shared_size).collect::<Vec<_>>(), [5, 5, 5]);
    assert_eq!(all.iter().map(|image| image.repo_tags.len()).collect::<Vec<_>>(), [0, 1, 1], "the newest first");
    fixture.store.remove("one", ImageRemoveOptions::default()).await.unwrap();
    fixture.store.remove("two", ImageRemoveOptions::default()).await.unwrap();
    assert_eq!(fixture.store.layers_usage().count, 1);
    let report = fixture.store.prune(&Filters::default()).await.unwrap();
    assert_eq!(report.space_reclaimed, 5);
    assert_eq!(fixture.store.count(), 0);
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_imports_leave_nothing() {
    let fixture = Fixture::new();
    let root = archive(&[("a", b"12345")]);
    let import = async |name: &str, change: &str, bytes: &[u8]| {
        let changes = if change.is_empty() { Vec::new() } else { vec![change.to_owned()] };
        let request = ImportRequest { repository: name.to_owned(), changes, ..ImportRequest::default() };
        fixture.store.import(stream(bytes), request).await.unwrap_err()
    };
    assert_eq!(import("App", "", &root).await.kind, ErrorKind::InvalidArgument);
    assert_eq!(import("app", "RUN x", &root).await.message, "RUN is not a valid change command");
    assert_eq!(import("app", "", &root[..600]).await.kind, ErrorKind::InvalidArgument);
    assert_eq!(import("app", "", b"\xfd7zXZ\0...").await.kind, ErrorKind::InvalidArgument);
    assert!(import("app", "", b"no archive at all").await.message.contains("tar archive"));
    assert_eq!(import("sha256", "", &root).await.kind, ErrorKind::InvalidArgument);
    let failing: Vec<io::Result<Bytes>> =
        vec![Ok(Bytes::from(root[..600].to_vec())), Err(io::Error::other("line cut"))];
    let source = Box::pin(futures::stream::iter(failing));
    let error = fixture.store.import(source, ImportRequest::default()).await.unwrap_err();
    assert!(error.message.contains("line cut"), "{error}");
    assert_eq!(fixture.store.count(), 0);
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_come_and_go() {
    let fixture = Fixture::new();
    let one = fixture.import("app:v1", &archive(&[("a", b"1")]), &[]).await;
    fixture.store.tag("app:v1", "other/app", "").await.unwrap();
    fixture.store.tag(&one.hex(), "host.x:5000/app", "v9").await.unwrap();
    assert_eq!(fixture.tags(), ["app:v1", "host.x:5000/app:v9", "other/app:latest"]);
    for (source, name, tag) in [("nope", "x", ""), ("app:v1", "X", ""), ("app:v1", "x", "-"), ("app:v1", "sha256", "")]
    {
        fixture.store.tag(source, name, tag).await.unwrap_err();
    }
    // A name moves to another image; the first one keeps its others.
    let two = fixture.import("app:v1", &archive(&[("a", b"2")]), &[]).await;
    assert_eq!(fixture.store.resolve("app:v1").unwrap().id, two);
    assert_eq!(fixture.store.names_of(&one), ["other/app:latest", "host.x:5000/app:v9"]);
    let items = fixture.store.remove("host.x:5000/app:v9", ImageRemoveOptions::default()).await.unwrap();
    assert_eq!(items.len(), 1);
    let items = fixture.store.remove("other/app", ImageRemoveOptions::default()).await.unwrap();
    let deleted: Vec<_> = items.iter().filter_map(|item| item.deleted.clone()).collect();
    let layer = Digest::of(&archive(&[("a", b"1")]));
    assert_eq!(deleted, [one.to_string(), layer.to_string()]);
    assert_eq!(items[0].untagged, Some("other/app:latest".to_owned()));
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containers_use_stays() {
    let fixture = Fixture::new();
    let id = fixture.import("app", &archive(&[("a", b"1")]), &[]).await;
    fixture.store.set_users(Arc::new(Container(id, true)));
    let error = fixture.store.remove("app", ImageRemoveOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    let all = Filters::default().with("dangling", "false");
    assert_eq!(fixture.store.prune(&all).await.unwrap().images_deleted, None);
    fixture.store.set_users(Arc::new(Container(Digest::of(b"other"), true)));
    assert_eq!(fixture.store.prune(&Filters::default()).await.unwrap().images_deleted, None, "it has a name");
    assert_eq!(fixture.store.prune(&all).await.unwrap().images_deleted.unwrap().len(), 3);
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered() {
    let fixture = Fixture::new();
    fixture.import("one:v1", &archive(&[("a", b"1")]), &["LABEL k=1"]).await;
    fixture.import("me/two:v1", &archive(&[("a", b"2")]), &["LABEL k=2"]).await;
    let three = fixture.import("", &archive(&[("a", b"3")]), &[]).await;
    let list = |name: &str, value: &str| {
        let options = ImageListOptions { filters: Filters::default().with(name, value), ..ImageListOptions::default() };
        fixture.store.list(&options).map(|images| {
            images.iter().map(|image| image.repo_tags.first().cloned().unwrap_or_default()).collect::<Vec<_>>()
        })
    };
    assert_eq!(list("dangling", "true").unwrap(), [""]);
    assert_eq!(list("dangling", "false").unwrap(), ["me/two:v1", "one:v1"]);
    assert_eq!(list("label", "k=2").unwrap(), ["me/two:v1"]);
    assert_eq!(list("reference", "*/two").unwrap(), ["me/two:v1"]);
    assert_eq!(list("reference", "one:*").unwrap(), ["one:v1"]);
    assert_eq!(list("before", "me/two:v1").unwrap(), ["one:v1"]);
    assert_eq!(list("since", "one:v1").unwrap(), ["", "me/two:v1"]);
    assert_eq!(list("until", "2s").unwrap(), ["one:v1"]);
    assert_eq!(list("colour", "red").unwrap_err().message, "invalid filter 'colour'");
    assert_eq!(list("before", "nope").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(fixture.store.list(&ImageListOptions::default()).unwrap()[0].id, three.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_saved_can_be_loaded_elsewhere() {
    let one = Fixture::new();
    let (first, second) = (archive(&[("a", b"1")]), archive(&[("b", &[7; 100_000])]));
    let id = one.import("app:v1", &first, &["CMD x", "LABEL a=b"]).await;
    one.store.tag("app:v1", "me/app", "v2").await.unwrap();
    let nameless = one.import("", &second, &[]).await;
    let bytes = one.save(&["app:v1", "me/app:v2", &nameless.hex()[..12]]).await;
    let two = Fixture::new();
    let lines = two.load(&bytes).await.unwrap();
    let expected = [
        "Loaded image: app:v1\n".to_owned(),
        "Loaded image: me/app:v2\n".to_owned(),
        format!("Loaded image ID: {nameless}\n"),
    ];
    assert_eq!(lines, expected);
    assert_eq!(two.store.resolve("me/app:v2").unwrap().id, id);
    assert_eq!(two.store.inspect(&nameless.hex()).unwrap().size, 100_000);
    two.assert_clean();
    assert_eq!(two.save(&["app:v1", "me/app:v2", &nameless.hex()[..12]]).await, bytes, "the same bytes");
    // Again changes nothing; a name that stood for something else moves.
    two.import("app:v1", &second, &[]).await;
    let lines = two.load(&bytes).await.unwrap();
    assert!(lines[0].starts_with("The image app:v1 already exists, renaming the old one with ID sha256:"), "{lines:?}");
    assert_eq!(two.store.resolve("app:v1").unwrap().id, id);
    two.assert_clean();
    let mut compressed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    compressed.write_all(&bytes).unwrap();
    assert_eq!(Fixture::new().load(&compressed.finish().unwrap()).await.unwrap(), expected);
    // A repository stands for all its tags.
    let all = Fixture::new();
    assert_eq!(all.load(&one.save(&["app"]).await).await.unwrap(), ["Loaded image: app:v1\n"]);
    assert_eq!(one.store.save(&["nope".to_owned()]).err().unwrap().message, "No such image: nope");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_is_loaded_as_a_whole_or_not_at_all() {
    let one = Fixture::new();
    one.import("app:v1", &archive(&[("a", b"1")]), &[]).await;
    one.import("app:v2", &archive(&[("b", b"2")]), &[]).await;
    let bytes = one.save(&["app"]).await;
    let two = Fixture::new();
    for length in [0, 700, bytes.len() / 3, bytes.len() / 2, bytes.len() - 2000] {
        two.load(&bytes[..length]).await.unwrap_err();
        assert_eq!(two.store.count(), 0);
        two.assert_clean();
    }
    // One byte of one layer differs.
    let position = bytes.windows(1).position(|window| window == b"1").unwrap();
    let layer = bytes.windows(3).position(|window| window == b"1\0\0").unwrap_or(position);
    let mut changed = bytes.clone();
    changed[layer] = b'9';
    let error = two.load(&changed).await.unwrap_err();
    assert!(error.contains("layer verification failed") || error.contains("checksum"), "{error}");
    assert_eq!(two.store.count(), 0);
    two.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_when_the_store_is_opened() {
    let mut fixture = Fixture::new();
    let good = fixture.import("good", &archive(&[("a", b"1")]), &[]).await;
    let bad = fixture.import("bad", &archive(&[("b", b"2")]), &[]).await;
    let blob = fixture.host.path().join("image/blobs/sha256").join(bad.hex());
    let text = std::fs::read_to_string(&blob).unwrap().replace("Imported", "imported");
    std::fs::write(&blob, text).unwrap();
    fixture.reopen();
    assert_eq!(fixture.tags(), ["good:latest"]);
    assert_eq!(fixture.store.resolve("good").unwrap().id, good);
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_lost_when_the_machine_stopped_takes_its_image_along() {
    let mut fixture = Fixture::new();
    fixture.import("kept", &archive(&[("a", b"1")]), &[]).await;
    let lost = archive(&[("b", b"2")]);
    fixture.import("lost", &lost, &[]).await;
    for _ in 0..1000 {
        if fixture.store.is_synced() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // As it is on disk when the power fails right now: the catalog says so, the content is not there.
    let catalog = fixture.host.path().join("image/catalog.json");
    let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&catalog).unwrap()).unwrap();
    stored["unsynced"] = serde_json::json!([Digest::of(&lost), Digest::of(&archive(&[("a", b"1")]))]);
    stored["boot"] = serde_json::json!("an earlier one");
    let file = fixture.host.path().join("image/layers").join(Digest::of(&lost).hex()).join("files/b");
    std::fs::write(&catalog, stored.to_string()).unwrap();
    std::fs::write(file, "").unwrap();
    fixture.reopen();
    assert_eq!(fixture.tags(), ["kept:latest"]);
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_their_image() {
    let mut fixture = Fixture::new();
    fixture.import("app", &archive(&[("a", b"1")]), &[]).await;
    let layers = fixture.store.resolve("app").unwrap().layers.clone();
    let options = shoal_engine::snapshot::PrepareOptions::default();
    fixture.store.snapshots().prepare("c1", &layers, options).unwrap();
    let removed = fixture.store.remove("app", ImageRemoveOptions { force: true, no_prune: false }).await.unwrap();
    assert_eq!(removed.len(), 2, "name and image, not the layer");
    fixture.reopen();
    let root = fixture.store.snapshots().open_root("c1").unwrap();
    assert!(root.directory().open_file(Path::new("a")).is_ok());
    drop(root);
    fixture.store.snapshots().remove("c1").unwrap();
    fixture.assert_clean();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_come_and_go_at_once() {
    let fixture = Arc::new(Fixture::new());
    fixture.import("kept:v1", &archive(&[("a", b"1"), ("shared", b"x")]), &[]).await;
    let saved = Arc::new(fixture.save(&["kept:v1"]).await);
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..6_usize {
        let (fixture, saved) = (Arc::clone(&fixture), Arc::clone(&saved));
        tasks.spawn(async move {
            for round in 0..12_usize {
                let name = format!("app{}:v1", (task + round) % 2);
                match (task + round) % 3 {
                    0 => drop(fixture.load(&saved).await.unwrap()),
                    1 => {
                        let request = ImportRequest { repository: name.clone(), ..ImportRequest::default() };
                        // The clock stands still: the same image each time.
                        fixture.store.import(stream(&archive(&[("b", b"2")])), request).await.unwrap();
                    }
                    _ => drop(fixture.store.remove(&name, ImageRemoveOptions { force: true, no_prune: false }).await),
                }
                drop(fixture.store.tag("kept:v1", "kept", &format!("v{task}")).await);
                drop(fixture.store.remove("kept:v1", ImageRemoveOptions::default()).await);
                fixture.load(&saved).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    for image in fixture.store.list(&ImageListOptions::default()).unwrap() {
        fixture.save(&[&image.id]).await;
    }
    fixture.assert_clean();
    let mut fixture = Arc::into_inner(fixture).unwrap();
    let tags = fixture.tags();
    fixture.reopen();
    assert_eq!(fixture.tags(), tags);
    fixture.assert_clean();
}
