//! Killed at any instant, the store is as it was before or as it is afterwards.

use std::path::PathBuf;
use std::time::Duration;

use shoal_engine::image::{ImageRemoveOptions, ImageStore, ImageStoreOptions};
use shoal_engine::model::ImageListOptions;
use shoal_engine::snapshot::PrepareOptions;
use shoal_kit::clock::SystemClock;

use super::support::{Fixture, archive, stream};

/// Names the directory of the process that is to be killed.
const VARIABLE: &str = "SHOAL_TEST_CRASH_ROOT";

fn files(number: usize) -> Vec<u8> {
    let content = vec![u8::try_from(number % 251).unwrap(); 40_000];
    let names: Vec<_> = (0..20).map(|file| format!("directory{number}/file{file}")).collect();
    archive(&names.iter().map(|name| (name.as_str(), content.as_slice())).collect::<Vec<_>>())
}

/// Not a test: what is killed. Imports, tags, prepares and removes for ever.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by the other test"]
async fn victim() {
    let Some(root) = std::env::var_os(VARIABLE) else { return };
    let options = ImageStoreOptions { root: PathBuf::from(root), clock: std::sync::Arc::new(SystemClock) };
    let store = ImageStore::open(options).unwrap();
    for number in 0.. {
        let request = shoal_engine::image::ImportRequest {
            repository: format!("app{}", number % 5),
            ..shoal_engine::image::ImportRequest::default()
        };
        store.import(stream(&files(number % 7)), request).await.unwrap();
        let name = format!("app{}", number % 5);
        store.tag(&name, "other", &format!("v{}", number % 3)).await.unwrap();
        let layers = store.resolve(&name).unwrap().layers.clone();
        let container = format!("c{}", number % 2);
        let snapshots = store.snapshots();
        snapshots.remove(&container).unwrap();
        snapshots.prepare(&container, &layers, PrepareOptions::default()).unwrap();
        if number % 3 == 0 {
            let _ = store.remove(&name, ImageRemoveOptions { force: true, no_prune: false }).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a process of our own that is killed")]
async fn a_kill_at_any_instant_leaves_a_whole_store() {
    let mut fixture = Fixture::new();
    let root = fixture.host.path().join("image");
    for round in 0..25_u64 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "images::crash::victim"])
            .env(VARIABLE, &root)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(40 + round * 7 % 90)).await;
        assert!(victim.try_wait().unwrap().is_none(), "it ended by itself");
        victim.kill().unwrap();
        victim.wait().unwrap();
        fixture.reopen();
        let store = &fixture.store;
        let snapshots = store.snapshots();
        // Every image is whole: its layers give their tars back, and containers can be made of it.
        for image in store.list(&ImageListOptions::default()).unwrap() {
            fixture.save(&[&image.id]).await;
            let layers = store.resolve(&image.id).unwrap().layers.clone();
            snapshots.prepare("probe", &layers, PrepareOptions::default()).unwrap();
            drop(snapshots.open_root("probe").unwrap());
            snapshots.remove("probe").unwrap();
        }
        for container in snapshots.list() {
            drop(snapshots.open_root(&container).unwrap());
        }
        if round % 4 == 3 {
            for container in ["c0", "c1"] {
                snapshots.remove(container).unwrap();
            }
            fixture.reopen();
            fixture.assert_clean();
        }
    }
}
