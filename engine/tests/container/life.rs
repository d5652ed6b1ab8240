//! The life of containers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use shoal_engine::container::{ListOptions, OutputKind, RemoveOptions, StopOptions, WaitCondition};
use shoal_engine::model::network::NetworkCreate;
use shoal_engine::model::{
    ContainerConfig, DeviceRequest, EndpointSettings, Filters, HostConfig, ImageOptions, InternalFile, InternalOptions,
    Mount, NetworkingConfig, RestartPolicy, UpdateRequest,
};
use shoal_proto::error::ErrorKind;

use super::harness::{Host, request};

fn host_config(change: impl FnOnce(&mut HostConfig)) -> HostConfig {
    let mut host = HostConfig::default();
    change(&mut host);
    host
}

pub(crate) async fn runs_and_exits(host: Host) -> Host {
    let id = host.create("first", &["sh", "-c", "echo out; echo err >&2; exit 3"], HostConfig::default()).await;
    assert_eq!(host.status(&id).await, "created");
    let containers = host.engine.containers();
    let ended = containers.begin_wait("first", WaitCondition::NextExit).unwrap();
    containers.start("first").await.unwrap();
    assert_eq!(ended.await.status_code, 3);
    host.until_status(&id, "exited").await;
    let inspected = host.inspect(&id).await;
    assert_eq!((inspected.state.exit_code, inspected.state.pid, inspected.state.running), (3, 0, false));
    assert_eq!((inspected.name.as_str(), inspected.path.as_str()), ("/first", "sh"));
    assert_eq!(host.output_of(&id, Some(OutputKind::Stdout)).await, "out\n");
    assert_eq!(host.output_of(&id, Some(OutputKind::Stderr)).await, "err\n");
    let failure = containers.start("nobody").await.unwrap_err();
    assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::NotFound, "No such container: nobody"));
    let (code, output) = host.run(&["sh", "-c", "hostname; echo $0 $HOME $PATH; id -u"], HostConfig::default()).await;
    assert_eq!(code, 0);
    assert!(output.contains("/root") && output.ends_with("0\n"), "{output}");
    host
}

pub(crate) async fn a_missing_program_is_told_as_docker_does(host: Host) -> Host {
    for (program, code, text) in
        [("nosuch", 127, "exec: \"nosuch\": executable file not found in $PATH"), ("/tmp", 126, "is a directory")]
    {
        let id = host.create("", &[program], HostConfig::default()).await;
        let failure = host.engine.containers().start(&id).await.unwrap_err();
        assert_eq!(failure.kind, ErrorKind::InvalidArgument, "{failure}");
        assert!(failure.message.contains(text), "{failure}");
        let waited = host.engine.containers().wait(&id, WaitCondition::NotRunning).await.unwrap();
        assert_eq!(waited.status_code, code);
        assert!(waited.error.is_some_and(|error| error.message == failure.message));
        let state = host.inspect(&id).await.state;
        assert_eq!((state.status.as_str(), state.exit_code), ("created", code));
        assert!(state.error.contains(text));
    }
    host
}

pub(crate) async fn stop_asks_and_then_kills(host: Host) -> Host {
    let containers = host.engine.containers();
    let polite = host.start("polite", &["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"]).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    containers.stop("polite", StopOptions::default()).await.unwrap();
    assert_eq!(host.inspect(&polite).await.state.exit_code, 7);
    let failure = containers.stop("polite", StopOptions::default()).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotModified);
    let deaf = host.start("deaf", &["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    let started = tokio::time::Instant::now();
    containers.stop("deaf", StopOptions { signal: None, timeout_s: Some(1) }).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(host.inspect(&deaf).await.state.exit_code, 137);
    let killed = host.start("killed", &["sleep", "100"]).await;
    containers.kill("killed", None).await.unwrap();
    assert_eq!(host.inspect(&killed).await.state.exit_code, 137);
    let failure = containers.kill("killed", None).await.unwrap_err();
    assert_eq!(failure.message, format!("cannot kill container: killed: container {killed} is not running"),);
    assert!(containers.kill("killed", Some("SIGNOPE")).await.is_err());
    host
}

pub(crate) async fn a_restart_gives_a_new_process(host: Host) -> Host {
    let id = host.start("again", &["sleep", "100"]).await;
    let before = host.inspect(&id).await.state.pid;
    let failure = host.engine.containers().start("again").await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::NotModified);
    let options = StopOptions { signal: Some("KILL".to_owned()), timeout_s: Some(5) };
    host.engine.containers().restart("again", options).await.unwrap();
    let state = host.inspect(&id).await.state;
    assert!(state.running && state.pid != before && state.pid > 0, "{state:?}");
    host
}

