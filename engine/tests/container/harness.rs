//! Runs tests one after the other, each on an engine of its own, and checks that nothing is left.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use shoal_engine::container::{LogOptions, OutputKind, RemoveOptions, WaitCondition};
use shoal_engine::image::ImportRequest;
use shoal_engine::model::{ContainerConfig, ContainerInspect, CreateRequest, ExecCreate, ExecStart, HostConfig};
use shoal_engine::{Engine, EngineOptions};

use super::{attack, bench, chaos, cluster, fields, files, life, logging, neighbour, remap, restore, sessions};

type Test = fn(Host) -> Pin<Box<dyn Future<Output = Host>>>;

/// The limit of descriptors that this program began with; engines raise theirs.
pub(crate) static FIRST_LIMIT: std::sync::OnceLock<Option<u64>> = std::sync::OnceLock::new();

/// Longest time of one test.
const LONGEST: Duration = Duration::from_secs(90);

macro_rules! tests {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), (|host| Box::pin($module::$name(host))) as Test)),*]
    };
}

const TESTS: &[(&str, Test)] = tests![
    life::runs_and_exits,
    life::a_missing_program_is_told_as_docker_does,
    life::stop_asks_and_then_kills,
    life::a_restart_gives_a_new_process,
    life::pause_freezes,
    life::auto_remove_leaves_nothing,
    life::names_are_unique_and_can_change,
    life::memory_limit_kills,
    life::limits_can_be_updated,
    life::restart_policies_restart,
    life::mounts_are_there,
    life::secrets_are_in_memory,
    life::force_removes_the_running,
    life::images_are_mounted,
    life::links_lead_to_other_containers,
    life::devices_of_vendors_are_given,
    life::a_hook_that_never_ends_holds_up_nobody,
    life::parallel_starts,
    life::networks_connect,
    life::users_are_resolved,
    life::descriptors_are_limited_as_the_daemon_began,
    life::a_failed_start_leaves_nothing,
    life::init_is_the_first_process,
    life::prune_takes_the_stopped,
    fields::every_field_is_heard,
    logging::packed_files_are_read,
    logging::services_get_what_logs_shows,
    logging::the_journal_gets_messages_and_fields,
    logging::a_service_that_is_not_there_fails_the_start,
    sessions::execs_read_the_specification_once,
    sessions::attach_before_the_start,
    sessions::detach_keys_leave_it_running,
    sessions::terminals,
    sessions::exec_attached_and_detached,
    sessions::exec_failures,
    sessions::slow_readers_lose_nothing,
    sessions::health_turns,
    sessions::logs_follow_until_the_end,
    sessions::logs_rotate,
    sessions::stats_and_top,
    sessions::events_tell_the_story,
    sessions::inspect_has_dockers_shape,
    restore::running_containers_survive,
    restore::ends_while_away_are_known,
    restore::an_end_that_cannot_be_recorded_is_not_lost,
    restore::half_made_containers_are_removed,
    restore::policies_survive,
    restore::a_second_engine_is_refused,
    restore::a_lost_shim_is_noticed,
    restore::a_shim_that_does_not_answer_is_waited_for,
    restore::a_stopped_container_stays_stopped,
    restore::a_removal_that_was_begun_is_finished,
    files::archives_go_in_and_out,
    files::special_files_are_packed_and_not_opened,
    files::a_racing_container_never_leads_outside,
    files::links_that_stand_still_stay_inside,
    files::a_start_waits_for_who_looks_at_its_files,
    files::a_commit_is_an_image_of_what_changed,
    files::an_export_has_the_root_alone,
    attack::a_volume_at_the_end_of_a_link_has_nothing_of_the_host,
    attack::a_volume_that_is_filled_lends_no_hand,
    attack::other_users_of_the_host_reach_nothing,
    attack::helpers_of_an_image_are_never_run,
    attack::no_socket_of_the_engine_is_reached,
    attack::what_climbs_injects_or_overflows_does_not_start,
    remap::root_is_nobody_on_the_host,
    remap::files_on_disk_have_mapped_owners,
    remap::archives_have_the_containers_owners,
    remap::the_hosts_namespaces_need_the_hosts_users,
    remap::namespaces_are_shared_and_survive,
    neighbour::ports_lead_in_over_version_6,
    neighbour::what_is_published_on_loopback_is_for_this_host_alone,
    cluster::tables_follow_the_state,
    cluster::names_lead_to_services_and_neighbours,
    cluster::a_lost_place_is_known_and_left,
    chaos::killed_again_and_again,
    bench::run_and_remove,
];

/// An engine with its folders.
pub(crate) struct Host {
    pub(crate) engine: Engine,
    pub(crate) options: EngineOptions,
    pub(crate) folder: tempfile::TempDir,
}

pub(crate) fn options(folder: &Path, cgroup_parent: String) -> EngineOptions {
    EngineOptions {
        data_root: folder.join("data"),
        exec_root: folder.join("run"),
        cgroup_parent,
        hostname: "testhost".to_owned(),
        ..EngineOptions::default()
    }
}

