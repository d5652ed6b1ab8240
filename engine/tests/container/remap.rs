//! `--userns-remap`: containers whose root is nobody on the host.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use bytes::Bytes;
use futures::StreamExt;
use shoal_engine::container::{CommitRequest, ExtractOptions, StopOptions};
use shoal_engine::image::ByteStream;
use shoal_engine::model::{HostConfig, VolumeCreate};
use shoal_engine::remap::{IdMap, IdRange};
use shoal_proto::error::ErrorKind;

use super::harness::{Host, request};

const UID: u32 = 300_000;
const GID: u32 = 400_000;
const RUNC: &str = "/usr/sbin/runc";

fn map() -> IdMap {
    let range = |outside| vec![IdRange { inside: 0, outside, count: 65536 }];
    IdMap { uids: range(UID), gids: range(GID) }
}

async fn remapped(mut host: Host) -> Host {
    host.options.remap = Some(map());
    host.options.runtimes.insert("runc".to_owned(), RUNC.into());
    host.reopen().await
}

fn owner(path: &Path) -> (u32, u32) {
    let found = std::fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (found.uid(), found.gid())
}

fn binds(list: &[String]) -> HostConfig {
    HostConfig { binds: Some(list.to_vec()), ..HostConfig::default() }
}

/// With which runtimes: the built-in one, and runc where it is.
fn runtimes() -> Vec<&'static str> {
    if Path::new(RUNC).exists() { vec!["", "runc"] } else { vec![""] }
}

/// What root in a container may do to the host, and what it may not.
pub(crate) async fn root_is_nobody_on_the_host(host: Host) -> Host {
    let host = remapped(host).await;
    let shared = host.folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    std::fs::write(shared.join("secret"), "the host's secret").unwrap();
    std::fs::set_permissions(shared.join("secret"), Permissions::from_mode(0o600)).unwrap();
    let below = shared.join("below");
    std::fs::create_dir(&below).unwrap();
    std::fs::write(below.join("hidden"), "").unwrap();
    rustix::mount::mount("tmpfs", &below, "tmpfs", rustix::mount::MountFlags::empty(), c"mode=0755").unwrap();
    for runtime in runtimes() {
        let config = HostConfig {
            runtime: runtime.to_owned(),
            cap_add: Some(vec!["ALL".to_owned()]),
            ..binds(&[format!("{}:/shared", shared.display()), format!("{}:/fixed:ro", shared.display())])
        };
        let id = host.create("", &["sleep", "1000"], config).await;
        host.engine.containers().start(&id).await.unwrap();
        let pid = host.inspect(&id).await.state.pid;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{UID}\t{UID}\t{UID}\t{UID}\n")), "{runtime}: {status}");
        assert!(status.contains(&format!("Gid:\t{GID}\t{GID}\t{GID}\t{GID}\n")), "{runtime}: {status}");
        let said = host
            .exec(
                &id,
                "id -u; cat /shared/secret; touch /shared/made; busybox chown 65535:65535 /shared/made; \
                 busybox chown 65536 /shared/made; busybox chmod 644 /shared/secret; busybox mknod /shared/disk b 254 0; \
                 mount -o remount,bind,rw /fixed; echo written > /fixed/made; busybox umount /shared/below; ls /shared/below; \
                 busybox cp bin/busybox /shared/suid; busybox chmod 4755 /shared/suid; cat /proc/self/uid_map",
            )
            .await;
        assert!(said.starts_with("0\n"), "{runtime}: {said}");
        assert!(!said.contains("the host's secret") && said.contains("Permission denied"), "{runtime}: {said}");
        assert!(said.contains("0     300000      65536"), "{runtime}: {said}");
        assert_eq!(owner(&shared.join("made")), (UID + 65535, GID + 65535), "{runtime}: {said}");
        assert_eq!(std::fs::metadata(shared.join("secret")).unwrap().mode() & 0o777, 0o600, "{runtime}: {said}");
        assert!(!shared.join("disk").exists(), "{runtime}: a device was made");
        let suid = std::fs::metadata(shared.join("suid")).unwrap();
        assert_eq!(
            (suid.uid(), suid.mode() & 0o7777),
            (UID, 0o4755),
            "{runtime}: a set-id program is the mapped root's"
        );
        for name in ["made", "suid"] {
            std::fs::remove_file(shared.join(name)).unwrap();
        }
        // runc makes its mounts read-only where the container's root can take that back, if it has `CAP_SYS_ADMIN`.
        let is_fixed = said.contains("can't create /fixed/made: Read-only file system");
        assert!(is_fixed || runtime == "runc", "{runtime}: {said}");
        assert!(!said.contains("hidden"), "{runtime}: what the host has mounted was taken off: {said}");
    }
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
    host
}