pub(crate) async fn pause_freezes(host: Host) -> Host {
    let containers = host.engine.containers();
    let id = host.start("p1", &["sh", "-c", "while :; do echo x; sleep 0.02; done"]).await;
    containers.pause("p1").await.unwrap();
    let state = host.inspect(&id).await.state;
    assert_eq!((state.status.as_str(), state.running, state.paused), ("paused", true, true));
    let before = host.output(&id).await.len();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(host.output(&id).await.len(), before);
    assert_eq!(containers.pause("p1").await.unwrap_err().message, format!("container {id} is already paused"));
    assert!(containers.start("p1").await.unwrap_err().message.contains("cannot start a paused container"));
    containers.unpause("p1").await.unwrap();
    host.until("it writes again", async || host.output(&id).await.len() > before).await;
    assert_eq!(containers.unpause("p1").await.unwrap_err().message, format!("container {id} is not paused"));
    // As in dockerd a signal gets through, and lets it go on.
    containers.pause("p1").await.unwrap();
    containers.kill("p1", Some("CONT")).await.unwrap();
    assert_eq!(host.status(&id).await, "running");
    assert_eq!(containers.kill("p2", Some("nope")).await.unwrap_err().kind, ErrorKind::InvalidArgument);
    let missing = containers.kill("p2", None).await.unwrap_err();
    assert_eq!(
        (missing.kind, missing.message.as_str()),
        (ErrorKind::NotFound, "cannot kill container: p2: No such container: p2")
    );
    containers.pause("p1").await.unwrap();
    containers.stop("p1", StopOptions { signal: None, timeout_s: Some(1) }).await.unwrap();
    host
}

pub(crate) async fn auto_remove_leaves_nothing(host: Host) -> Host {
    let options = host_config(|host| host.auto_remove = true);
    let id = host.create("gone", &["sh", "-c", "exit 5"], options).await;
    let removed = host.engine.containers().begin_wait(&id, WaitCondition::Removed).unwrap();
    host.engine.containers().start(&id).await.unwrap();
    assert_eq!(removed.await.status_code, 5);
    assert_eq!(host.engine.containers().inspect(&id, false).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(!host.options.data_root.join("containers").join(&id).exists());
    // Its name is free again.
    host.create("gone", &["true"], HostConfig::default()).await;
    host
}

pub(crate) async fn names_are_unique_and_can_change(host: Host) -> Host {
    let containers = host.engine.containers();
    let one = host.create("one", &["true"], HostConfig::default()).await;
    let failure =
        containers.create(Some("one".to_owned()), request(&["true"], HostConfig::default())).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Conflict);
    assert!(failure.message.starts_with("Conflict. The container name \"/one\" is already in use by container"));
    containers.rename("one", "two").await.unwrap();
    assert_eq!(host.inspect("two").await.id, one);
    assert_eq!(host.inspect(&one[..12]).await.name, "/two");
    assert!(containers.inspect("one", false).await.is_err());
    let random = host.create("", &["true"], HostConfig::default()).await;
    assert!(host.inspect(&random).await.name.contains('_'));
    let mut missing = request(&["true"], HostConfig::default());
    missing.config.image = "nosuch".to_owned();
    let failure = containers.create(None, missing).await.unwrap_err();
    assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::NotFound, "No such image: nosuch:latest"));
    let mut filters = ListOptions { all: true, ..ListOptions::default() };
    filters.filters = Filters::default().with("name", "^/two$");
    let listed = containers.list(filters).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].names[0].as_str(), listed[0].status.as_str()), ("/two", "Created"));
    host
}

pub(crate) async fn memory_limit_kills(host: Host) -> Host {
    let options = host_config(|host| {
        host.memory = 12 << 20;
        host.memory_swap = 12 << 20;
    });
    let id = host.create("hungry", &["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"], options).await;
    let ended = host.engine.containers().begin_wait(&id, WaitCondition::NextExit).unwrap();
    host.engine.containers().start(&id).await.unwrap();
    assert_eq!(ended.await.status_code, 137);
    host.until_status(&id, "exited").await;
    assert!(host.inspect(&id).await.state.oom_killed);
    host
}