impl Host {
    pub(crate) async fn open() -> Self {
        let folder = tempfile::Builder::new().prefix("shoal-container-").tempdir().expect("a folder");
        let options = options(folder.path(), format!("/shoal-test-{}", std::process::id()));
        let engine = Engine::open(options.clone()).await.expect("the engine opens");
        let request = ImportRequest { repository: "bb".to_owned(), ..ImportRequest::default() };
        let tar = Bytes::from(busybox());
        let source = futures::stream::iter([Ok(tar)]).boxed();
        engine.images().import(source, request).await.expect("the image is imported");
        Self { engine, options, folder }
    }

    /// The daemon goes, and comes again.
    pub(crate) async fn reopen(mut self) -> Self {
        self.engine.shutdown().await;
        self.engine = Engine::open(self.options.clone()).await.expect("the engine opens again");
        self
    }

    pub(crate) async fn create(&self, name: &str, command: &[&str], host_config: HostConfig) -> String {
        let name = (!name.is_empty()).then(|| name.to_owned());
        let request = request(command, host_config);
        self.engine.containers().create(name, request).await.expect("created").id
    }

    pub(crate) async fn start(&self, name: &str, command: &[&str]) -> String {
        let id = self.create(name, command, HostConfig::default()).await;
        self.engine.containers().start(&id).await.expect("started");
        id
    }

    /// Runs to the end; gives the exit status and what it printed.
    pub(crate) async fn run(&self, command: &[&str], host_config: HostConfig) -> (i64, String) {
        let id = self.create("", command, host_config).await;
        let ended = self.engine.containers().begin_wait(&id, WaitCondition::NextExit).expect("exists");
        self.engine.containers().start(&id).await.expect("started");
        let code = ended.await.status_code;
        (code, self.output(&id).await)
    }

    pub(crate) async fn output(&self, id: &str) -> String {
        self.output_of(id, None).await
    }

    pub(crate) async fn output_of(&self, id: &str, only: Option<OutputKind>) -> String {
        let frames: Vec<_> =
            self.engine.containers().logs(id, LogOptions::default()).await.expect("logs").collect().await;
        let mut text = String::new();
        for frame in frames {
            let frame = frame.expect("a frame");
            if only.is_none_or(|only| only == frame.output) {
                text.push_str(std::str::from_utf8(&frame.data).expect("text"));
            }
        }
        text
    }

    /// Executes a shell command in it; gives all that it printed.
    pub(crate) async fn exec(&self, id: &str, script: &str) -> String {
        let exec = ExecCreate {
            cmd: Some(["sh", "-c", script].map(str::to_owned).into()),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecCreate::default()
        };
        let exec = self.engine.containers().exec_create(id, exec).await.expect("an exec");
        let streams = self.engine.containers().exec_start(&exec, ExecStart::default()).await.expect("it starts");
        super::checks::read_all(streams.expect("attached").output).await
    }

    pub(crate) async fn inspect(&self, id: &str) -> ContainerInspect {
        self.engine.containers().inspect(id, false).await.expect("exists")
    }

    pub(crate) async fn status(&self, id: &str) -> String {
        self.inspect(id).await.state.status
    }

    /// Waits for a level, with a deadline.
    pub(crate) async fn until<F: AsyncFnMut() -> bool>(&self, what: &str, mut reached: F) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while !reached().await {
            assert!(tokio::time::Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) async fn until_status(&self, id: &str, status: &str) {
        self.until(&format!("{id} is {status}"), async || self.status(id).await == status).await;
    }

    pub(crate) fn cgroup_left(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        let parent = self.options.cgroup_parent.trim_start_matches('/');
        for controller in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
            let folder = controller.path().join(parent);
            left.extend(
                std::fs::read_dir(folder)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| path.is_dir()),
            );
        }
        left
    }
}

pub(crate) fn request(command: &[&str], host_config: HostConfig) -> CreateRequest {
    let mut host_config = host_config;
    if host_config.network_mode.is_empty() {
        // Most tests need no network.
        host_config.network_mode = "none".to_owned();
    }
    CreateRequest {
        config: ContainerConfig {
            image: "bb".to_owned(),
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            ..ContainerConfig::default()
        },
        host_config,
        ..CreateRequest::default()
    }
}

/// A root file system with busybox under its most used names.
pub(crate) fn busybox() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut add = |path: &str, mode: u32, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        archive.append_data(&mut header, path, data).expect("added");
    };
    add("bin/busybox", 0o755, &std::fs::read("/bin/busybox").expect("busybox is installed"));
    add("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n");
    add("etc/group", 0o644, b"root:x:0:\nann:x:1000:\nwheel:x:10:ann\n");
    add("srv/content", 0o644, b"from the image\n");
    for name in [
        "sh", "cat", "echo", "sleep", "true", "false", "id", "ls", "env", "dd", "kill", "mount", "hostname", "ping",
        "wget", "nc", "stty", "head", "tail", "grep", "wc", "seq", "touch", "stat", "trap", "httpd", "ip", "date",
        "mkdir", "rm",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        archive.append_link(&mut header, format!("bin/{name}"), "busybox").expect("added");
    }
    for folder in ["tmp", "proc", "sys", "dev", "root", "run", "home/ann"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(if folder == "tmp" { 0o1777 } else { 0o755 });
        header.set_cksum();
        archive.append_data(&mut header, folder, &[][..]).expect("added");
    }
    archive.into_inner().expect("written")
}

