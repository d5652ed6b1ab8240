//! Files of containers from outside: `cp`, `diff`, `export`, `commit`, also while the container works against it.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use shoal_engine::container::{CommitRequest, ExtractOptions};
use shoal_engine::image::ByteStream;
use shoal_engine::model::{ContainerConfig, HostConfig};
use shoal_proto::error::{ErrorKind, Failure};

use super::harness::{Host, request};

/// What the host has, and no container may ever see or change.
pub(crate) const SECRET: &str = "the host's secret";

/// A tar of files with these contents; a name that ends with a slash is a directory.
pub(crate) fn tar_of(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        let kind = if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
        header.set_entry_type(kind);
        header.set_mode(if name.ends_with('/') { 0o755 } else { 0o644 });
        header.set_uid(7);
        header.set_gid(8);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

pub(crate) fn stream_of(bytes: Vec<u8>) -> ByteStream {
    futures::stream::iter([Ok(Bytes::from(bytes))]).boxed()
}

/// What a tar has under a name: its kind, its mode and its content, or where it links to.
type Unpacked = BTreeMap<String, (tar::EntryType, u32, String)>;

async fn unpacked(stream: ByteStream) -> Unpacked {
    let pieces: Vec<_> = stream.map(|piece| piece.expect("a piece")).collect().await;
    let mut archive = tar::Archive::new(std::io::Cursor::new(pieces.concat()));
    let mut found = Unpacked::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut content = String::new();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            content = String::from_utf8_lossy(&bytes).into_owned();
        } else if let Some(link) = entry.link_name().unwrap() {
            content = link.display().to_string();
        }
        let header = entry.header();
        let (kind, mode) = (header.entry_type(), header.mode().unwrap() & 0o7777);
        found.insert(entry.path().unwrap().display().to_string(), (kind, mode, content));
    }
    found
}

impl Host {
    async fn cp_in(&self, id: &str, path: &str, files: &[(&str, &str)]) -> Result<(), Failure> {
        let options = ExtractOptions { no_overwrite_dir_non_dir: true, ..ExtractOptions::default() };
        self.engine.containers().extract(id, path, options, stream_of(tar_of(files))).await
    }

    async fn cp_out(&self, id: &str, path: &str) -> Result<Unpacked, Failure> {
        let (_, stream) = self.engine.containers().archive(id, path).await?;
        Ok(unpacked(stream).await)
    }

    async fn content(&self, id: &str, path: &str) -> String {
        let found = self.cp_out(id, path).await.unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        found.into_values().next().unwrap().2
    }
}

pub(crate) async fn archives_go_in_and_out(host: Host) -> Host {
    let shared = host.folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let binds =
        ["data:/data".to_owned(), format!("{0}:/shared", shared.display()), format!("{0}:/fixed:ro", shared.display())];
    let config = HostConfig {
        binds: Some(binds.into()),
        tmpfs: Some([("/memory".to_owned(), String::new())].into()),
        ..HostConfig::default()
    };
    let id = host.create("cc", &["sleep", "1000"], config).await;
    for round in ["never started", "running", "paused", "stopped"] {
        let containers = host.engine.containers();
        match round {
            "running" => containers.start(&id).await.unwrap(),
            "paused" => containers.pause(&id).await.unwrap(),
            "stopped" => containers.kill(&id, None).await.unwrap(),
            _ => {}
        }
        for place in ["/srv", "/data", "/shared", "/memory"] {
            if place == "/memory" && round == "never started" {
                continue;
            }
            host.cp_in(&id, place, &[("d/", ""), ("d/f", round)])
                .await
                .unwrap_or_else(|failure| panic!("{round} {place}: {failure}"));
            assert_eq!(host.content(&id, &format!("{place}/d/f")).await, round, "{place}");
        }
        let failure = host.cp_in(&id, "/fixed", &[("f", "")]).await.unwrap_err();
        assert_eq!(failure.message, "mounted volume is marked read-only", "{round}");
        assert_eq!(std::fs::read_to_string(shared.join("d/f")).unwrap(), round);
        assert_eq!((std::fs::metadata(shared.join("d/f")).unwrap().uid(), 8), (7, 8));
        let whole = host.cp_out(&id, "/srv/.").await.unwrap();
        assert_eq!(whole.keys().map(String::as_str).collect::<Vec<_>>(), ["./", "./content", "./d/", "./d/f"]);
        if round == "running" {
            let seen = host.exec(&id, "cat /srv/d/f /data/d/f /shared/d/f; ls /memory").await;
            assert_eq!(seen, "runningrunningrunning", "as with dockerd, a tmpfs is not reached");
            let failure = host.cp_in(&id, "/etc", &[("hosts", "")]).await.unwrap_err();
            assert_eq!(failure.message, "unlinkat /etc/hosts: device or resource busy");
            assert!(
                host.exec(&id, "cat /etc/hosts").await.contains("localhost"),
                "the mount of the hosts file is gone"
            );
            // The kernel's own file systems are not looked at.
            assert_eq!(host.cp_out(&id, "/proc").await.unwrap().len(), 1);
        }
    }
    let missing = host.cp_out("cc", "/nope").await.unwrap_err();
    assert_eq!(
        (missing.kind, missing.message.as_str()),
        (ErrorKind::NotFound, "Could not find the file /nope in container cc")
    );
    let wrong = host.cp_in(&id, "/srv", &[("d", "no directory any more")]).await.unwrap_err();
    assert_eq!(wrong.message, "cannot overwrite directory \"/srv/d\" with non-directory \"/srv\"");
    let read_only = HostConfig { readonly_rootfs: true, ..HostConfig::default() };
    let sealed = host.create("sealed", &["sleep", "1000"], read_only).await;
    assert_eq!(
        host.cp_in(&sealed, "/tmp", &[("f", "")]).await.unwrap_err().message,
        "container rootfs is marked read-only"
    );
    host
}