pub(crate) async fn limits_can_be_updated(host: Host) -> Host {
    let options = host_config(|host| host.memory = 32 << 20);
    let id = host.create("limited", &["sleep", "100"], options).await;
    host.engine.containers().start(&id).await.unwrap();
    let limit = || {
        let folder = format!("/sys/fs/cgroup/memory{}/{id}/memory.limit_in_bytes", host.options.cgroup_parent);
        let folder = std::path::PathBuf::from(folder);
        let unified = format!("/sys/fs/cgroup{}/{id}/memory.max", host.options.cgroup_parent);
        let text = std::fs::read_to_string(folder).or_else(|_| std::fs::read_to_string(unified)).unwrap();
        text.trim().parse::<i64>().unwrap()
    };
    assert_eq!(limit(), 32 << 20);
    let update = UpdateRequest {
        memory: 48 << 20,
        restart_policy: RestartPolicy { name: "always".to_owned(), maximum_retry_count: 0 },
        ..UpdateRequest::default()
    };
    host.engine.containers().update(&id, update).await.unwrap();
    assert_eq!(limit(), 48 << 20);
    let inspected = host.inspect(&id).await;
    assert_eq!(inspected.host_config.memory, 48 << 20);
    assert_eq!(inspected.host_config.restart_policy.name, "always");
    let hierarchy = format!("/sys/fs/cgroup/memory{}/{id}/memory.swappiness", host.options.cgroup_parent);
    if std::path::Path::new(&hierarchy).exists() {
        let update = UpdateRequest { memory_swappiness: Some(17), ..UpdateRequest::default() };
        host.engine.containers().update(&id, update).await.unwrap();
        assert_eq!(std::fs::read_to_string(&hierarchy).unwrap().trim(), "17");
    }
    let update = UpdateRequest { pids_limit: Some(50), ..UpdateRequest::default() };
    host.engine.containers().update(&id, update).await.unwrap();
    let pids = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"]
        .map(|root| format!("{root}{}/{id}/pids.max", host.options.cgroup_parent))
        .into_iter()
        .find(|file| std::path::Path::new(file).exists());
    let pids = || std::fs::read_to_string(pids.as_ref().unwrap()).unwrap();
    assert_eq!(pids().trim(), "50");
    // As the API hands on what lifts a limit.
    let update = UpdateRequest { pids_limit: Some(0), ..UpdateRequest::default() };
    host.engine.containers().update(&id, update).await.unwrap();
    assert_eq!(pids().trim(), "max");
    let fixed = UpdateRequest { ulimits: Some(vec![serde_json::json!({"Name": "core"})]), ..UpdateRequest::default() };
    let failure = host.engine.containers().update(&id, fixed).await.unwrap_err();
    assert_eq!(failure.message, "Ulimits of a container cannot be updated: make a new one");
    let wrong = UpdateRequest { memory: 1 << 20, ..UpdateRequest::default() };
    assert!(host.engine.containers().update(&id, wrong).await.is_err());
    host
}

pub(crate) async fn restart_policies_restart(host: Host) -> Host {
    let containers = host.engine.containers();
    let twice = host_config(|host| {
        host.restart_policy = RestartPolicy { name: "on-failure".to_owned(), maximum_retry_count: 2 };
    });
    let id = host.create("failing", &["sh", "-c", "echo try; exit 1"], twice).await;
    containers.start(&id).await.unwrap();
    host.until("two restarts", async || {
        let inspected = host.inspect(&id).await;
        inspected.restart_count == 2 && inspected.state.status == "exited"
    })
    .await;
    assert_eq!(host.output(&id).await, "try\n".repeat(3));
    let always = host_config(|host| host.restart_policy.name = "always".to_owned());
    let id = host.create("always", &["sh", "-c", "exit 0"], always).await;
    containers.start(&id).await.unwrap();
    host.until("it came back", async || host.inspect(&id).await.restart_count >= 2).await;
    match containers.stop(&id, StopOptions::default()).await {
        Ok(()) => {}
        Err(failure) => assert_eq!(failure.kind, ErrorKind::NotModified, "{failure}"),
    }
    host.until("it stays down", async || {
        let before = host.inspect(&id).await;
        tokio::time::sleep(Duration::from_millis(600)).await;
        let after = host.inspect(&id).await;
        before.state.status == "exited" && before.restart_count == after.restart_count
    })
    .await;
    host
}