/// Who owns what on the disk, and who gets at it.
pub(crate) async fn files_on_disk_have_mapped_owners(host: Host) -> Host {
    let host = remapped(host).await;
    let data = host.options.data_root.clone();
    for folder in [data.clone(), data.join("image"), data.join("image/snapshots")] {
        let found = std::fs::metadata(&folder).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (0o710, 0, GID), "{}", folder.display());
    }
    // Layers have the image's own ids, set-id programs of the host's root among them: only root gets near.
    for folder in ["image/layers", "image/l", "volumes"] {
        assert_eq!(std::fs::metadata(data.join(folder)).unwrap().mode() & 0o077, 0, "{folder}");
    }
    let volume = VolumeCreate { name: "kept".to_owned(), ..VolumeCreate::default() };
    let volume = host.engine.volumes().create(volume).await.unwrap();
    assert_eq!(owner(Path::new(&volume.mountpoint)), (UID, GID));
    for runtime in runtimes() {
        let config =
            HostConfig { runtime: runtime.to_owned(), ..binds(&["kept:/kept".to_owned(), "filled:/srv".to_owned()]) };
        let script = "ls -ln /etc/hosts /etc/hostname /etc/resolv.conf /bin/busybox /srv/content; echo a > /dev/stdout; \
                      echo mine > /kept/mine && echo more >> /etc/hosts && echo changed >> /srv/content && \
                      echo own > /etc/own && busybox chown 1000:1000 /etc/own && echo all";
        let id = host.create("", &["sh", "-c", script], config).await;
        host.engine.containers().start(&id).await.unwrap();
        host.until_status(&id, "exited").await;
        let said = host.output(&id).await;
        assert!(said.ends_with("a\nall\n"), "{runtime}: {said}");
        assert_eq!(said.lines().filter(|line| line.contains(" 0        0 ")).count(), 5, "{runtime}: {said}");
        let upper = data.join("image/snapshots").join(&id).join("upper");
        assert_eq!((owner(&upper), owner(&upper.join("etc/own"))), ((UID, GID), (UID + 1000, GID + 1000)));
        assert_eq!(owner(&data.join("volumes/filled/_data/content")), (UID, GID));
        assert_eq!(owner(&data.join("volumes/kept/_data/mine")), (UID, GID));
    }
    host
}

fn tar_of(name: &str, (uid, gid): (u64, u64)) -> ByteStream {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o640);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_size(2);
    archive.append_data(&mut header, name, &b"in"[..]).unwrap();
    futures::stream::iter([Ok(Bytes::from(archive.into_inner().unwrap()))]).boxed()
}

/// Names and owners of an archive.
async fn owners(stream: ByteStream) -> Vec<(String, u64, u64)> {
    let pieces: Vec<_> = stream.map(|piece| piece.expect("a piece")).collect().await;
    let mut archive = tar::Archive::new(std::io::Cursor::new(pieces.concat()));
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        (entry.path().unwrap().display().to_string(), header.uid().unwrap(), header.gid().unwrap())
    });
    entries.collect()
}

/// Archives, changes and images have the ids that the container sees.
pub(crate) async fn archives_have_the_containers_owners(host: Host) -> Host {
    let host = remapped(host).await;
    let containers = host.engine.containers();
    let id = host.start("", &["sleep", "1000"]).await;
    host.exec(&id, "echo x > /tmp/x; busybox chown 5:6 /tmp/x").await;
    for running in [true, false] {
        if !running {
            containers.stop(&id, StopOptions { timeout_s: Some(0), ..StopOptions::default() }).await.unwrap();
        }
        let name = format!("in-{running}");
        let put = containers.extract(
            &id,
            "/tmp",
            ExtractOptions::default(),
            tar_of(&format!("sub-{running}/{name}"), (7, 8)),
        );
        put.await.unwrap();
        let upper = host.options.data_root.join("image/snapshots").join(&id).join("upper/tmp");
        assert_eq!(owner(&upper.join(format!("sub-{running}"))), (UID, GID));
        assert_eq!(owner(&upper.join(format!("sub-{running}")).join(&name)), (UID + 7, GID + 8));
        let outside = containers.extract(&id, "/tmp", ExtractOptions::default(), tar_of("far", (65536, 0))).await;
        assert!(outside.unwrap_err().message.contains("outside of the container's range of ids"));
        let (_, stream) = containers.archive(&id, "/tmp").await.unwrap();
        let got = owners(stream).await;
        assert!(got.contains(&("tmp/x".to_owned(), 5, 6)), "{got:?}");
        assert!(got.contains(&(format!("tmp/sub-{running}/{name}"), 7, 8)), "{got:?}");
        let got = owners(containers.export(&id).await.unwrap()).await;
        assert!(
            got.contains(&("bin/busybox".to_owned(), 0, 0)) && got.contains(&("tmp/x".to_owned(), 5, 6)),
            "{got:?}"
        );
        // Directories of the image that nobody changed are no change, though their owners differ on the disk.
        let changes = containers.changes(&id).await.unwrap();
        let paths: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
        assert!(paths.contains(&"/tmp/x") && !paths.contains(&"/bin"), "{paths:?}");
    }
    let commit = CommitRequest { repository: "committed".to_owned(), ..CommitRequest::default() };
    containers.commit(&id, commit).await.unwrap();
    let mut again = request(&["stat", "-c", "%u:%g", "/tmp/x", "/bin/busybox"], HostConfig::default());
    again.config.image = "committed".to_owned();
    let again = containers.create(None, again).await.unwrap().id;
    containers.start(&again).await.unwrap();
    host.until_status(&again, "exited").await;
    assert_eq!(host.output(&again).await, "5:6\n0:0\n");
    host
}

