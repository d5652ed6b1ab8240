//! Stand-ins for the images that the suite wants of its registry: a static busybox each, and the files that its tests look
//! at.
//!
//! ## Design notes
//! Here they are loaded, not pulled: a pull of an image that is there succeeds. dockerd asks the registry all the same, so
//! that the peer gets one, which serves the same images.

use std::io::Write;
use std::process::Child;

use anyhow::Context;
use shoal_tests::command::{command, run_with_input};
use shoal_tests::image::entry;
use shoal_tests::lab::{Lab, binary};
use shoal_tests::wait;

use crate::HOST;

/// Where the suite looks for its images.
pub(crate) const REGISTRY: &str = "localhost:5000";

struct StandIn {
    name: &'static str,
    command: &'static str,
    /// Programs and texts besides busybox: path, mode, contents.
    files: &'static [(&'static str, u32, &'static str)],
}

const STAND_INS: [StandIn; 3] = [
    StandIn {
        name: "hello-world:linux",
        command: r#"CMD ["/hello"]"#,
        files: &[("hello", 0o755, "#!/bin/sh\necho\necho 'Hello from Docker!'\n")],
    },
    StandIn { name: "alpine:latest", command: r#"CMD ["/bin/sh"]"#, files: &[] },
    StandIn {
        name: "fussybeaver/uhttpd:latest",
        command: r#"CMD ["/usr/sbin/run_uhttpd", "-f", "-p", "80", "-h", "/www"]"#,
        files: &[
            ("usr/sbin/run_uhttpd", 0o755, "#!/bin/sh\nexec /bin/busybox httpd \"$@\"\n"),
            ("etc/config/uhttpd", 0o644, "\nconfig uhttpd main\n"),
        ],
    },
];

impl StandIn {
    fn name(&self) -> String {
        format!("{REGISTRY}/{}", self.name)
    }

    fn root(&self) -> anyhow::Result<Vec<u8>> {
        let mut tar = shoal_tests::image::busybox()?;
        // The two blocks of zeros that end an archive: entries follow.
        tar.truncate(tar.len() - 1024);
        for folder in ["usr/", "usr/sbin/", "etc/config/"] {
            entry(&mut tar, folder, b'5', 0o755, "", &[])?;
        }
        entry(&mut tar, "bin/printf", b'2', 0o777, "busybox", &[])?;
        for (path, mode, text) in self.files {
            entry(&mut tar, path, b'0', *mode, "", text.as_bytes())?;
        }
        tar.write_all(&[0; 1024])?;
        Ok(tar)
    }
}

/// The image that most tests pull.
pub(crate) fn hello() -> String {
    STAND_INS[0].name()
}

/// Makes the images that are not there.
pub(crate) fn make(lab: &Lab) -> anyhow::Result<()> {
    for image in &STAND_INS {
        let name = image.name();
        if lab.docker(HOST, &["image", "inspect", &name])?.code == 0 {
            continue;
        }
        let import = lab.docker_command(HOST, &["import", "--change", image.command, "-", &name]);
        run_with_input(import, &image.root()?)?.ok().with_context(|| format!("import of {name}"))?;
    }
    Ok(())
}

/// Removes what a test left behind, so that it is of no consequence for the next one.
pub(crate) fn clear(lab: &Lab) -> anyhow::Result<()> {
    for (list, remove) in [("service ls -q", "service rm"), ("ps -aq", "rm -f -v")] {
        let ids = lab.docker(HOST, &list.split(' ').collect::<Vec<_>>())?.out;
        if !ids.trim().is_empty() {
            let ids = ids.split_whitespace();
            // What ends by itself in between is no failure.
            lab.docker(HOST, &remove.split(' ').chain(ids).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

/// A registry on the host; it ends with this.
pub(crate) struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a registry on the host and fills it.
pub(crate) fn serve(lab: &Lab) -> anyhow::Result<Registry> {
    let folder = lab.dir();
    let config = format!("{folder}/registry.yml");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\nhttp: {{addr: '{REGISTRY}'}}\n"
    );
    std::fs::write(&config, text)?;
    let serve = format!("exec docker-registry serve {config} >{folder}/registry.log 2>&1");
    // Each of these programs becomes the next.
    let words = ["lab", "run", "--name", &lab.name, HOST, "--", "sh", "-c", &serve];
    let registry = Registry(command(&binary(), &words).spawn()?);
    wait::until(30, "the registry answers", || {
        lab.on(HOST, &["curl", "-sf", &format!("http://{REGISTRY}/v2/")])?.ok().map(drop)
    })?;
    for image in &STAND_INS {
        lab.ok(HOST, &format!("push {}", image.name()))?;
    }
    Ok(registry)
}