pub(crate) async fn mounts_are_there(host: Host) -> Host {
    let source = host.folder.path().join("shared");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("file"), "from the host\n").unwrap();
    let options = host_config(|host| {
        host.binds = Some(vec![
            format!("{}:/shared:ro", source.display()),
            "data:/srv".to_owned(),
            format!("{}/made:/made", source.display()),
        ]);
        host.tmpfs = Some(BTreeMap::from([("/scratch".to_owned(), "size=1m".to_owned())]));
    });
    let script = "cat /shared/file /srv/content; touch /shared/x && echo wrong; touch /made/y /scratch/z; \
                  mount | grep -q ' /scratch type tmpfs' && echo scratch; echo more >/srv/new";
    let (code, output) = host.run(&["sh", "-c", script], options.clone()).await;
    assert_eq!(code, 0);
    assert!(output.contains("from the host\nfrom the image\n") && output.contains("scratch"), "{output}");
    assert!(!output.contains("wrong"), "{output}");
    assert!(source.join("made/y").exists());
    let (_, output) = host.run(&["cat", "/srv/new"], options).await;
    assert_eq!(output, "more\n", "the volume keeps its data");
    let volumes = host.engine.volumes();
    assert_eq!(volumes.remove("data", false).await.unwrap_err().kind, ErrorKind::Conflict);
    let mut anonymous = request(&["true"], HostConfig::default());
    anonymous.config.volumes = Some([("/srv".to_owned(), Default::default())].into());
    let id = host.engine.containers().create(None, anonymous).await.unwrap().id;
    let name = host.inspect(&id).await.mounts[0].name.clone();
    assert_eq!(name.len(), 64);
    volumes.inspect(&name).await.unwrap();
    let options = RemoveOptions { volumes: true, ..RemoveOptions::default() };
    host.engine.containers().remove(&id, options).await.unwrap();
    assert!(volumes.inspect(&name).await.is_err());
    host
}

pub(crate) async fn secrets_are_in_memory(host: Host) -> Host {
    let mut wanted = request(
        &[
            "sh",
            "-c",
            "cat /run/secrets/key; stat -c '%a %u %g' /run/secrets/key; cat /etc/app.conf; touch /run/secrets/key || true",
        ],
        HostConfig::default(),
    );
    let file = |path: &str, data: &str| InternalFile {
        path: path.to_owned(),
        uid: 1000,
        gid: 1000,
        mode: 0o400,
        data: data.as_bytes().to_vec(),
    };
    wanted.internal = InternalOptions {
        files: vec![file("/run/secrets/key", "s3cret\n"), file("/etc/app.conf", "setting\n")],
        task: Some(shoal_proto::id::TaskId::from_bits(5)),
        ..InternalOptions::default()
    };
    let containers = host.engine.containers();
    let id = containers.create(None, wanted).await.unwrap().id;
    let record = std::fs::read_to_string(host.options.data_root.join("containers").join(&id).join("config.json"));
    assert!(!record.unwrap().contains("s3cret"), "a secret is on the disk");
    let ended = containers.begin_wait(&id, WaitCondition::NextExit).unwrap();
    containers.start(&id).await.unwrap();
    ended.await;
    assert!(host.output(&id).await.starts_with("s3cret\n400 1000 1000\nsetting\n"), "{}", host.output(&id).await);
    let tasks = host.engine.list_task_containers();
    assert_eq!((tasks.len(), tasks[0].id.as_str(), tasks[0].exit_code), (1, id.as_str(), Some(0)));
    host
}

pub(crate) async fn force_removes_the_running(host: Host) -> Host {
    let containers = host.engine.containers();
    let id = host.start("busy", &["sleep", "100"]).await;
    let failure = containers.remove("busy", RemoveOptions::default()).await.unwrap_err();
    assert_eq!(
        failure.message,
        "cannot remove container \"/busy\": container is running: stop the container before removing or force remove"
    );
    containers.remove("busy", RemoveOptions { force: true, ..RemoveOptions::default() }).await.unwrap();
    assert_eq!(containers.inspect(&id, false).await.unwrap_err().kind, ErrorKind::NotFound);
    host
}

pub(crate) async fn parallel_starts(host: Host) -> Host {
    let ids =
        futures::future::join_all((0..50).map(|_| host.create("", &["sleep", "100"], HostConfig::default()))).await;
    let started = tokio::time::Instant::now();
    let containers = host.engine.containers();
    let results = futures::future::join_all(ids.iter().map(|id| containers.start(id))).await;
    println!("    50 parallel starts took {} ms", started.elapsed().as_millis());
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(containers.list(ListOptions::default()).await.unwrap().len(), 50);
    let info = host.engine.info().await;
    assert_eq!((info.containers, info.containers_running), (50, 50));
    host
}

