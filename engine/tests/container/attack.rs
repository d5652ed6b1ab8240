//! Attacks that need an engine: on its volumes, its folders, its sockets, and its trust in what an image brings. Each looks
//! at the effect on the host, and has a control in which the effect is there.
//!
//! | CVE | test |
//! |---|---|
//! | 2018-15664, 2021-41089, 2026-42306 | `files::a_racing_container_never_leads_outside` |
//! | 2019-14271, 2026-41567 | `helpers_of_an_image_are_never_run` |
//! | 2019-16884, 2022-0811, 2024-40635 | `what_climbs_injects_or_overflows_does_not_start` |
//! | 2020-15257 | `no_socket_of_the_engine_is_reached` |
//! | 2021-41091 | `other_users_of_the_host_reach_nothing` |
//! | 2021-41089 and the like | `a_volume_that_is_filled_lends_no_hand` |
//! | 2022-23648 | `a_volume_at_the_end_of_a_link_has_nothing_of_the_host` |

use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use shoal_engine::container::{CommitRequest, ExtractOptions, WaitCondition};
use shoal_engine::image::ImportRequest;
use shoal_engine::model::{CreateRequest, HostConfig};

use super::files::{SECRET, stream_of, tar_of};
use super::harness::{Host, busybox};

/// An image that is busybox with these links and files.
async fn import(host: &Host, name: &str, links: &[(&str, &str)], programs: &[(&str, &str)], changes: &[&str]) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut entries = tar::Archive::new(std::io::Cursor::new(busybox()));
    for entry in entries.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut header = entry.header().clone();
        match entry.link_name().unwrap().map(|link| link.into_owned()) {
            Some(link) => archive.append_link(&mut header, path, link).unwrap(),
            None => archive.append_data(&mut header, path, &mut entry).unwrap(),
        }
    }
    for (path, link) in links {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, path, link).unwrap();
    }
    for (path, content) in programs {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o4755);
        archive.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let request = ImportRequest {
        repository: name.to_owned(),
        changes: changes.iter().map(|change| (*change).to_owned()).collect(),
        ..ImportRequest::default()
    };
    host.engine.images().import(stream_of(archive.into_inner().unwrap()), request).await.unwrap();
}

/// Creates and starts what a client describes so, and waits for its end. What it printed, or why not.
async fn attempt(host: &Host, body: serde_json::Value) -> Result<String, String> {
    let request: CreateRequest = serde_json::from_value(body).unwrap();
    let containers = host.engine.containers();
    let id = containers.create(None, request).await.map_err(|failure| failure.message)?.id;
    let ended = containers.begin_wait(&id, WaitCondition::NextExit).unwrap();
    containers.start(&id).await.map_err(|failure| failure.message)?;
    ended.await;
    Ok(host.output(&id).await)
}

fn outside(host: &Host) -> PathBuf {
    let outside = host.folder.path().join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    for file in ["f", "sub/f"] {
        std::fs::write(outside.join(file), SECRET).unwrap();
    }
    outside
}

fn is_untouched(outside: &Path) -> bool {
    let count = |folder: &Path| std::fs::read_dir(folder).unwrap().count();
    let read = |file: &str| std::fs::read_to_string(outside.join(file)).unwrap();
    count(outside) == 2 && count(&outside.join("sub")) == 1 && read("f") == SECRET && read("sub/f") == SECRET
}

