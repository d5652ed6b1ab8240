//! The suite: fetched, built, listed and run.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;
use shoal_tests::command::{command, run, run_with_input};

use crate::images::REGISTRY;

/// Whose suite it is.
pub(crate) const CRATE: &str = "bollard";
/// Which one: another version has other tests.
pub(crate) const VERSION: &str = "0.21.0";
/// What cargo compiles in: what needs a daemon of one machine, and nothing from the internet. `buildkit` is left out because
/// images are not built here, `test_checkpoint` and `test_csi` because they need programs of others.
const FEATURES: &str = "chrono,test_websocket,test_swarm";
/// More than any test takes; one that waits for what does not come ends as well.
const LIMIT_S: &str = "120";

/// Where dockerd's socket is on every machine; some tests ask no further.
const HOME: &str = "unix:///var/run/docker.sock";
/// In a mount namespace of its own, puts the socket `$1` there, and becomes the rest of the words.
const AT_HOME: &str = r#"set -e; mount --rbind /run /mnt; mount -t tmpfs none /run; ln -s "/mnt/${1#/run/}" /run/docker.sock
shift; exec "$@""#;

/// Makes a package its own workspace: it lies below ours, to which cargo would take it to belong.
fn stand_alone(manifest: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(manifest)?;
    if !text.lines().any(|line| line.trim() == "[workspace]") {
        std::fs::write(manifest, format!("{text}\n[workspace]\n"))?;
    }
    Ok(())
}

/// A test of the suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    program: PathBuf,
    group: String,
    /// Its name within its group.
    pub(crate) name: String,
}

impl Test {
    /// Does it make the cluster itself?
    pub(crate) fn makes_a_cluster(&self) -> bool {
        self.group == "swarm_test"
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}::{}", self.group, self.name)
    }
}

/// The suite, built.
pub(crate) struct Suite {
    /// Each group of tests is a program.
    programs: Vec<(String, PathBuf)>,
}

impl Suite {
    /// Fetches and builds it, in a folder beside the tool.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let tool = std::env::current_exe()?;
        let folder = tool.parent().context("the tool is in no folder")?.join("clients");
        let source = fetch(&folder)?;
        stand_alone(&source.join("Cargo.toml"))?;
        println!("building the tests of {CRATE} {VERSION} in {}", folder.display());
        let mut build = command("cargo", &["test", "--no-run", "--locked", "--test", "*", "--features", FEATURES]);
        build.args(["--message-format", "json-render-diagnostics"]);
        build
            .current_dir(&source)
            .env("CARGO_TARGET_DIR", folder.join("target"))
            .stderr(std::process::Stdio::inherit());
        let output = build.output()?;
        ensure!(output.status.success(), "cargo cannot build the tests of {CRATE}");
        let programs: Vec<_> = String::from_utf8(output.stdout)?.lines().filter_map(program).collect();
        ensure!(!programs.is_empty(), "{CRATE} {VERSION} came without tests");
        Ok(Self { programs })
    }

    /// Its tests, in the order in which cargo would run them.
    pub(crate) fn tests(&self) -> anyhow::Result<Vec<Test>> {
        let mut tests = Vec::new();
        for (group, program) in &self.programs {
            let listed = |more: &[&str]| {
                run(&program.to_string_lossy(), &[&["--list", "--format", "terse"], more].concat())?.ok()
            };
            let (all, ignored) = (listed(&[])?, listed(&["--ignored"])?);
            // What the suite itself leaves out passes without being run.
            let counts = all.lines().filter(|line| ignored.lines().all(|other| other != *line));
            for name in counts.filter_map(|line| line.strip_suffix(": test")) {
                tests.push(Test { program: program.clone(), group: group.clone(), name: name.to_owned() });
            }
        }
        tests.sort_by(|a, b| (&a.group, &a.name).cmp(&(&b.group, &b.name)));
        Ok(tests)
    }

    /// Runs a test; what it said when it failed.
    pub(crate) fn run(&self, test: &Test, socket: &str) -> anyhow::Result<Result<(), String>> {
        let program = test.program.to_string_lossy();
        let socket = socket.trim_start_matches("unix://");
        let words = ["--mount", "sh", "-c", AT_HOME, "sh", socket, "timeout", LIMIT_S, &program];
        let mut suite = command("unshare", &words);
        suite.args(["--exact", &test.name, "--nocapture"]).env("RUST_BACKTRACE", "0");
        suite.env("DOCKER_HOST", HOME).env("REGISTRY_HTTP_ADDR", REGISTRY).env("REGISTRY_PASSWORD", "none");
        let said = run_with_input(suite, b"")?;
        // 124 is what `timeout` says.
        let late = if said.code == 124 { format!("did not end within {LIMIT_S} s\n") } else { String::new() };
        Ok(if said.code == 0 { Ok(()) } else { Err(format!("{late}{}{}", said.out, said.err)) })
    }
}

/// A test program that cargo built, from a line of what it says.
fn program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_test = message["target"]["kind"][0] == "test";
    let program = message["executable"].as_str().filter(|_| is_test)?;
    Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(program)))
}

/// The crate as it was published, in a folder of its own; cargo gets it and checks it.
fn fetch(folder: &Path) -> anyhow::Result<PathBuf> {
    let source = folder.join(format!("{CRATE}-{VERSION}"));
    if source.join("Cargo.toml").exists() {
        return Ok(source);
    }
    let wish = folder.join("wish");
    std::fs::create_dir_all(wish.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"wish\"\nversion = \"0.0.0\"\nedition = \"2021\"\n[dependencies]\n{CRATE} = \"={VERSION}\"\n[workspace]\n"
    );
    std::fs::write(wish.join("Cargo.toml"), manifest)?;
    std::fs::write(wish.join("src/lib.rs"), "")?;
    let manifest = wish.join("Cargo.toml");
    let manifest = manifest.to_string_lossy();
    let said = run("cargo", &["metadata", "--format-version", "1", "--manifest-path", &manifest])?;
    let known: Value = serde_json::from_str(&said.ok().context("cargo cannot get the crate")?)?;
    let packages = known["packages"].as_array().context("cargo knows of no packages")?;
    let package = packages.iter().find(|package| package["name"] == CRATE).context("cargo got other crates")?;
    let found = Path::new(package["manifest_path"].as_str().context("no path")?).parent().context("no folder")?;
    // Cargo's own copy is never built in. The rename says that the copy is whole.
    let copy = folder.join("copy");
    let _ = std::fs::remove_dir_all(&copy);
    run("cp", &["-r", &found.to_string_lossy(), &copy.to_string_lossy()])?.ok()?;
    ensure!(copy.join("tests").is_dir(), "{CRATE} {VERSION} is published without its tests");
    std::fs::rename(&copy, &source)?;
    Ok(source)
}