pub(crate) async fn networks_connect(host: Host) -> Host {
    let networks = host.engine.networks();
    let lan = NetworkCreate { name: "lan".to_owned(), ..NetworkCreate::default() };
    networks.create(lan).await.unwrap();
    let on = |name: &str| host_config(|host| host.network_mode = name.to_owned());
    let server =
        host.create("server", &["sh", "-c", "echo hello >/tmp/index.html; httpd -f -p 80 -h /tmp"], on("lan")).await;
    host.engine.containers().start(&server).await.unwrap();
    let inspected = host.inspect(&server).await;
    let endpoint = &inspected.network_settings.networks["lan"];
    assert!(!endpoint.ip_address.is_empty() && endpoint.ip_prefix_len > 0, "{endpoint:?}");
    let fetch = "for i in 1 2 3 4 5 6 7 8 9 10; do wget -q -O - http://server/ && exit 0; sleep 0.1; done; exit 1";
    let (code, output) = host.run(&["sh", "-c", fetch], on("lan")).await;
    assert_eq!((code, output.as_str()), (0, "hello\n"));
    let (_, output) = host.run(&["sh", "-c", "cat /etc/resolv.conf /etc/hosts"], on("lan")).await;
    assert!(output.contains("nameserver 127.0.0.11") && output.contains("127.0.0.1\tlocalhost"), "{output}");
    let failure = networks.remove("lan").await.unwrap_err();
    assert!(failure.message.contains("has active endpoints"), "{failure}");
    let second = host.create("second", &["sleep", "100"], on("bridge")).await;
    host.engine.containers().start(&second).await.unwrap();
    assert!(!host.inspect(&second).await.network_settings.ip_address.is_empty());
    let settings = EndpointSettings { aliases: Some(vec!["deuxieme".to_owned()]), ..EndpointSettings::default() };
    networks.connect("lan", "second", Some(settings)).await.unwrap();
    assert!(!host.inspect(&second).await.network_settings.networks["lan"].ip_address.is_empty());
    let (code, _) = host.run(&["ping", "-c", "1", "-W", "2", "deuxieme"], on("lan")).await;
    assert_eq!(code, 0);
    networks.disconnect("lan", "second", false).await.unwrap();
    assert!(!host.inspect(&second).await.network_settings.networks.contains_key("lan"));
    let missing = host.create("", &["true"], on("nosuch")).await;
    let failure = host.engine.containers().start(&missing).await.unwrap_err();
    assert!(failure.message.contains("network nosuch not found"), "{failure}");
    let shared = host.create("", &["wget", "-q", "-O", "-", "http://127.0.0.1/"], on("container:server")).await;
    let ended = host.engine.containers().begin_wait(&shared, WaitCondition::NextExit).unwrap();
    host.engine.containers().start(&shared).await.unwrap();
    assert_eq!(ended.await.status_code, 0);
    let mut both = request(&["ip", "-o", "addr"], on("lan"));
    let endpoints = |names: &[&str], settings: Option<EndpointSettings>| NetworkingConfig {
        endpoints_config: Some(names.iter().map(|name| ((*name).to_owned(), settings.clone())).collect()),
    };
    both.networking_config = endpoints(&["bridge", "lan"], Some(EndpointSettings::default()));
    let both = host.engine.containers().create(None, both).await.unwrap().id;
    let ended = host.engine.containers().begin_wait(&both, WaitCondition::NextExit).unwrap();
    host.engine.containers().start(&both).await.unwrap();
    ended.await;
    assert!(host.output(&both).await.contains("eth1"), "{}", host.output(&both).await);
    // As in dockerd: the mode counts only when no network is named otherwise, and an endpoint has settings.
    let mut other = request(&["true"], on("bridge"));
    let options = [("key1".to_owned(), "a".to_owned())].into();
    let settings = EndpointSettings { driver_opts: Some(options), ..EndpointSettings::default() };
    other.networking_config = endpoints(&["lan"], Some(settings));
    let other = host.engine.containers().create(None, other).await.unwrap().id;
    let networks = host.inspect(&other).await.network_settings.networks;
    assert_eq!(networks.keys().collect::<Vec<_>>(), ["lan"]);
    assert_eq!(networks["lan"].driver_opts.as_ref().unwrap()["key1"], "a");
    let mut bare = request(&["true"], on("bridge"));
    bare.networking_config = endpoints(&["lan"], None);
    let failure = host.engine.containers().create(None, bare).await.unwrap_err();
    assert_eq!(failure.message, "no EndpointSettings for lan");
    host
}

pub(crate) async fn users_are_resolved(host: Host) -> Host {
    let run = async |user: &str, groups: Option<Vec<String>>| {
        let mut wanted = request(&["sh", "-c", "id -u; id -g; id -G; echo $HOME"], HostConfig::default());
        wanted.config.user = user.to_owned();
        wanted.host_config.group_add = groups;
        let containers = host.engine.containers();
        let id = containers.create(None, wanted).await.unwrap().id;
        let ended = containers.begin_wait(&id, WaitCondition::NextExit).unwrap();
        containers.start(&id).await?;
        ended.await;
        Ok::<_, shoal_proto::error::Failure>(host.output(&id).await)
    };
    assert_eq!(run("ann", None).await.unwrap(), "1000\n1000\n1000 10\n/home/ann\n");
    assert_eq!(run("ann:10", Some(vec!["7".to_owned()])).await.unwrap(), "1000\n10\n10 7\n/home/ann\n");
    assert_eq!(run("77", None).await.unwrap(), "77\n0\n0\n/\n");
    let failure = run("bob", None).await.unwrap_err();
    assert_eq!(failure.message, "unable to find user bob: no matching entries in passwd file");
    host
}

