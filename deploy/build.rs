//! Tells the program which commit it is built from, and when: read from the files of a git checkout, if it is one.
//!
//! Cargo runs this again when another commit is checked out. `SHOAL_GIT_COMMIT` and `SOURCE_DATE_EPOCH` say it for builds
//! from an archive, and for those that have to come out the same each time.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// As long as dockerd shows it.
const SHOWN: usize = 7;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SHOAL_GIT_COMMIT");
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let given = std::env::var("SHOAL_GIT_COMMIT").ok();
    let commit = given.or_else(|| commit_of(&git_folder()?)).unwrap_or_default();
    let commit = commit.get(..SHOWN).unwrap_or(&commit);
    println!("cargo::rustc-env=SHOAL_GIT_COMMIT={commit}");
    println!("cargo::rustc-env=SHOAL_BUILD_TIME={}", build_time().unwrap_or_default());
}

/// The folder of the checkout that this file is in, and no other.
fn git_folder() -> Option<PathBuf> {
    let sources = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?).parent()?.to_owned();
    let git = sources.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    // In a further work tree it is a file that leads to the folder.
    let text = std::fs::read_to_string(&git).ok()?;
    Some(sources.join(text.strip_prefix("gitdir:")?.trim()))
}

fn commit_of(git: &Path) -> Option<String> {
    let head = read(&git.join("HEAD"))?;
    let Some(name) = head.strip_prefix("ref:").map(str::trim) else { return is_commit(&head) };
    // With packed branches, a commit changes neither of the files read below; this one it does.
    let _watched = read(&git.join("logs/HEAD"));
    // Branches of a further work tree are in the first one's folder.
    let common = read(&git.join("commondir")).map_or_else(|| git.to_owned(), |folder| git.join(folder));
    if let Some(commit) = read(&common.join(name)) {
        return is_commit(&commit);
    }
    let packed = read(&common.join("packed-refs"))?;
    is_commit(packed.lines().find_map(|line| line.strip_suffix(name))?)
}

/// A file that is watched from now on. (Cargo takes one that is missing for changed, each time.)
fn read(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    println!("cargo::rerun-if-changed={}", path.display());
    Some(text.trim().to_owned())
}

fn is_commit(text: &str) -> Option<String> {
    let text = text.trim();
    (text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| text.to_owned())
}

/// Seconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this is when it is built")]
fn build_time() -> Option<u64> {
    let given = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.parse().ok());
    given.or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map(|passed| passed.as_secs()).ok())
}