/// What cannot be together with a user namespace is refused as dockerd does; `--userns host` opts out.
pub(crate) async fn the_hosts_namespaces_need_the_hosts_users(host: Host) -> Host {
    let host = remapped(host).await;
    let containers = host.engine.containers();
    let mode = |network: &str, pid: &str, privileged, userns: &str| HostConfig {
        network_mode: network.to_owned(),
        pid_mode: pid.to_owned(),
        privileged,
        userns_mode: userns.to_owned(),
        ..HostConfig::default()
    };
    for (config, text) in [
        (mode("host", "", false, ""), "cannot share the host's network namespace when user namespaces are enabled"),
        (mode("", "host", false, ""), "cannot share the host PID namespace when user namespaces are enabled"),
        (
            mode("", "", true, ""),
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when \
             running privileged mode",
        ),
    ] {
        let refused = containers.create(None, request(&["true"], config)).await.unwrap_err();
        assert_eq!((refused.kind, refused.message.as_str()), (ErrorKind::InvalidArgument, text));
    }
    for config in [mode("host", "", false, "host"), mode("", "host", false, "host"), mode("", "", true, "host")] {
        let (code, said) = host.run(&["sh", "-c", "cat /proc/self/uid_map; stat -c %u /bin/busybox"], config).await;
        assert!(code == 0 && said.contains("4294967295") && said.ends_with("\n0\n"), "{said}");
    }
    let mut far = request(&["true"], HostConfig::default());
    far.config.user = "65536".to_owned();
    let far = containers.create(None, far).await.unwrap().id;
    let refused = containers.start(&far).await.unwrap_err();
    assert!(refused.message.contains("outside of the range of ids"), "{}", refused.message);
    assert!(host.engine.info().await.security_options.contains(&"name=userns".to_owned()));
    host
}

/// Containers that share namespaces share the user namespace, and go on with the next daemon.
pub(crate) async fn namespaces_are_shared_and_survive(host: Host) -> Host {
    let host = remapped(host).await;
    let config = HostConfig { ipc_mode: "shareable".to_owned(), ..HostConfig::default() };
    let first = host.create("first", &["sleep", "1000"], config).await;
    host.engine.containers().start(&first).await.unwrap();
    host.exec(&first, "echo shared > /dev/shm/x").await;
    let host = host.reopen().await;
    let own = host.exec(&first, "busybox readlink /proc/self/ns/user; id -u").await;
    let (user, rest) = own.split_once('\n').unwrap();
    assert_eq!(rest, "0\n");
    let with = |network: &str, ipc: &str, pid: &str, userns: &str| HostConfig {
        network_mode: network.to_owned(),
        ipc_mode: ipc.to_owned(),
        pid_mode: pid.to_owned(),
        userns_mode: userns.to_owned(),
        ..HostConfig::default()
    };
    let look = ["sh", "-c", "busybox readlink /proc/self/ns/user; cat /dev/shm/x; true"];
    for config in [
        with("container:first", "", "", ""),
        with("none", "container:first", "", ""),
        with("none", "", "container:first", ""),
        with("container:first", "container:first", "container:first", ""),
    ] {
        let shares_memory = !config.ipc_mode.is_empty();
        let (code, said) = host.run(&look, config).await;
        assert!(code == 0 && said.starts_with(user), "{said}");
        assert_eq!(said.contains("shared"), shares_memory, "{said}");
    }
    let donor =
        HostConfig { ipc_mode: "shareable".to_owned(), userns_mode: "host".to_owned(), ..HostConfig::default() };
    let donor = host.create("donor", &["sleep", "1000"], donor).await;
    host.engine.containers().start(&donor).await.unwrap();
    host.exec(&donor, "echo shared > /dev/shm/x").await;
    let (code, said) = host.run(&look, with("none", "container:donor", "", "host")).await;
    assert!(code == 0 && said.contains("shared"), "memory of a container with the host's users: {said}");
    // Who has the host's users may look into any other.
    let (code, said) = host.run(&look, with("container:first", "container:first", "container:first", "host")).await;
    assert!(code == 0 && said.contains("shared") && !said.contains(user), "{said}");
    // One of its own otherwise, which cannot be mixed with the host's.
    let (_, said) = host.run(&look, HostConfig::default()).await;
    assert!(!said.contains(user), "{said}");
    for config in [with("container:donor", "", "", ""), with("none", "container:donor", "", "")] {
        let id = host.create("", &["true"], config).await;
        let refused = host.engine.containers().start(&id).await.unwrap_err();
        assert!(refused.message.contains("it is in the host's user namespace"), "{}", refused.message);
    }
    host
}