pub(crate) async fn a_failed_start_leaves_nothing(host: Host) -> Host {
    let options = host_config(|host| {
        host.network_mode = "bridge".to_owned();
        host.devices = Some(vec![shoal_engine::model::DeviceMapping {
            path_on_host: "/dev/does-not-exist".to_owned(),
            ..Default::default()
        }]);
        host.binds = Some(vec!["keep:/keep".to_owned()]);
    });
    let id = host.create("broken", &["true"], options).await;
    let failure = host.engine.containers().start(&id).await.unwrap_err();
    assert!(failure.message.contains("/dev/does-not-exist"), "{failure}");
    for folder in ["shim", "netns"] {
        let left = std::fs::read_dir(host.options.exec_root.join(folder)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{folder} is not empty");
    }
    assert!(host.inspect(&id).await.network_settings.networks["bridge"].ip_address.is_empty());
    let auto = host_config(|host| host.auto_remove = true);
    let id = host.create("brokentoo", &["nosuch"], auto).await;
    assert!(host.engine.containers().start(&id).await.is_err());
    assert!(host.engine.containers().inspect(&id, false).await.is_err(), "it is removed as dockerd does");
    host
}

pub(crate) async fn init_is_the_first_process(host: Host) -> Host {
    let options = host_config(|host| host.init = Some(true));
    let (code, output) = host.run(&["sh", "-c", "echo $$ $PPID; exit 4"], options).await;
    assert_eq!(code, 4);
    assert!(output.trim_end().ends_with(" 1") && !output.starts_with("1 "), "{output}");
    host
}

pub(crate) async fn prune_takes_the_stopped(host: Host) -> Host {
    let running = host.start("running", &["sleep", "100"]).await;
    let labelled = {
        let mut wanted = request(&["true"], HostConfig::default());
        wanted.config = ContainerConfig { labels: [("keep".to_owned(), String::new())].into(), ..wanted.config };
        host.engine.containers().create(None, wanted).await.unwrap().id
    };
    let plain = host.create("", &["true"], HostConfig::default()).await;
    let report = host.engine.containers().prune(Filters::default().with("label!", "keep")).await.unwrap();
    assert_eq!(report.containers_deleted, Some(vec![plain]));
    let report = host.engine.containers().prune(Filters::default()).await.unwrap();
    assert_eq!(report.containers_deleted, Some(vec![labelled]));
    assert_eq!(host.status(&running).await, "running");
    host
}

pub(crate) async fn images_are_mounted(host: Host) -> Host {
    let image = |read_only: bool, subpath: &str| Mount {
        kind: "image".to_owned(),
        source: "bb".to_owned(),
        target: "/other".to_owned(),
        read_only,
        image_options: Some(ImageOptions { subpath: subpath.to_owned() }),
        ..Mount::default()
    };
    let with = |mount: Mount| host_config(|host| host.mounts = Some(vec![mount]));
    let script = "cat /other/srv/content; echo mine >/other/srv/content && cat /other/srv/content /srv/content";
    let (_, output) = host.run(&["sh", "-c", script], with(image(false, ""))).await;
    assert_eq!(output, "from the image\nmine\nfrom the image\n");
    let (_, output) =
        host.run(&["sh", "-c", "cat /other/content; touch /other/x 2>&1"], with(image(true, "srv"))).await;
    assert!(output.starts_with("from the image\n") && output.contains("Read-only"), "{output}");
    let (_, output) = host.run(&["cat", "/other"], with(image(true, "srv/content"))).await;
    assert_eq!(output, "from the image\n");
    let containers = host.engine.containers();
    for (source, subpath, text) in [("nosuch", "", "No such image"), ("bb", "../up", "relative path within the image")]
    {
        let mount = Mount { source: source.to_owned(), ..image(true, subpath) };
        let failure = containers.create(None, request(&["true"], with(mount))).await.unwrap_err();
        assert!(failure.message.contains(text), "{failure}");
    }
    let id = host.create("holder", &["sleep", "100"], with(image(true, ""))).await;
    assert_eq!(host.inspect(&id).await.mounts[0].kind, "image");
    let snapshots = || std::fs::read_dir(host.options.data_root.join("image/snapshots")).unwrap().flatten();
    let of_holder = || snapshots().filter(|entry| entry.file_name().to_string_lossy().starts_with(&id)).count();
    assert_eq!(of_holder(), 2);
    containers.remove(&id, RemoveOptions { force: true, ..RemoveOptions::default() }).await.unwrap();
    assert_eq!(of_holder(), 0);
    host
}

pub(crate) async fn links_lead_to_other_containers(host: Host) -> Host {
    let containers = host.engine.containers();
    let on = |network: &str, links: &[&str]| {
        host_config(|host| {
            host.network_mode = network.to_owned();
            host.links = Some(links.iter().map(|link| (*link).to_owned()).collect());
        })
    };
    // A fault of the request: of "not found" clients conclude that the image lacks.
    for host in [
        on("bridge", &["nosuch:x"]),
        host_config(|host| host.volumes_from = Some(vec!["nosuch".to_owned()])),
        host_config(|host| host.ipc_mode = "container:nosuch".to_owned()),
    ] {
        let refused = containers.create(None, request(&["true"], host)).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.message.ends_with("No such container: nosuch"), "{refused}");
    }
    let mut wanted = request(&["sleep", "100"], on("bridge", &[]));
    wanted.config.exposed_ports = Some([("80/tcp".to_owned(), Default::default())].into());
    containers.create(Some("server".to_owned()), wanted).await.unwrap();
    let script = "while true; do cat /etc/hosts; env; sleep 0.1; done";
    let user = host.create("user", &["sh", "-c", script], on("bridge", &["server:store"])).await;
    let failure = containers.start(&user).await.unwrap_err();
    assert_eq!(failure.message, "Cannot link to a non running container: /server AS /user/store");
    containers.start("server").await.unwrap();
    containers.start(&user).await.unwrap();
    let address = async || host.inspect("server").await.network_settings.ip_address;
    let first = address().await;
    let says = async |text: String| host.until(&text, async || host.output(&user).await.contains(&text)).await;
    says(format!("{first}\tstore ")).await;
    says(format!("STORE_PORT_80_TCP=tcp://{first}:80")).await;
    // Another takes the address, so the server comes back with a new one.
    containers.stop("server", StopOptions { timeout_s: Some(0), ..StopOptions::default() }).await.unwrap();
    let other = host.create("", &["sleep", "100"], on("bridge", &[])).await;
    containers.start(&other).await.unwrap();
    containers.start("server").await.unwrap();
    let second = address().await;
    assert_ne!(first, second);
    says(format!("{second}\tstore ")).await;
    let unlink = RemoveOptions { link: true, ..RemoveOptions::default() };
    let refused = containers.remove("user/shop", unlink).await.unwrap_err();
    assert_eq!(refused.message, "No such container: user/shop");
    let refused = containers.remove("server", unlink).await.unwrap_err();
    assert_eq!(refused.message, "Conflict, cannot remove the default link name of the container");
    containers.remove("/user/store", unlink).await.unwrap();
    assert_eq!((host.inspect(&user).await.host_config.links, host.status("server").await.as_str()), (None, "running"));
    assert!(!host.exec(&user, "cat /etc/hosts").await.contains("store"));
    let lan = NetworkCreate { name: "lan".to_owned(), ..NetworkCreate::default() };
    host.engine.networks().create(lan).await.unwrap();
    let third = host.create("third", &["sleep", "100"], on("lan", &[])).await;
    containers.start(&third).await.unwrap();
    let (code, output) = host.run(&["ping", "-c", "1", "-W", "2", "shop"], on("lan", &["third:shop"])).await;
    assert_eq!(code, 0, "{output}");
    host
}