pub(crate) async fn special_files_are_packed_and_not_opened(host: Host) -> Host {
    let make = "busybox mknod /srv/null c 1 3; busybox mkfifo /srv/pipe; echo x > /srv/set; busybox chmod 6755 /srv/set; \
                busybox ln /srv/set /srv/set2; busybox ln -s ../../../../etc/shadow /srv/up";
    let (code, output) = host.run(&["sh", "-c", make], HostConfig::default()).await;
    assert_eq!((code, output.as_str()), (0, ""));
    let all = shoal_engine::container::ListOptions { all: true, ..Default::default() };
    let id = host.engine.containers().list(all).await.unwrap().remove(0).id;
    let found = host.cp_out(&id, "/srv").await.unwrap();
    assert_eq!(found["srv/null"].0, tar::EntryType::Char);
    assert_eq!(found["srv/pipe"].0, tar::EntryType::Fifo);
    assert_eq!((found["srv/set"].1, found["srv/set"].2.as_str()), (0o6755, "x\n"));
    assert_eq!((found["srv/set2"].0, found["srv/set2"].2.as_str()), (tar::EntryType::Link, "srv/set"));
    assert_eq!(found["srv/up"].2, "../../../../etc/shadow");
    let stat = host.engine.containers().path_stat(&id, "/srv/up").await.unwrap();
    assert_eq!((stat.link_target.as_str(), stat.mode >> 27), ("/etc/shadow", 1));
    // Back in, into another one: as it was, devices included.
    let other = host.create("other", &["sleep", "1000"], HostConfig::default()).await;
    host.engine.containers().start(&other).await.unwrap();
    let (_, stream) = host.engine.containers().archive(&id, "/srv/set").await.unwrap();
    host.engine.containers().extract(&other, "/tmp", ExtractOptions::default(), stream).await.unwrap();
    assert_eq!(host.exec(&other, "stat -c %a:%u /tmp/set").await, "6755:0\n");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Block);
    header.set_mode(0o666);
    header.set_size(0);
    header.set_device_major(8).unwrap();
    header.set_device_minor(0).unwrap();
    archive.append_data(&mut header, "disk", &[][..]).unwrap();
    let disk = stream_of(archive.into_inner().unwrap());
    host.engine.containers().extract(&other, "/tmp", ExtractOptions::default(), disk).await.unwrap();
    let opened = host.exec(&other, "stat -c %F /tmp/disk; head -c 1 /tmp/disk 2>&1").await;
    assert!(
        opened.starts_with("block special file\n") && opened.contains("not permitted"),
        "a device of the host: {opened}"
    );
    host
}