pub(crate) async fn a_volume_at_the_end_of_a_link_has_nothing_of_the_host(host: Host) -> Host {
    let outside = outside(&host);
    let absolute = outside.display().to_string();
    let climbing = format!("../../../../../../../../../..{absolute}");
    let look =
        ["sh", "-c", "cat /data/f /data/sub/f /data/sub/sub/f; echo x > /data/new; echo x > /data/sub/new; true"];
    let cases =
        [(&*absolute, "/data"), (&*absolute, "/data/sub"), (&*climbing, "/data"), ("/proc/1/root", "/data/etc")];
    for (number, (link, volume)) in cases.into_iter().enumerate() {
        let name = format!("linked{number}");
        import(&host, &name, &[("data", link)], &[], &[&format!("VOLUME {volume}")]).await;
        let body = json!({"Image": name, "Cmd": look, "HostConfig": {"NetworkMode": "none"}});
        if let Ok(said) = attempt(&host, body).await {
            assert!(!said.contains(SECRET), "{volume} -> {link}: {said}");
        }
        assert!(is_untouched(&outside), "{volume} -> {link}");
        for volume in std::fs::read_dir(host.options.data_root.join("volumes")).unwrap().flatten() {
            let file = volume.path().join("_data/f");
            let content = std::fs::read_to_string(file).unwrap_or_default();
            assert!(content != SECRET, "{link}: a volume was filled from the host");
        }
    }
    // The control: what an image does have at the path of its volume is seen by this.
    import(&host, "plain", &[], &[("data/f", SECRET)], &["VOLUME /data"]).await;
    let said = attempt(&host, json!({"Image": "plain", "Cmd": look, "HostConfig": {"NetworkMode": "none"}})).await;
    assert!(said.unwrap().contains(SECRET));
    host
}