pub(crate) async fn devices_of_vendors_are_given(host: Host) -> Host {
    let folder = host.folder.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let mut host = host;
    host.options.containers.cdi_folders = vec![folder.clone()];
    let host = host.reopen().await;
    let seen = host.folder.path().join("seen");
    let document = format!(
        "cdiVersion: 0.6.0\nkind: example.com/toy\ndevices:\n- name: one\n  containerEdits:\n    env: [TOY=1]\n    \
         deviceNodes: [{{path: /dev/toy, hostPath: /dev/null}}]\n    mounts: [{{hostPath: {}, containerPath: /toy, options: [ro]}}]\n    \
         hooks: [{{hookName: createContainer, path: /bin/sh, args: [sh, -c, 'cat >{}']}}]\n- name: bad\n  containerEdits:\n    \
         hooks: [{{hookName: createContainer, path: /bin/sh, args: [sh, -c, 'echo no luck; exit 3']}}]\n",
        host.folder.path().display(),
        seen.display(),
    );
    std::fs::write(folder.join("toy.yaml"), document).unwrap();
    let toy = |name: &str| {
        let ids = Some(vec![format!("example.com/toy={name}")]);
        let request = DeviceRequest { driver: "cdi".to_owned(), device_ids: ids, ..DeviceRequest::default() };
        host_config(|host| host.device_requests = Some(vec![request]))
    };
    let script = "echo $TOY; echo x >/dev/toy && echo written; mount | grep ' /toy '; touch /toy/x 2>&1";
    let (_, output) = host.run(&["sh", "-c", script], toy("one")).await;
    assert!(
        output.starts_with("1\nwritten\n") && output.contains(" /toy ") && output.contains("Read-only"),
        "{output}"
    );
    let state = std::fs::read_to_string(&seen).unwrap();
    assert!(state.contains("\"status\":\"creating\"") && state.contains("\"bundle\":"), "{state}");
    let containers = host.engine.containers();
    for (name, text) in [("bad", "no luck"), ("two", "unresolvable CDI devices example.com/toy=two")] {
        let id = host.create("", &["true"], toy(name)).await;
        let failure = containers.start(&id).await.unwrap_err();
        assert!(failure.message.contains(text), "{failure}");
    }
    host
}

