//! Attacks on the way from an image to a running container, one for each kind of hole that container runtimes had.
//!
//! An attack looks at what happened on the host, not at what was said about it, and has a control: a run in which the same
//! attack works, because the protection is off or because somebody does by path what a runtime must not, so that a test that
//! sees nothing is known to have eyes. runc goes through the same attacks; where the installed one is open to them, that is
//! told as one more control and is no failure.
//!
//! | CVE | test |
//! |---|---|
//! | 2019-5736 | `process::whoever_comes_in_cannot_be_changed`, `isolation::the_program_of_the_shim_cannot_be_changed` |
//! | 2019-16884, 2023-28642 | `image::nothing_gets_into_proc_over_a_link` |
//! | 2019-19921, 2023-27561 | `image::a_link_in_the_place_of_proc_or_sys_is_refused` |
//! | 2021-30465, 2024-45310 | `race::a_mount_point_makes_nothing_outside` |
//! | 2022-0492, 2023-25809 | `kernel::cgroups_cannot_be_written` |
//! | 2022-0811 | `isolation::sysctls_stay_in_their_namespace` |
//! | 2022-24769, 2022-29162, 2022-36109, 2023-25173 | `process::an_exec_has_what_its_user_has` |
//! | 2024-21626 | `process::descriptors_lead_nowhere`, `isolation::the_working_directory_is_inside` |
//! | 2025-31133 | `image::a_mask_needs_a_true_null_device` |
//! | 2025-52565 | `race::the_console_is_a_terminal` |
//! | 2025-52881 | `race::proc_redirects_no_write` |
//! | 2026-31431 | `kernel::calls_that_lead_out_are_refused` |
//! | 2026-41579 | `image::a_link_in_the_place_of_dev_stays_inside` |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use shoal_engine::runtime::spec::{MountInput, MountKind, SpecInput};

use super::sandbox::{Backend, Sandbox, assert_gone};

pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod process;
pub(crate) mod race;

/// What the host has, and no container may ever see or change.
pub(crate) const SECRET: &str = "the host's secret";

/// A folder of the host that attacks want to reach.
pub(crate) struct Outside {
    pub(crate) path: PathBuf,
}

impl Outside {
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        let path = sandbox.dir.path().join("outside");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("secret"), SECRET).unwrap();
        Self { path }
    }

    /// Ways to write where it is, for the text of a link.
    pub(crate) fn links(&self) -> [String; 2] {
        let path = self.path.display();
        [format!("{path}"), format!("../../../../../../../../../../../..{path}")]
    }

    /// Makes it as it was.
    pub(crate) fn restore(&self) {
        fs::remove_dir_all(&self.path).unwrap();
        fs::create_dir(&self.path).unwrap();
        fs::write(self.path.join("secret"), SECRET).unwrap();
    }

    /// Has nobody made, changed or mounted anything there?
    pub(crate) fn is_untouched(&self) -> bool {
        let names: Vec<_> = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        names == ["secret"]
            && fs::read_to_string(self.path.join("secret")).unwrap() == SECRET
            && !mounts.contains(&*self.path.to_string_lossy())
    }
}

/// Exchanges two names without a pause, as a container does that shares a volume with the one that starts.
pub(crate) struct Racer {
    stop: Arc<AtomicBool>,
    swaps: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Racer {
    pub(crate) fn start(one: PathBuf, other: PathBuf) -> Self {
        let (stop, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { stop, swaps, thread: Some(thread) }
    }

    pub(crate) fn swaps(&self) -> u64 {
        self.swaps.load(Ordering::Relaxed)
    }
}

impl Drop for Racer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Does, while a racer works, again and again what is naive, until it has had the effect that an attacker wants.
pub(crate) fn control(what: &str, mut naive: impl FnMut() -> bool) {
    for _ in 0..100_000 {
        if naive() {
            return;
        }
    }
    panic!("the control of this attack never worked: {what}");
}

/// runc is open to an attack, or it is not: what it is decides nothing here.
pub(crate) fn tell(backend: Backend, what: &str, fired: bool) {
    if backend == Backend::Runc {
        println!(
            "  control on runc, {what}: {}",
            if fired { "it works there" } else { "it does not work there either" }
        );
    }
}

/// A bind mount.
pub(crate) fn bind(source: &Path, destination: &str) -> MountInput {
    let kind = MountKind::Bind {
        source: source.to_owned(),
        recursive: true,
        propagation: None,
        read_only_non_recursive: false,
    };
    MountInput { destination: destination.into(), read_only: false, kind }
}

/// Runs a container that may be refused. What it printed, or why it was refused.
pub(crate) fn attempt(sandbox: &Sandbox, input: &SpecInput) -> Result<String, String> {
    let running = match sandbox.create(input) {
        Ok(running) => running,
        Err(error) => {
            assert_gone(&input.cgroup);
            return Err(error.to_string());
        }
    };
    let outcome = sandbox.wait_for(async {
        // Its process may be dead by now.
        let attachment = running.shim.attach(Default::default()).await?;
        let started = running.shim.start().await;
        let outcome = super::sandbox::read_all(attachment.output).await;
        started.map(|()| outcome)
    });
    assert_gone(&input.cgroup);
    outcome.map(|outcome| outcome.stdout).map_err(|error| error.to_string())
}

/// A shell script as the container's program.
pub(crate) fn script(sandbox: &Sandbox, text: &str, change: impl FnOnce(&mut SpecInput)) -> SpecInput {
    let mut input = sandbox.input(&["sh", "-c", text]);
    change(&mut input);
    input
}

/// Compiles a hostile program into the root file system.
#[expect(clippy::disallowed_methods, reason = "a compiler has to be run")]
pub(crate) fn compile(sandbox: &Sandbox, source: &str, name: &str) {
    let file = sandbox.dir.path().join("hostile.c");
    fs::write(&file, source).unwrap();
    let program = sandbox.rootfs().join("bin").join(name);
    let mut gcc = std::process::Command::new("gcc");
    gcc.args(["-static", "-O1", "-Wall", "-Werror", "-o"]).arg(&program).arg(&file);
    let done = gcc.output().expect("gcc is installed");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