/// Runs the chosen tests.
pub(crate) fn run() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: the tests of containers need root; not one of {} was run", TESTS.len());
        return ExitCode::SUCCESS;
    }
    if std::env::var_os("SHOAL_TEST_NAMESPACE").is_none() {
        return enter_namespace();
    }
    if let Ok(level) = std::env::var("SHOAL_TEST_LOG") {
        let spans = tracing_subscriber::fmt::format::FmtSpan::CLOSE;
        let _set_before = tracing_subscriber::fmt()
            .with_span_events(spans)
            .with_ansi(false)
            .with_env_filter(level)
            .with_writer(std::io::stderr)
            .try_init();
    }
    FIRST_LIMIT.get_or_init(|| rustix::process::getrlimit(rustix::process::Resource::Nofile).current);
    let exact = words.iter().any(|word| word == "--exact");
    let filters: Vec<_> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| if exact { name == filter.as_str() } else { name.contains(filter.as_str()) })
    };
    let mut failed = Vec::new();
    let mut passed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let started = tokio::time::Instant::now();
        let outcome = std::panic::catch_unwind(|| one(*test));
        let took = started.elapsed().as_millis();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("test {name} ... ok ({took} ms)");
            }
            Err(_) => {
                end_what_is_left();
                println!("test {name} ... FAILED ({took} ms)");
                failed.push(*name);
            }
        }
    }
    println!("test result: {passed} passed; {} failed: {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs this program again in a network and mount namespace of its own.
#[expect(clippy::disallowed_methods, reason = "replaces this program by itself in new namespaces")]
fn enter_namespace() -> ExitCode {
    let program = std::env::current_exe().expect("this program");
    let error = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env("SHOAL_TEST_NAMESPACE", "1")
        .exec();
    println!("cannot make namespaces: {error}");
    ExitCode::FAILURE
}

/// After a failure: kills what the test's containers still run, so that the next test begins clean.
fn end_what_is_left() {
    let parent = format!("/shoal-test-{}", std::process::id());
    if let Ok(cgroup) = shoal_engine::cgroup::Cgroup::open(&parent) {
        cgroup.signal_all(9);
        let _busy = cgroup.remove();
    }
}

fn one(test: Test) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let before = links();
        let host = Host::open().await;
        let host = tokio::time::timeout(LONGEST, test(host)).await.expect("the test took too long");
        leave_nothing(host, &before).await;
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
}

fn links() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/self/net/dev").expect("links");
    text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim().to_owned()).collect()
}

/// Removes all containers and checks that nothing of them is left: folders, mounts, cgroups, links.
async fn leave_nothing(host: Host, links_before: &[String]) {
    let containers = host.engine.containers();
    let all = shoal_engine::container::ListOptions { all: true, ..Default::default() };
    for summary in containers.list(all.clone()).await.expect("list") {
        let options = RemoveOptions { force: true, volumes: true, link: false };
        containers.remove(&summary.id, options).await.expect("removed");
    }
    let mut left: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    loop {
        left.clear();
        for folder in ["shim", "exec", "netns", "files"] {
            let entries = std::fs::read_dir(host.options.exec_root.join(folder)).into_iter().flatten().flatten();
            let names: Vec<_> = entries.map(|entry| entry.path().display().to_string()).collect();
            if !names.is_empty() {
                left.insert(folder, names);
            }
        }
        for folder in ["containers", "image/snapshots"] {
            let entries = std::fs::read_dir(host.options.data_root.join(folder)).into_iter().flatten().flatten();
            let names: Vec<_> = entries
                .map(|entry| entry.path())
                .filter(|path| path.file_name().is_some_and(|name| name.len() >= 64))
                .map(|path| path.display().to_string())
                .collect();
            if !names.is_empty() {
                left.insert(folder, names);
            }
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let folder = host.folder.path().to_string_lossy().into_owned();
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect();
        if mounts.iter().any(|line| !line.contains("/netns")) {
            left.insert("mounts", mounts);
        }
        let cgroups: Vec<_> = host.cgroup_left().iter().map(|path| path.display().to_string()).collect();
        if !cgroups.is_empty() {
            left.insert("cgroups", cgroups);
        }
        if left.is_empty() || tokio::time::Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(left.is_empty(), "left behind: {left:#?}");
    host.engine.shutdown().await;
    host.engine.networks().controller().purge().await.expect("networks are purged");
    for controller in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let _missing = std::fs::remove_dir(controller.path().join(host.options.cgroup_parent.trim_start_matches('/')));
    }
    let after: Vec<_> = links().into_iter().filter(|link| !links_before.contains(link)).collect();
    assert!(after.is_empty(), "links left behind: {after:?}");
}