pub(crate) async fn a_hook_that_never_ends_holds_up_nobody(host: Host) -> Host {
    let folder = host.folder.path().join("cdi");
    std::fs::create_dir(&folder).unwrap();
    let mut host = host;
    host.options.containers.cdi_folders = vec![folder.clone()];
    let host = host.reopen().await;
    let begun = host.folder.path().join("begun");
    let device = |kind: &str| {
        let script = format!("touch {}; sleep 100000 & wait", begun.display());
        format!(
            "- name: {kind}\n  containerEdits:\n    hooks: [{{hookName: {kind}, path: /bin/sh, args: [sh, -c, '{script}']}}]\n"
        )
    };
    let devices: String = ["createRuntime", "poststart", "poststop"].map(device).concat();
    std::fs::write(folder.join("toy.yaml"), format!("cdiVersion: 0.6.0\nkind: example.com/toy\ndevices:\n{devices}"))
        .unwrap();
    let with = |kind: &str| {
        let ids = Some(vec![format!("example.com/toy={kind}")]);
        let request = DeviceRequest { driver: "cdi".to_owned(), device_ids: ids, ..DeviceRequest::default() };
        host_config(|host| host.device_requests = Some(vec![request]))
    };
    let containers = host.engine.containers();
    let force = RemoveOptions { force: true, ..RemoveOptions::default() };
    let patience = StopOptions { timeout_s: Some(1), ..StopOptions::default() };
    for kind in ["createRuntime", "poststart"] {
        for verb in ["kill", "stop", "remove"] {
            let id = host.create("", &["sleep", "100"], with(kind)).await;
            let unwanted = async {
                host.until("the hook runs", async || begun.exists()).await;
                match verb {
                    "kill" => containers.kill(&id, None).await,
                    "stop" => containers.stop(&id, patience.clone()).await,
                    _ => containers.remove(&id, force).await,
                }
            };
            let (started, ended) = tokio::join!(containers.start(&id), unwanted);
            assert_eq!(ended, Ok(()), "{kind} {verb}");
            let failure = started.unwrap_err();
            assert!(failure.message.contains("given up"), "{kind} {verb}: {failure}");
            std::fs::remove_file(&begun).unwrap();
            if verb != "remove" {
                assert_eq!(host.status(&id).await, "created", "{kind} {verb}");
                containers.remove(&id, RemoveOptions::default()).await.unwrap();
            }
        }
    }
    for verb in ["kill", "stop", "remove"] {
        let id = host.create("", &["sleep", "100"], with("poststop")).await;
        containers.start(&id).await.unwrap();
        let ended = match verb {
            "kill" => containers.kill(&id, None).await,
            "stop" => containers.stop(&id, patience.clone()).await,
            _ => containers.remove(&id, force).await,
        };
        assert_eq!(ended, Ok(()), "{verb}");
        std::fs::remove_file(&begun).unwrap();
        if verb != "remove" {
            containers.remove(&id, RemoveOptions::default()).await.unwrap();
        }
    }
    assert_eq!(host.cgroup_left(), Vec::<PathBuf>::new());
    host
}

pub(crate) async fn descriptors_are_limited_as_the_daemon_began(host: Host) -> Host {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert_eq!(limit.current, limit.maximum, "the daemon's own limit is raised");
    let first = super::harness::FIRST_LIMIT.get().unwrap().map_or("unlimited".to_owned(), |first| first.to_string());
    let (_, output) = host.run(&["sh", "-c", "ulimit -n"], HostConfig::default()).await;
    assert_eq!(output.trim(), first);
    host
}