/// A container that does all it can to have the daemon follow a link out of it.
pub(crate) async fn a_racing_container_never_leads_outside(host: Host) -> Host {
    let outside = host.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), SECRET).unwrap();
    // What links could be followed through, were they followed on the host.
    let targets = [
        outside.display().to_string(),
        format!("../../../../../../../../../..{}", outside.display()),
        format!("/proc/1/root{}", outside.display()),
        format!("/proc/self/cwd{}", outside.display()),
    ];
    let swap = "cd /srv; mkdir -p real; echo inside > real/f; while :; do for to in TARGETS; do \
                busybox mv real d 2>/dev/null; busybox mv d real; busybox ln -s $to d; busybox mv d old; busybox rm old; \
                done; done";
    let quick = "cd /srv; mkdir d; echo inside > d/f; while :; do for to in TARGETS; do \
                 busybox mv d real; busybox ln -s $to d; busybox rm d; busybox mv real d; done; done";
    let hosts_view = || {
        let mut names: Vec<_> = std::fs::read_dir(&outside)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        (names, std::fs::read_to_string(outside.join("f")).unwrap())
    };
    let before = hosts_view();
    for script in [swap, quick] {
        let script = script.replace("TARGETS", &targets.join(" "));
        let id = host.start("", &["sh", "-c", &script]).await;
        let mut kinds = BTreeMap::<u32, u32>::new();
        host.until("it was seen as a directory, as a link and not at all", async || {
            for _ in 0..20 {
                let kind = match host.engine.containers().path_stat(&id, "/srv/d").await {
                    Ok(stat) => stat.mode >> 27,
                    Err(failure) => {
                        assert_eq!(failure.kind, ErrorKind::NotFound, "{failure}");
                        0
                    }
                };
                *kinds.entry(kind).or_default() += 1;
            }
            kinds.len() == 3
        })
        .await;
        for _ in 0..60 {
            for path in ["/srv/d/f", "/srv/d/.", "/srv"] {
                if let Ok(found) = host.cp_out(&id, path).await {
                    assert!(found.values().all(|(_, _, content)| content != SECRET), "{path}: {found:?}");
                }
            }
            let _refused_or_not = host.cp_in(&id, "/srv/d", &[("f", "changed"), ("new/", ""), ("new/x", "")]).await;
            let _refused_or_not = host.cp_in(&id, "/srv", &[("d/f", "changed"), ("d/new/", ""), ("d/new/x", "")]).await;
            assert_eq!(hosts_view(), before, "the host was written to");
        }
        host.engine.containers().kill(&id, None).await.unwrap();
    }
    host
}

pub(crate) async fn links_that_stand_still_stay_inside(host: Host) -> Host {
    let outside = host.folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("f"), SECRET).unwrap();
    // A volume is a directory of the host: a link in it must not be followed there either.
    let volume = host.folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    symlink(&outside, volume.join("absolute")).unwrap();
    symlink("../outside", volume.join("up")).unwrap();
    symlink("/proc/self/root", volume.join("magic")).unwrap();
    let config = HostConfig { binds: Some(vec![format!("{}:/v", volume.display())]), ..HostConfig::default() };
    let id = host.create("cc", &["sleep", "1000"], config).await;
    for _ in 0..2 {
        for link in ["absolute", "up", &format!("magic{}", outside.display())] {
            let path = format!("/v/{link}");
            assert!(host.cp_out(&id, &format!("{path}/f")).await.is_err(), "{path}");
            assert!(host.cp_in(&id, &path, &[("new", "")]).await.is_err(), "{path}");
        }
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
        // What makes a name free takes the link, not what it leads to.
        host.cp_in(&id, "/v", &[("absolute", "a file now")]).await.unwrap();
        assert_eq!(std::fs::read_to_string(volume.join("absolute")).unwrap(), "a file now");
        std::fs::remove_file(volume.join("absolute")).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        let _runs = host.engine.containers().start(&id).await;
    }
    assert_eq!(std::fs::read_to_string(outside.join("f")).unwrap(), SECRET);
    assert!(Path::new(&outside).join("f").exists());
    host
}

pub(crate) async fn a_start_waits_for_who_looks_at_its_files(host: Host) -> Host {
    let id = host.create("cc", &["sleep", "1000"], HostConfig::default()).await;
    let large = "x".repeat(32 << 20);
    host.cp_in(&id, "/srv", &[("large", &large)]).await.unwrap();
    let (_, mut stream) = host.engine.containers().archive(&id, "/srv/large").await.unwrap();
    assert!(stream.next().await.is_some());
    let containers = host.engine.containers();
    let mut start = Box::pin(containers.start(&id));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut start).await;
    assert!(early.is_err(), "two mounts of one root");
    // It can be dealt with meanwhile.
    containers.rename(&id, "renamed").await.unwrap();
    while stream.next().await.is_some() {}
    start.await.unwrap();
    assert_eq!(host.exec(&id, "wc -c < /srv/large").await.trim(), large.len().to_string());
    host
}