/// Puts links to a file of the host in the place of everything special that appears in a volume, as a container does that
/// has the volume, too, until it is dropped.
struct Swapper {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    fn start(volume: PathBuf, victim: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let swaps = Arc::<AtomicUsize>::default();
        let swapped = Arc::clone(&swaps);
        let thread = std::thread::spawn(move || {
            let spare = volume.with_file_name("spare");
            while !stopped.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir(&volume).into_iter().flatten().flatten() {
                    if entry.file_type().is_ok_and(|kind| kind.is_fifo()) {
                        std::os::unix::fs::symlink(&victim, &spare).unwrap();
                        std::fs::rename(&spare, entry.path()).unwrap();
                        swapped.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

pub(crate) async fn a_volume_that_is_filled_lends_no_hand(host: Host) -> Host {
    let victim = outside(&host).join("f");
    let before = std::fs::metadata(&victim).unwrap().permissions().mode();
    let is_changed = || std::fs::metadata(&victim).unwrap().permissions().mode() != before;
    let make = "busybox mkdir /data; cd /data; for n in $(seq 150); do busybox mkfifo -m 6777 $n; done";
    let maker = super::harness::request(&["sh", "-c", make], HostConfig::default());
    let id = host.engine.containers().create(None, maker).await.unwrap().id;
    let ended = host.engine.containers().begin_wait(&id, WaitCondition::NextExit).unwrap();
    host.engine.containers().start(&id).await.unwrap();
    ended.await;
    let commit = CommitRequest { repository: "pipes".to_owned(), ..CommitRequest::default() };
    host.engine.containers().commit(&id, commit).await.unwrap();
    let mut swaps = 0;
    for round in 0..8 {
        let name = format!("shared{round}");
        let volume = json!({"Name": name});
        let volume = host.engine.volumes().create(serde_json::from_value(volume).unwrap()).await.unwrap();
        let swapper = Swapper::start(volume.mountpoint.into(), victim.clone());
        let mut wanted = super::harness::request(&["true"], HostConfig::default());
        wanted.config.image = "pipes".to_owned();
        wanted.host_config.binds = Some(vec![format!("{name}:/data")]);
        let _refused_or_not = host.engine.containers().create(None, wanted).await;
        assert!(!is_changed(), "round {round}: the mode of a file of the host was changed");
        swaps += swapper.swaps.load(Ordering::Relaxed);
    }
    assert!(swaps > 0, "nothing was swapped: nothing was tried");
    // The control: by its name, a pipe's mode is that of the victim sooner or later.
    let folder = host.folder.path().join("naive");
    std::fs::create_dir(&folder).unwrap();
    let _swapper = Swapper::start(folder.clone(), victim.clone());
    for number in 0..100_000 {
        if is_changed() {
            break;
        }
        let pipe = folder.join(number.to_string());
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        std::fs::set_permissions(&pipe, std::fs::Permissions::from_mode(0o6777)).unwrap();
        std::fs::remove_file(pipe).unwrap();
    }
    assert!(is_changed());
    host
}

/// As a user of the host without any rights.
#[expect(clippy::disallowed_methods, reason = "another user has to be another process")]
fn as_nobody(words: &[&str]) -> (bool, String) {
    let mut command = Command::new("/bin/busybox");
    command.args(words).uid(65534).gid(65534).env_clear().current_dir("/");
    let output = command.output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) async fn other_users_of_the_host_reach_nothing(host: Host) -> Host {
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    // What is around the engine's folders is open, as /var/lib and /run are.
    open(host.folder.path(), 0o755);
    let program = std::fs::read_to_string("/proc/self/comm").unwrap();
    import(&host, "rich", &[], &[("srv/of-the-image", &program)], &[]).await;
    let script = "busybox cp /bin/busybox /srv/busybox-suid; busybox chmod 4755 /srv/busybox-suid; echo s > /data/secret; \
                  busybox chmod 777 /data; busybox mkfifo -m 666 /tmp/ready; sleep 1000";
    let binds = vec!["kept:/data".to_owned()];
    let mut wanted =
        super::harness::request(&["sh", "-c", script], HostConfig { binds: Some(binds), ..HostConfig::default() });
    wanted.config.image = "rich".to_owned();
    let id = host.engine.containers().create(None, wanted).await.unwrap().id;
    host.engine.containers().start(&id).await.unwrap();
    host.until("it is ready", async || host.exec(&id, "ls /tmp").await.contains("ready")).await;
    let roots = [&host.options.data_root, &host.options.exec_root].map(|root| root.display().to_string());
    let find = |test: &str| as_nobody(&["sh", "-c", &format!("find {} {test} 2>/dev/null", roots.join(" "))]).1;
    // The roots themselves, and nothing in them.
    let seen = find("");
    assert!(seen.lines().all(|line| roots.iter().any(|root| root == line)), "{seen}");
    let graph = host.inspect(&id).await.graph_driver.data.unwrap();
    let upper = PathBuf::from(&graph["UpperDir"]);
    let merged = Path::new(&graph["MergedDir"]).join("srv/busybox-suid");
    let volume = PathBuf::from(host.engine.volumes().inspect("kept").await.unwrap().mountpoint);
    let image = PathBuf::from(graph["LowerDir"].split(':').next().unwrap()).join("srv/of-the-image");
    let suid = upper.join("srv/busybox-suid");
    let name = |path: &Path| path.display().to_string();
    assert!(suid.exists() && volume.join("secret").exists() && image.exists(), "by root they are found: {graph:?}");
    for path in [&suid, &merged, &image, &volume.join("secret")] {
        assert!(!as_nobody(&["stat", &name(path)]).0, "{}", path.display());
        assert!(!as_nobody(&["sh", "-c", &name(path)]).0, "{}", path.display());
    }
    let sockets = |folder: &Path| -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                    Ok(kind) if kind.is_socket() => found.push(entry.path()),
                    _ => {}
                }
            }
        }
        found
    };
    let sockets = sockets(&host.options.exec_root);
    assert!(!sockets.is_empty(), "a shim listens");
    for socket in sockets {
        assert!(!as_nobody(&["stat", &name(&socket)]).0, "{}", socket.display());
    }
    // The control: with looser modes on the way, all of it is seen and run.
    for folder in suid.ancestors().skip(1).take_while(|folder| *folder != host.folder.path()) {
        open(folder, 0o755);
    }
    assert!(find("-perm -4000").contains("busybox-suid"));
    assert!(as_nobody(&["sh", "-c", &format!("{} true", name(&suid))]).0);
    host
}

/// Programs and libraries that a daemon could take for its own when it works in a container's root.
const HELPERS: &[&str] = &[
    "xz",
    "unxz",
    "gzip",
    "gunzip",
    "pigz",
    "unpigz",
    "bzip2",
    "bunzip2",
    "zstd",
    "unzstd",
    "tar",
    "docker-untar",
    "docker-tar",
    "nsenter",
    "iptables",
    "nft",
    "modprobe",
    "newuidmap",
    "ps",
    "mkfs",
    "runc",
    "shoal",
];

pub(crate) async fn helpers_of_an_image_are_never_run(host: Host) -> Host {
    let marker = host.folder.path().join("trojan-was-here");
    let trojan = format!("#!/bin/sh\necho $0 >> {}\necho $0 >> /trojan-was-here\n", marker.display());
    let mut programs: Vec<(String, &str)> = Vec::new();
    for folder in ["bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin"] {
        programs.extend(HELPERS.iter().map(|name| (format!("{folder}/{name}"), &*trojan)));
    }
    for library in ["libnss_files.so.2", "libnss_dns.so.2", "libnss_compat.so.2", "libgcc_s.so.1", "liblzma.so.5"] {
        programs.push((format!("lib/x86_64-linux-gnu/{library}"), "no library"));
        programs.push((format!("lib64/{library}"), "no library"));
    }
    programs.push(("etc/nsswitch.conf".to_owned(), "passwd: trojan\ngroup: trojan\n"));
    programs.push(("etc/ld.so.preload".to_owned(), "/lib64/trojan.so\n"));
    let programs: Vec<(&str, &str)> = programs.iter().map(|(path, content)| (&**path, *content)).collect();
    import(&host, "trojan", &[], &programs, &[]).await;
    let containers = host.engine.containers();
    let mut wanted = super::harness::request(&["sleep", "1000"], HostConfig::default());
    (wanted.config.image, wanted.config.user) = ("trojan".to_owned(), "ann".to_owned());
    let id = containers.create(None, wanted).await.unwrap().id;
    let plain = |name: &str| tar_of(&[(name, "unpacked")]);
    for round in ["created", "running"] {
        if round == "running" {
            containers.start(&id).await.unwrap();
        }
        let gzip = {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &plain("gzip")).unwrap();
            encoder.finish().unwrap()
        };
        let zstd = zstd::encode_all(&plain("zstd")[..], 1).unwrap();
        for (name, archive) in [("plain", plain("plain")), ("gzip", gzip), ("zstd", zstd)] {
            let archive = stream_of(archive);
            containers.extract(&id, "/srv", ExtractOptions::default(), archive).await.unwrap();
            assert_eq!(containers.path_stat(&id, &format!("/srv/{name}")).await.unwrap().size, 8, "{round}");
        }
        // What would need a helper is refused.
        for magic in [&b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4F\x02\0!\x01"[..], b"BZh91AY&SY\x17rE8P\x90\0\0\0\0"] {
            let refused = containers.extract(&id, "/srv", ExtractOptions::default(), stream_of(magic.to_vec())).await;
            assert!(refused.is_err(), "{round}");
        }
        let (_, packed) = containers.archive(&id, "/srv").await.unwrap();
        futures::StreamExt::count(packed).await;
        containers.top(&id, "aux").await.map(drop).unwrap_or(());
    }
    let left = containers.path_stat(&id, "/trojan-was-here").await;
    assert!(left.is_err() && !marker.exists(), "a program of the image was run");
    // The control: when somebody does run one, it is seen.
    host.exec(&id, "/usr/bin/xz").await;
    let run = super::harness::request(&["/usr/bin/unpigz"], HostConfig::default());
    let run = CreateRequest {
        config: shoal_engine::model::ContainerConfig { image: "trojan".to_owned(), ..run.config },
        ..run
    };
    let other = containers.create(None, run).await.unwrap().id;
    let ended = containers.begin_wait(&other, WaitCondition::NextExit).unwrap();
    containers.start(&other).await.unwrap();
    ended.await;
    assert!(containers.path_stat(&other, "/trojan-was-here").await.is_ok());
    host
}

pub(crate) async fn no_socket_of_the_engine_is_reached(host: Host) -> Host {
    // Something to listen for each of them.
    let _running = host.start("other", &["sleep", "1000"]).await;
    let look = [
        "sh",
        "-c",
        "busybox grep -o '@.*' /proc/net/unix; busybox find / -xdev -type s; busybox find /given -type s; true",
    ];
    let body = |binds: &[String]| json!({"Image": "bb", "Cmd": look, "HostConfig": {"NetworkMode": "host", "PidMode": "host", "Binds": binds}});
    let said = attempt(&host, body(&[])).await.unwrap();
    assert_eq!(said.replace("find: /given: No such file or directory\n", ""), "");
    // The control: an abstract socket on the host, and the folder of the sockets in the container.
    let name = SocketAddr::from_abstract_name(b"shoal-attack").unwrap();
    let _listener = UnixListener::bind_addr(&name).unwrap();
    let said = attempt(&host, body(&[format!("{}:/given:ro", host.options.exec_root.display())])).await.unwrap();
    assert!(said.contains("@shoal-attack") && said.contains("/given/shim/"), "{said}");
    host
}

pub(crate) async fn what_climbs_injects_or_overflows_does_not_start(host: Host) -> Host {
    let shared = host.folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let links = [("proc-link", "/proc"), ("attr", "/proc/self/attr"), ("sys-link", "proc/sys")];
    import(&host, "linked", &links, &[], &["VOLUME /proc-link"]).await;
    let start = async |host_config: serde_json::Value, config: serde_json::Value| {
        let out = format!("{}:/out", shared.display());
        let mut body = json!({"Image": "bb", "Cmd": ["touch", "/out/ran"], "HostConfig": {"NetworkMode": "none"}});
        for (key, value) in host_config.as_object().unwrap() {
            body["HostConfig"][key] = value.clone();
        }
        for (key, value) in config.as_object().unwrap() {
            body[key] = value.clone();
        }
        let mut binds = body["HostConfig"]["Binds"].as_array().cloned().unwrap_or_default();
        binds.push(out.into());
        body["HostConfig"]["Binds"] = binds.into();
        let outcome = attempt(&host, body).await;
        (std::fs::remove_file(shared.join("ran")).is_ok(), outcome)
    };
    // The control: the same with what is in order does run.
    for (host_config, config) in [
        (json!({}), json!({})),
        (json!({"Sysctls": {"net.ipv4.ip_forward": "1"}}), json!({"User": "0:2147483647"})),
        (json!({"Binds": ["kept:/process"], "Tmpfs": {"/sys-other": ""}}), json!({"WorkingDir": "/etc/../tmp"})),
    ] {
        let (ran, outcome) = start(host_config, config).await;
        assert!(ran, "{outcome:?}");
    }
    let sysctl = |name: &str, value: &str| (json!({"Sysctls": {name: value}}), json!({}));
    let user = |user: &str| (json!({}), json!({"User": user}));
    let bind = |place: &str| (json!({"Binds": [format!("kept:{place}")]}), json!({}));
    let linked = |host_config: serde_json::Value| (host_config, json!({"Image": "linked", "Volumes": {}}));
    let cases = [
        sysctl("kernel.shmmni", "1+kernel.core_pattern=|/bin/x"),
        sysctl("kernel.shmmni", "1\nkernel.core_pattern=|/bin/x"),
        sysctl("kernel.core_pattern", "|/bin/x"),
        sysctl("net.ipv4.ip_forward/../../../kernel/core_pattern", "|/bin/x"),
        sysctl("net/ipv4/../../kernel/core_pattern", "|/bin/x"),
        user("2147483648"),
        user("4294967296"),
        user("4294967295"),
        user("-1"),
        user("0:4294967296"),
        user("18446744073709551616"),
        (json!({"GroupAdd": ["4294967296"]}), json!({})),
        bind("/proc"),
        bind("/proc/sys/kernel"),
        bind("/dev/../proc/self/attr"),
        (json!({"Tmpfs": {"/proc/self": ""}}), json!({})),
        linked(json!({})),
        linked(json!({"Tmpfs": {"/attr": ""}})),
        linked(json!({"Tmpfs": {"/sys-link/kernel": ""}})),
        (json!({}), json!({"WorkingDir": "/proc/self/fd/7"})),
        (json!({}), json!({"WorkingDir": "/proc/self/fd/7/../../.."})),
    ];
    for (host_config, config) in cases {
        let shown = format!("{host_config} {config}");
        let (ran, outcome) = start(host_config, config).await;
        assert!(outcome.is_err() && !ran, "{shown}: {outcome:?}");
    }
    host
}
