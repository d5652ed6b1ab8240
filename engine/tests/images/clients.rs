//! With the archives of other engines: dockerd, skopeo and umoci, as far as they are installed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Output;

use shoal_engine::image::Digest;
use shoal_engine_sys::fs;

use super::support::Fixture;

#[expect(clippy::disallowed_methods, reason = "the peers of a test")]
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = std::process::Command::new(program)
        .args(arguments)
        .env("DOCKER_CONFIG", "/nonexistent")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {}", text());
    output
}

/// Says what is left out when a peer is missing.
fn installed(programs: &[&str]) -> bool {
    #[expect(clippy::disallowed_methods, reason = "the peers of a test")]
    let missing =
        programs.iter().find(|program| std::process::Command::new(program).arg("--version").output().is_err());
    if let Some(missing) = missing {
        eprintln!("left out: {missing} is not installed");
    }
    missing.is_none()
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A dockerd of its own, with nothing of the host's.
struct Dockerd {
    directory: tempfile::TempDir,
    process: std::process::Child,
}

impl Dockerd {
    #[expect(clippy::disallowed_methods, reason = "the peer of a test, and waiting for its socket")]
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let process = std::process::Command::new("dockerd")
            .args(["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")])
            .args(["-H", &format!("unix://{}", path("socket"))])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--storage-driver=overlay2"])
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let mut dockerd = Self { directory, process };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(dockerd.path("socket")).is_err() {
            let log = || std::fs::read_to_string(dockerd.directory.path().join("log")).unwrap_or_default();
            assert!(dockerd.process.try_wait().unwrap().is_none(), "dockerd ended: {}", log());
            assert!(std::time::Instant::now() < deadline, "dockerd does not answer: {}", log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        dockerd
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn docker(&self, client: &str, arguments: &[&str]) -> String {
        let host = format!("unix://{}", self.path("socket").display());
        text(run(client, &[&["-H", &host], arguments].concat()))
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // It stops its containerd and unmounts what it has mounted.
        run("kill", &["-TERM", &self.process.id().to_string()]);
        let _ = self.process.wait();
    }
}

/// A root file system with a little of everything.
fn root() -> Vec<u8> {
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name);
    std::fs::create_dir_all(path("bin")).unwrap();
    std::fs::copy("/bin/busybox", path("bin/busybox")).unwrap();
    for name in ["sh", "ls", "true"] {
        std::os::unix::fs::symlink("busybox", path("bin").join(name)).unwrap();
    }
    std::fs::hard_link(path("bin/busybox"), path("bin/second")).unwrap();
    std::fs::create_dir_all(path("n".repeat(150).as_str())).unwrap();
    std::fs::write(path("secret"), "x").unwrap();
    run("chown", &["1234:4321", &path("secret").display().to_string()]);
    run("chmod", &["4750", &path("secret").display().to_string()]);
    let secret = std::fs::File::open(path("secret")).unwrap();
    fs::set_attribute(&secret, OsStr::new("user.note"), b"hello").unwrap();
    run("tar", &["-C", &host.path().display().to_string(), "--xattrs", "-c", "."]).stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn dockerd_and_we_read_each_other() {
    if !installed(&["dockerd", "/usr/bin/docker"]) {
        return;
    }
    let dockerd = Dockerd::start();
    let root = root();
    std::fs::write(dockerd.path("root.tar"), &root).unwrap();
    let file = dockerd.path("root.tar").display().to_string();
    // Of dockerd 20.10, by the clients of both versions; several layers by way of containers.
    dockerd.docker("/usr/bin/docker", &["import", "--change", "CMD [\"sh\"]", &file, "base:v1"]);
    let made = dockerd.docker("/usr/bin/docker", &["create", "--network=none", "base:v1", "true"]);
    run(
        "sh",
        &[
            "-c",
            &format!("tar -C /etc -c passwd | docker -H unix://{} cp - {made}:/bin", dockerd.path("socket").display()),
        ],
    );
    dockerd.docker("/usr/bin/docker", &["commit", "--change", "LABEL made=here", &made, "app:v2"]);
    dockerd.docker("/usr/bin/docker", &["rm", &made]);
    // Debian's client, and the one that comes first.
    for client in ["/usr/bin/docker", "docker"] {
        let saved = dockerd.path("saved.tar").display().to_string();
        dockerd.docker(client, &["save", "-o", &saved, "base:v1", "app:v2"]);
        let fixture = Fixture::new();
        let mut lines = fixture.load(&std::fs::read(&saved).unwrap()).await.unwrap();
        lines.sort();
        assert_eq!(lines, ["Loaded image: app:v2\n", "Loaded image: base:v1\n"]);
        for name in ["base:v1", "app:v2"] {
            let image = fixture.store.inspect(name).unwrap();
            let theirs = |format: &str| dockerd.docker(client, &["inspect", "--format", format, name]);
            assert_eq!(image.id, theirs("{{.Id}}"));
            assert_eq!(image.size.to_string(), theirs("{{.Size}}"), "{name}");
            assert_eq!(image.created, theirs("{{.Created}}"));
            assert_eq!(serde_json::to_string(&image.root_fs.layers).unwrap(), theirs("{{json .RootFS.Layers}}"));
            let history: Vec<_> = fixture.store.history(name).unwrap().iter().map(|item| item.size).collect();
            let theirs = dockerd.docker(client, &["history", "--human=false", "--format", "{{.Size}}", name]);
            assert_eq!(history, theirs.lines().map(|line| line.parse().unwrap()).collect::<Vec<i64>>());
        }
        // And back.
        let ids = [fixture.store.resolve("base:v1").unwrap().id, fixture.store.resolve("app:v2").unwrap().id];
        let ours = dockerd.path("ours.tar").display().to_string();
        std::fs::write(&ours, fixture.save(&["base:v1", "app:v2"]).await).unwrap();
        dockerd.docker(client, &["rmi", "base:v1", "app:v2"]);
        let loaded = dockerd.docker(client, &["load", "-i", &ours]);
        assert!(loaded.contains("Loaded image: base:v1") && loaded.contains("Loaded image: app:v2"), "{loaded}");
        for (name, id) in ["base:v1", "app:v2"].iter().zip(ids) {
            assert_eq!(dockerd.docker(client, &["inspect", "--format", "{{.Id}}", name]), id.to_string());
        }
    }
    // An import of the same tar has the same layer.
    let fixture = Fixture::new();
    fixture.import("base:v1", &root, &["CMD [\"sh\"]"]).await;
    assert_eq!(fixture.store.resolve("base:v1").unwrap().layers, [Digest::of(&root)]);
    let theirs = dockerd.docker("/usr/bin/docker", &["inspect", "--format", "{{index .RootFS.Layers 0}}", "base:v1"]);
    assert_eq!(Digest::of(&root).to_string(), theirs);
    let ours = dockerd.path("imported.tar").display().to_string();
    std::fs::write(&ours, fixture.save(&["base:v1"]).await).unwrap();
    dockerd.docker("/usr/bin/docker", &["load", "-i", &ours]);
    let output =
        dockerd.docker("/usr/bin/docker", &["run", "--rm", "--network=none", "base:v1", "/bin/ls", "-l", "/secret"]);
    assert!(output.contains("1234     4321"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_and_umoci_and_we_read_each_other() {
    if !installed(&["skopeo", "umoci"]) {
        return;
    }
    let host = tempfile::tempdir().unwrap();
    let path = |name: &str| host.path().join(name).display().to_string();
    let fixture = Fixture::new();
    let id = fixture.import("me/app:v1", &root(), &["CMD [\"sh\"]", "LABEL a=b"]).await;
    std::fs::write(path("ours.tar"), fixture.save(&["me/app:v1"]).await).unwrap();
    // As both kinds of archive.
    for source in ["docker-archive", "oci-archive"] {
        let from = format!("{source}:{}", path("ours.tar"));
        let to = format!("oci:{}:latest", path(source));
        run("skopeo", &["--insecure-policy", "copy", &from, &to]);
        let config = text(run("skopeo", &["inspect", "--config", "--raw", &to]));
        // From a Docker archive skopeo makes a configuration of its own.
        assert!(source == "docker-archive" || Digest::of(config.as_bytes()) == id, "{config}");
        let copied = Digest::of(config.as_bytes());
        // umoci unpacks it; then a layer of its own comes on top.
        run("umoci", &["unpack", "--image", &format!("{}:latest", path(source)), &path(&format!("{source}-bundle"))]);
        let bundle = host.path().join(format!("{source}-bundle"));
        assert!(bundle.join("rootfs/bin/second").exists());
        std::fs::write(bundle.join("rootfs/added"), "by umoci").unwrap();
        std::fs::remove_file(bundle.join("rootfs/secret")).unwrap();
        run("umoci", &["repack", "--image", &format!("{}:next", path(source)), &bundle.display().to_string()]);
        let layout = run("tar", &["-C", &path(source), "-c", "."]).stdout;
        let other = Fixture::new();
        let lines = other.load(&layout).await.unwrap();
        assert_eq!(lines.len(), 2, "both images of the layout: {lines:?}");
        let newest = lines.iter().find(|line| !line.contains(&copied.hex())).unwrap();
        let newest = newest.trim().trim_start_matches("Loaded image ID: ");
        let layers = other.store.resolve(newest).unwrap().layers.clone();
        assert_eq!(layers.len(), 2);
        let snapshots = other.store.snapshots();
        snapshots.prepare("c1", &layers, shoal_engine::snapshot::PrepareOptions::default()).unwrap();
        let root = snapshots.open_root("c1").unwrap();
        let read = |path: &str| std::io::read_to_string(root.directory().open_file(path.as_ref())?);
        assert_eq!(read("added").unwrap(), "by umoci");
        assert_eq!(read("secret").unwrap_err().kind(), std::io::ErrorKind::NotFound, "whited out");
        drop(root);
        // An archive of skopeo's with compressed layers and a name.
        let named = format!("oci-archive:{}:me/app:v3", path("named.tar"));
        run("skopeo", &["--insecure-policy", "copy", "--dest-compress-format", "zstd", &to, &named]);
        let other = Fixture::new();
        let lines = other.load(&std::fs::read(path("named.tar")).unwrap()).await.unwrap();
        assert_eq!(lines, ["Loaded image: me/app:v3\n"]);
        std::fs::remove_file(path("named.tar")).unwrap();
        let docker = format!("docker-archive:{}:me/app:v4", path("docker.tar"));
        run("skopeo", &["--insecure-policy", "copy", &to, &docker]);
        assert_eq!(
            other.load(&std::fs::read(path("docker.tar")).unwrap()).await.unwrap(),
            ["Loaded image: me/app:v4\n"]
        );
        std::fs::remove_file(path("docker.tar")).unwrap();
    }
}