pub(crate) async fn a_commit_is_an_image_of_what_changed(host: Host) -> Host {
    let change = "echo new > /srv/new; rm /srv/content; rm -r /home; mkdir /home; echo x > /home/x; rm /bin/false; \
                  echo keep > /tmp/.wh.passwd; busybox mkfifo /tmp/pipe; sleep 1000";
    let id = host.start("worker", &["sh", "-c", change]).await;
    host.until("it has written", async || host.cp_out(&id, "/tmp/pipe").await.is_ok()).await;
    let commit = CommitRequest {
        repository: "made".to_owned(),
        tag: "1".to_owned(),
        author: "me".to_owned(),
        comment: "why".to_owned(),
        pause: true,
        changes: vec!["CMD [\"cat\", \"/srv/new\"]".to_owned(), "ENV A=b".to_owned()],
        config: None,
    };
    let containers = host.engine.containers();
    let image = containers.commit("worker", commit.clone()).await.unwrap();
    assert_eq!(host.status(&id).await, "running", "it stayed frozen");
    let shown = host.engine.images().inspect("made:1").unwrap();
    assert_eq!((shown.id, shown.author.as_str(), shown.comment.as_str()), (image.to_string(), "me", "why"));
    assert_eq!(shown.root_fs.layers.len(), 2);
    assert_eq!((shown.container, shown.container_config.cmd.map(|cmd| cmd.len())), (id.clone(), Some(3)));
    let history = host.engine.images().history("made:1").unwrap();
    // As in dockerd, a file whose name says that another one is gone says so in the image, and has no size there.
    assert_eq!((history.len(), history[0].size), (2, "new\nx\n".len() as i64));
    assert!(history[0].created_by.starts_with("sh -c echo new"), "{:?}", history[0]);
    let mut of_it = request(
        &["sh", "-c", "cat /srv/new; ls /srv /home /bin/false 2>&1; echo $A; stat -c %F /tmp/pipe"],
        HostConfig::default(),
    );
    of_it.config.image = "made:1".to_owned();
    let id = containers.create(None, of_it).await.unwrap().id;
    containers.start(&id).await.unwrap();
    host.until_status(&id, "exited").await;
    let seen = host.output(&id).await;
    assert!(seen.contains("new\n") && seen.contains("/home:\nx\n") && seen.contains("b\nfifo"), "{seen}");
    assert!(!seen.contains("content") && !seen.contains("ann") && seen.contains("/bin/false: No such file"), "{seen}");
    // Saved and loaded it is the same: its layer is written again byte for byte.
    let saved = unpacked(host.engine.images().save(&["made:1".to_owned()]).unwrap()).await;
    assert!(saved.len() > 4, "{:?}", saved.keys());
    // One that changed nothing adds no layer.
    let clean = host.create("clean", &["true"], HostConfig::default()).await;
    let unnamed = CommitRequest {
        config: Some(ContainerConfig { user: "ann".to_owned(), ..ContainerConfig::default() }),
        ..CommitRequest::default()
    };
    let image = containers.commit(&clean, unnamed).await.unwrap().to_string();
    let shown = host.engine.images().inspect(&image).unwrap();
    assert_eq!((shown.root_fs.layers.len(), shown.repo_tags.len(), shown.config.user.as_str()), (1, 0, "ann"));
    assert_eq!(shown.config.cmd, Some(vec!["true".to_owned()]));
    let wrong = CommitRequest { changes: vec!["FROM x".to_owned()], ..CommitRequest::default() };
    assert_eq!(containers.commit(&clean, wrong).await.unwrap_err().message, "FROM is not a valid change command");
    host
}

pub(crate) async fn an_export_has_the_root_alone(host: Host) -> Host {
    let config = HostConfig {
        binds: Some(vec!["data:/data".to_owned()]),
        tmpfs: Some([("/memory".to_owned(), String::new())].into()),
        ..HostConfig::default()
    };
    let id = host
        .create(
            "cc",
            &["sh", "-c", "echo v > /data/v; echo m > /memory/m; echo r > /srv/r; echo > /srv/done; sleep 1000"],
            config,
        )
        .await;
    host.engine.containers().start(&id).await.unwrap();
    host.until("it has written", async || host.cp_out(&id, "/srv/done").await.is_ok()).await;
    for round in ["running", "stopped"] {
        let found = unpacked(host.engine.containers().export(&id).await.unwrap()).await;
        assert_eq!(found["srv/r"].2, "r\n", "{round}");
        assert_eq!(found["bin/sh"].2, "busybox");
        for (empty, full) in [("data/", "data/v"), ("memory/", "memory/m"), ("proc/", "proc/self")] {
            assert!(found.contains_key(empty) && !found.contains_key(full), "{round}: {full}");
        }
        let changes = host.engine.containers().changes(&id).await.unwrap();
        let of = |path: &str| changes.iter().find(|change| change.path == path).map(|change| change.kind);
        assert_eq!(
            (of("/srv"), of("/srv/r"), of("/etc/hosts"), of("/proc")),
            (Some(0), Some(1), None, None),
            "{changes:?}"
        );
        if round == "running" {
            host.engine.containers().kill(&id, None).await.unwrap();
        }
    }
    host
}
