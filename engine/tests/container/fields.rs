//! Every field of a creation: it takes effect, or is refused in words. A field that is in no case fails the test.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use shoal_engine::container::WaitCondition;
use shoal_engine::model::{ContainerConfig, CreateRequest, EndpointSettings, HostConfig};

use super::harness::Host;

/// Fields of the container's own configuration, as the API names them.
const CONFIG: &str = "Hostname Domainname User AttachStdin AttachStdout AttachStderr ExposedPorts Tty OpenStdin StdinOnce Env \
    Cmd Healthcheck ArgsEscaped Image Volumes WorkingDir Entrypoint NetworkDisabled MacAddress OnBuild Labels StopSignal \
    StopTimeout Shell";
/// Fields of the host's configuration, resources included.
const HOST: &str = "Binds ContainerIDFile LogConfig NetworkMode PortBindings RestartPolicy AutoRemove VolumeDriver VolumesFrom \
    Mounts ConsoleSize Annotations CapAdd CapDrop CgroupnsMode Dns DnsOptions DnsSearch ExtraHosts GroupAdd IpcMode Cgroup Links \
    OomScoreAdj PidMode Privileged PublishAllPorts ReadonlyRootfs SecurityOpt StorageOpt Tmpfs UTSMode UsernsMode ShmSize Sysctls \
    Runtime Isolation MaskedPaths ReadonlyPaths CpuShares Memory CgroupParent BlkioWeight BlkioWeightDevice BlkioDeviceReadBps \
    BlkioDeviceWriteBps BlkioDeviceReadIOps BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime \
    CpusetCpus CpusetMems Devices DeviceCgroupRules DeviceRequests KernelMemory KernelMemoryTCP MemoryReservation MemorySwap \
    MemorySwappiness NanoCpus OomKillDisable Init PidsLimit Ulimits CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth";
/// Fields of an endpoint that a client may set. The others tell what a container has got.
const ENDPOINT: &str = "IPAMConfig Links MacAddress Aliases DriverOpts GwPriority";

/// What a value has to lead to.
enum Expect {
    /// This script prints a line with this in it.
    Prints(&'static str, &'static str),
    /// The same, or the start fails with this in its message: it depends on the kernel.
    PrintsOrFails(&'static str, &'static str, &'static str),
    /// `inspect` shows this value at this place: it is for the client, or for later.
    Shows(&'static str, Value),
    /// The creation, or the start, fails with this in its message.
    Refused(&'static str),
    /// The creation warns with this in its words.
    Warns(&'static str),
    /// What it expects, unless the creation warns that this kernel has no such limit.
    OrDiscarded(&'static str, Box<Expect>),
}
use Expect::{OrDiscarded, Prints, PrintsOrFails, Refused, Shows, Warns};

impl Expect {
    /// What it is where the kernel has the limit.
    fn with_limit(&self) -> &Self {
        match self {
            OrDiscarded(_, expect) => expect,
            expect => expect,
        }
    }
}

fn or_discarded(warning: &'static str, expect: Expect) -> Expect {
    OrDiscarded(warning, Box::new(expect))
}

struct Case {
    section: &'static str,
    field: &'static str,
    value: Value,
    /// More of `HostConfig`.
    with: Value,
    expect: Expect,
}

fn case(section: &'static str, field: &'static str, value: Value, expect: Expect) -> Case {
    Case { section, field, value, with: json!({}), expect }
}

fn host(field: &'static str, value: Value, expect: Expect) -> Case {
    case("host", field, value, expect)
}

fn config(field: &'static str, value: Value, expect: Expect) -> Case {
    case("config", field, value, expect)
}

/// On the network `lan`.
fn endpoint(field: &'static str, value: Value, expect: Expect) -> Case {
    Case { with: json!({"NetworkMode": "lan"}), ..case("endpoint", field, value, expect) }
}

fn config_cases() -> Vec<Case> {
    vec![
        config("Hostname", json!("box"), Prints("hostname; cat /etc/hosts", "box")),
        config("Domainname", json!("example"), Prints("cat /proc/sys/kernel/domainname", "example")),
        config("User", json!("ann"), Prints("id -un", "ann")),
        config("AttachStdin", json!(true), Shows("/Config/AttachStdin", json!(true))),
        config("AttachStdout", json!(true), Shows("/Config/AttachStdout", json!(true))),
        config("AttachStderr", json!(true), Shows("/Config/AttachStderr", json!(true))),
        config("ExposedPorts", json!({"80/tcp": {}}), Shows("/Config/ExposedPorts", json!({"80/tcp": {}}))),
        config("ExposedPorts", json!({"80/icmp": {}}), Refused("invalid port")),
        config("Tty", json!(true), Prints("ls /proc/self/fd/1 && stty size && echo terminal", "terminal")),
        config("OpenStdin", json!(true), Shows("/Config/OpenStdin", json!(true))),
        config("StdinOnce", json!(true), Shows("/Config/StdinOnce", json!(true))),
        config("Env", json!(["COLOUR=red"]), Prints("echo $COLOUR", "red")),
        config("Env", json!(["=red"]), Refused("invalid environment variable")),
        config("Cmd", json!(["echo", "words"]), Prints("", "words")),
        config("Healthcheck", json!({"Test": ["CMD", "true"]}), Shows("/State/Health/Status", json!("starting"))),
        config("Healthcheck", json!({"Test": ["NEVER"]}), Refused("Unknown healthcheck type")),
        config("ArgsEscaped", json!(true), Shows("/Config/ArgsEscaped", json!(true))),
        config("Image", json!("nosuch"), Refused("No such image")),
        config("Volumes", json!({"/data": {}}), Prints("mount", " /data ")),
        config("Volumes", json!({"data": {}}), Refused("must be absolute")),
        config("WorkingDir", json!("/tmp"), Prints("pwd", "/tmp")),
        config("Entrypoint", json!(["echo", "entry"]), Prints("", "entry")),
        config("NetworkDisabled", json!(true), Prints("ip -o link | wc -l", "1")),
        config("MacAddress", json!("xx"), Refused("invalid MAC address")),
        config("OnBuild", json!(["RUN x"]), Shows("/Config/OnBuild", json!(["RUN x"]))),
        config("Labels", json!({"a": "b"}), Shows("/Config/Labels/a", json!("b"))),
        config("StopSignal", json!("SIGNOPE"), Refused("nvalid signal")),
        config("StopTimeout", json!(3), Shows("/Config/StopTimeout", json!(3))),
        config("Shell", json!(["/bin/sh"]), Shows("/Config/Shell", json!(["/bin/sh"]))),
    ]
}

fn mount_and_network_cases() -> Vec<Case> {
    let on_bridge = |case: Case| Case { with: json!({"NetworkMode": "bridge"}), ..case };
    vec![
        host("Binds", json!(["/proc/version:/version:ro"]), Prints("mount", " /version ")),
        host("ContainerIDFile", json!("/x"), Shows("/HostConfig/ContainerIDFile", json!("/x"))),
        host("LogConfig", json!({"Type": "nosuch"}), Refused("nosuch")),
        host(
            "LogConfig",
            json!({"Type": "json-file", "Config": {"colour": "red"}}),
            Refused("unknown log opt 'colour'"),
        ),
        host("NetworkMode", json!("bridge"), Prints("ip -o link", "eth0")),
        on_bridge(host("PortBindings", json!({"80/tcp": [{"HostPort": "x"}]}), Refused("invalid port"))),
        on_bridge(host(
            "PortBindings",
            json!({"80/tcp": [{"HostIp": "2001:db8::1", "HostPort": "1"}]}),
            Refused("Cannot assign requested address"),
        )),
        on_bridge(host(
            "PortBindings",
            json!({"80/tcp": [{"HostIp": "::1x", "HostPort": "1"}]}),
            Refused("invalid IP"),
        )),
        on_bridge(host("PortBindings", json!({"80/sctp": [{"HostIp": "::", "HostPort": "1"}]}), Refused("SCTP"))),
        host("RestartPolicy", json!({"Name": "sometimes"}), Refused("sometimes")),
        host("AutoRemove", json!(true), Shows("/HostConfig/AutoRemove", json!(true))),
        Case { with: json!({"Binds": ["vol:/v"]}), ..host("VolumeDriver", json!("nosuch"), Refused("nosuch")) },
        host("VolumesFrom", json!(["nosuch"]), Refused("No such container")),
        host(
            "Mounts",
            json!([{"Type": "tmpfs", "Target": "/m", "TmpfsOptions": {"SizeBytes": 65536}}]),
            Prints("mount", "size=64k"),
        ),
        host("Mounts", json!([{"Type": "tmpfs", "Target": "/m", "BindOptions": {}}]), Refused("BindOptions")),
        host("Mounts", json!([{"Type": "npipe", "Source": "x", "Target": "/m"}]), Refused("mount type unknown")),
        host(
            "Mounts",
            json!([{"Type": "bind", "Source": "/proc", "Target": "/m", "BindOptions": {"ReadOnlyForceRecursive": true}}]),
            Refused("need ReadOnly"),
        ),
        host("Annotations", json!({"a": "b"}), Shows("/HostConfig/Annotations/a", json!("b"))),
        on_bridge(host("Dns", json!(["10.9.8.7"]), Prints("cat /etc/resolv.conf", "nameserver 10.9.8.7"))),
        on_bridge(host("Dns", json!(["nine"]), Refused("nine"))),
        on_bridge(host("DnsOptions", json!(["ndots:4"]), Prints("cat /etc/resolv.conf", "ndots:4"))),
        on_bridge(host("DnsSearch", json!(["lan.example"]), Prints("cat /etc/resolv.conf", "search lan.example"))),
        on_bridge(host("ExtraHosts", json!(["db:10.1.1.1"]), Prints("cat /etc/hosts", "10.1.1.1\tdb"))),
        on_bridge(host("ExtraHosts", json!(["up:host-gateway"]), Prints("cat /etc/hosts", "172.17.0.1\tup"))),
        host("Links", json!(["nosuch:db"]), Refused("links")),
        on_bridge(host("Links", json!(["nosuch:db"]), Refused("could not get container for nosuch"))),
        host("PublishAllPorts", json!(true), Shows("/HostConfig/PublishAllPorts", json!(true))),
        host("Tmpfs", json!({"/t": "size=64k"}), Prints("mount", " /t ")),
        host("Tmpfs", json!({"/t": "colour=red"}), Refused("colour")),
        endpoint("IPAMConfig", json!({"IPv4Address": "10.77.0.9"}), Prints("ip -o addr", "10.77.0.9/24")),
        endpoint("IPAMConfig", json!({"LinkLocalIPs": ["169.254.7.7"]}), Prints("ip -o addr", "169.254.7.7/16")),
        endpoint("IPAMConfig", json!({"IPv6Address": "fd00::9"}), Refused("IPv6")),
        endpoint("Links", json!([":db"]), Refused("bad format for links")),
        endpoint("MacAddress", json!("02:00:00:00:00:09"), Prints("ip -o link", "02:00:00:00:00:09")),
        endpoint("MacAddress", json!("09"), Refused("invalid MAC address")),
        endpoint("Aliases", json!(["other"]), Prints("ping -c 1 -W 1 other", "1 packets received")),
        endpoint("DriverOpts", json!({"com.docker.network.endpoint.ifname": "lan0"}), Prints("ip -o link", "lan0")),
        endpoint(
            "DriverOpts",
            json!({"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.log_martians=1"}),
            Prints("cat /proc/sys/net/ipv4/conf/eth0/log_martians", "1"),
        ),
        endpoint("DriverOpts", json!({"com.docker.network.endpoint.colour": "red"}), Refused("colour")),
        endpoint("GwPriority", json!(5), Shows("/NetworkSettings/Networks/lan/GwPriority", json!(5))),
    ]
}

fn privilege_cases() -> Vec<Case> {
    let caps = "grep CapEff /proc/self/status";
    vec![
        host("ConsoleSize", json!([10, 20]), Shows("/HostConfig/ConsoleSize", json!([10, 20]))),
        host("CapAdd", json!(["SYS_TIME"]), Prints(caps, "00000000aa0425fb")),
        host("CapAdd", json!(["FLY"]), Refused("invalid CapAdd: unknown capability: \"CAP_FLY\"")),
        host("CapDrop", json!(["ALL"]), Prints(caps, "0000000000000000")),
        host("CapDrop", json!(["FLY"]), Refused("invalid CapDrop: unknown capability: \"CAP_FLY\"")),
        host("CgroupnsMode", json!("private"), Prints("cat /proc/self/cgroup", ":/\n")),
        host("CgroupnsMode", json!("x"), Refused("invalid cgroup namespace mode: x")),
        host("GroupAdd", json!(["4711"]), Prints("id -G", "4711")),
        host("GroupAdd", json!(["nosuch"]), Refused("nosuch")),
        host("IpcMode", json!("none"), Prints("mount | grep -c /dev/shm", "0")),
        host("IpcMode", json!("x"), Refused("nvalid IPC mode: x")),
        host("Cgroup", json!("container:x"), Refused("cgroup of another container")),
        host("OomScoreAdj", json!(500), Prints("cat /proc/self/oom_score_adj", "500")),
        host("OomScoreAdj", json!(5000), Refused("range for oom score adj")),
        host("PidMode", json!("host"), Prints("cat /proc/1/comm; test $$ -gt 5 && echo of the host", "of the host")),
        host("PidMode", json!("container:nosuch"), Refused("No such container: nosuch")),
        host("PidMode", json!("x"), Refused("nvalid PID mode: x")),
        host("Privileged", json!(true), Prints("grep Seccomp: /proc/self/status", "0")),
        host("ReadonlyRootfs", json!(true), Prints("touch /x 2>&1", "Read-only")),
        host("SecurityOpt", json!(["no-new-privileges"]), Prints("grep NoNewPrivs /proc/self/status", "1")),
        host("SecurityOpt", json!(["seccomp=unconfined"]), Prints("grep Seccomp: /proc/self/status", "0")),
        host("SecurityOpt", json!(["systempaths=unconfined"]), Prints("mount | grep -c '/proc/'", "0")),
        host("SecurityOpt", json!(["writable-cgroups=true"]), Prints("mount | grep cgroup | grep -c '(ro'", "0")),
        host("SecurityOpt", json!(["colour=red"]), Refused("invalid --security-opt 2: \"colour=red\"")),
        host("SecurityOpt", json!(["apparmor=nosuch"]), Refused("AppArmor")),
        host("StorageOpt", json!({"size": "1G"}), Refused("--storage-opt is supported only")),
        host("UTSMode", json!("host"), Prints("cat /proc/sys/kernel/hostname", "")),
        Case {
            with: json!({"UTSMode": "host"}),
            ..config("Hostname", json!("x"), Refused("hostname and the UTS mode"))
        },
        host("UTSMode", json!("x"), Refused("nvalid UTS mode: x")),
        host("UsernsMode", json!("host"), Prints("cat /proc/self/uid_map", "4294967295")),
        host("UsernsMode", json!("private"), Refused("invalid user namespace mode")),
        host("ShmSize", json!(1_048_576), Prints("mount | grep /dev/shm", "size=1024k")),
        host("Sysctls", json!({"kernel.msgmax": "4321"}), Prints("cat /proc/sys/kernel/msgmax", "4321")),
        host("Sysctls", json!({"kernel.panic": "1"}), Refused("not in a separate kernel namespace")),
        host("Runtime", json!("nosuch"), Refused("nosuch")),
        host("Isolation", json!("hyperv"), Refused("Invalid isolation")),
        host("MaskedPaths", json!(["/srv"]), Prints("ls /srv | wc -l", "0")),
        host("ReadonlyPaths", json!(["/srv"]), Prints("touch /srv/x 2>&1", "Read-only")),
        host(
            "Devices",
            json!([{"PathOnHost": "/dev/null", "PathInContainer": "/dev/nil", "CgroupPermissions": "r"}]),
            Prints("ls /dev", "nil"),
        ),
        host(
            "Devices",
            json!([{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "z"}]),
            Refused("z"),
        ),
        host(
            "DeviceCgroupRules",
            json!(["c 42:* r"]),
            PrintsOrFails("grep 42: /sys/fs/cgroup/devices/devices.list", "c 42:* r", "No such file"),
        ),
        host("DeviceCgroupRules", json!(["x"]), Refused("invalid device cgroup rule format")),
        host("DeviceRequests", json!([{"Driver": "nosuch"}]), Refused("could not select device driver \"nosuch\"")),
        host(
            "DeviceRequests",
            json!([{"Driver": "cdi", "DeviceIDs": ["a.b/c=d"]}]),
            Refused("unresolvable CDI devices"),
        ),
        host("Init", json!(true), Prints("cat /proc/1/comm", "docker-init")),
    ]
}

fn limit_cases() -> Vec<Case> {
    let device = json!([{"Path": "/dev/nosuch", "Rate": 1000, "Weight": 100}]);
    let read = |field: &'static str, value: Value, file: &'static str, found: &'static str| {
        host(field, value, Prints(file, found))
    };
    vec![
        read("CpuShares", json!(512), "cat /sys/fs/cgroup/cpu/cpu.shares /sys/fs/cgroup/cpu.weight", "512"),
        read(
            "Memory",
            json!(67_108_864),
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max",
            "67108864",
        ),
        host("Memory", json!(1000), Refused("Minimum memory limit")),
        host("CgroupParent", json!("/shoal-test-fields"), Prints("cat /proc/self/cgroup", "/shoal-test-fields/")),
        host("BlkioWeight", json!(5), or_discarded("Weight discarded", Refused("blkio weight"))),
        host(
            "BlkioWeight",
            json!(300),
            or_discarded(
                "Weight discarded",
                Prints("cat /sys/fs/cgroup/*/blkio.weight /sys/fs/cgroup/io.weight", "300"),
            ),
        ),
        host("BlkioWeightDevice", device.clone(), or_discarded("Weight-device discarded", Refused("/dev/nosuch"))),
        host("BlkioDeviceReadBps", device.clone(), Refused("/dev/nosuch")),
        host("BlkioDeviceWriteBps", device.clone(), Refused("/dev/nosuch")),
        host("BlkioDeviceReadIOps", device.clone(), Refused("/dev/nosuch")),
        host("BlkioDeviceWriteIOps", device, Refused("/dev/nosuch")),
        read("CpuPeriod", json!(50_000), "cat /sys/fs/cgroup/cpu/cpu.cfs_period_us /sys/fs/cgroup/cpu.max", "50000"),
        read("CpuQuota", json!(20_000), "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max", "20000"),
        read("NanoCpus", json!(500_000_000), "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max", "50000"),
        host(
            "CpuRealtimePeriod",
            json!(600_000),
            PrintsOrFails("cat /sys/fs/cgroup/cpu/cpu.rt_period_us", "600000", "real-time"),
        ),
        host(
            "CpuRealtimeRuntime",
            json!(1000),
            PrintsOrFails("cat /sys/fs/cgroup/cpu/cpu.rt_runtime_us", "1000", "rt_runtime"),
        ),
        host("CpusetCpus", json!("0"), Prints("grep Cpus_allowed_list /proc/self/status", "0\n")),
        host("CpusetMems", json!("0"), Prints("grep Mems_allowed_list /proc/self/status", "0\n")),
        host("CpuShares", json!(1), Refused("minimum allowed cpu-shares is 2")),
        host("CpusetCpus", json!("9999"), Refused("Requested CPUs are not available - requested 9999, available: ")),
        host("CpusetCpus", json!("x"), Refused("Invalid value x")),
        host("KernelMemory", json!(8_388_608), Warns("Kernel memory")),
        host("KernelMemoryTCP", json!(8_388_608), Warns("Kernel memory")),
        read(
            "MemoryReservation",
            json!(33_554_432),
            "cat /sys/fs/cgroup/memory/memory.soft_limit_in_bytes /sys/fs/cgroup/memory.low",
            "33554432",
        ),
        host("MemorySwap", json!(67_108_864), Refused("always set the Memory limit")),
        host(
            "MemorySwappiness",
            json!(30),
            or_discarded("swappiness discarded", Prints("cat /sys/fs/cgroup/memory/memory.swappiness", "30")),
        ),
        host(
            "OomKillDisable",
            json!(true),
            or_discarded(
                "OomKillDisable discarded",
                Prints("cat /sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 1"),
            ),
        ),
        read("PidsLimit", json!(77), "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max", "77"),
        host(
            "Ulimits",
            json!([{"Name": "nofile", "Soft": 100, "Hard": 200}]),
            Prints("ulimit -n; ulimit -Hn", "100\n200"),
        ),
        host("Ulimits", json!([{"Name": "nosuch", "Soft": 1, "Hard": 1}]), Refused("nosuch")),
        host("CpuCount", json!(1), Refused("CPU count")),
        host("CpuPercent", json!(1), Refused("CPU percent")),
        host("IOMaximumIOps", json!(1), Refused("maximum IOPs")),
        host("IOMaximumBandwidth", json!(1), Refused("maximum bandwidth")),
    ]
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            from.iter().for_each(|(key, value)| merge(into.entry(key.clone()).or_insert(Value::Null), value));
        }
        (into, from) => *into = from.clone(),
    }
}

fn body(case: &Case) -> Value {
    let script = match case.expect.with_limit() {
        Prints("", _) => json!([]),
        Prints(script, _) | PrintsOrFails(script, ..) => json!(["sh", "-c", script]),
        // Long enough to be looked at.
        _ => json!(["sleep", "100"]),
    };
    let mut body = json!({"Image": "bb", "Cmd": script, "HostConfig": {"NetworkMode": "none"}});
    merge(&mut body["HostConfig"], &case.with);
    match case.section {
        "config" => merge(&mut body, &json!({case.field: case.value})),
        "host" => merge(&mut body["HostConfig"], &json!({case.field: case.value})),
        _ => merge(&mut body, &json!({"NetworkingConfig": {"EndpointsConfig": {"lan": {case.field: case.value}}}})),
    }
    body
}

async fn holds(host: &Host, case: &Case) -> Result<(), String> {
    let request: CreateRequest = serde_json::from_value(body(case)).map_err(|error| error.to_string())?;
    let containers = host.engine.containers();
    let wants_failure = |text: &str, message: String| match message.contains(text) {
        true => Ok(()),
        false => Err(message),
    };
    let expect = case.expect.with_limit();
    let created = match (containers.create(None, request).await, expect) {
        (Err(failure), Refused(text)) => return wants_failure(text, failure.message),
        (Err(failure), _) => return Err(failure.message),
        (Ok(created), _) => created,
    };
    let told = created.warnings.join("; ");
    if let OrDiscarded(warning, _) = &case.expect
        && told.contains(warning)
    {
        // Without it the container starts.
        return containers.start(&created.id).await.map_err(|failure| failure.message);
    }
    let ended = containers.begin_wait(&created.id, WaitCondition::NextExit).map_err(|failure| failure.message)?;
    match (containers.start(&created.id).await, expect) {
        (Err(failure), Refused(text) | PrintsOrFails(_, _, text)) => return wants_failure(text, failure.message),
        (Err(failure), _) => return Err(failure.message),
        (Ok(()), _) => {}
    }
    match expect {
        Refused(_) => Err("it was not refused".to_owned()),
        Prints(_, text) | PrintsOrFails(_, text, _) => {
            ended.await;
            wants_failure(text, host.output(&created.id).await)
        }
        Shows(pointer, value) => {
            let shown = serde_json::to_value(host.inspect(&created.id).await).map_err(|error| error.to_string())?;
            if shown.pointer(pointer) == Some(value) { Ok(()) } else { Err(format!("{:?}", shown.pointer(pointer))) }
        }
        Warns(text) => wants_failure(text, told),
        OrDiscarded(..) => Err("it stands in itself".to_owned()),
    }
}

/// Is a field part of the model at all? What is not would be ignored in silence.
fn is_known(case: &Case) -> bool {
    let alone = Value::Object(Map::from_iter([(case.field.to_owned(), case.value.clone())]));
    let back = match case.section {
        "config" => serde_json::from_value::<ContainerConfig>(alone).map(serde_json::to_value),
        "host" => serde_json::from_value::<HostConfig>(alone).map(serde_json::to_value),
        _ => serde_json::from_value::<EndpointSettings>(alone).map(serde_json::to_value),
    };
    back.is_ok_and(|back| back.is_ok_and(|back| back.get(case.field).is_some()))
}

pub(crate) async fn every_field_is_heard(host: Host) -> Host {
    let lan = json!({"Name": "lan", "IPAM": {"Config": [{"Subnet": "10.77.0.0/24"}]}});
    host.engine.networks().create(serde_json::from_value(lan).unwrap()).await.unwrap();
    let cases = [config_cases(), mount_and_network_cases(), privilege_cases(), limit_cases()];
    let cases: Vec<Case> = cases.into_iter().flatten().collect();
    let mut wrong = Vec::new();
    for case in &cases {
        let name = format!("{} {} = {}", case.section, case.field, case.value);
        if !is_known(case) {
            wrong.push(format!("{name}: not part of the model"));
        }
        if let Err(message) = holds(&host, case).await {
            wrong.push(format!("{name}: {message}"));
        }
        remove_all(&host).await;
    }
    let tested: BTreeSet<_> = cases.iter().map(|case| (case.section, case.field)).collect();
    for (section, fields) in [("config", CONFIG), ("host", HOST), ("endpoint", ENDPOINT)] {
        let missing = fields.split_whitespace().filter(|field| !tested.contains(&(section, *field)));
        wrong.extend(missing.map(|field| format!("{section} {field}: in no case")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    host
}

async fn remove_all(host: &Host) {
    let all = shoal_engine::container::ListOptions { all: true, ..Default::default() };
    for summary in host.engine.containers().list(all).await.unwrap() {
        let options = shoal_engine::container::RemoveOptions { force: true, volumes: true, link: false };
        host.engine.containers().remove(&summary.id, options).await.unwrap();
    }
}
