//! What was asked, and what dockerd answered.

/// A question, and dockerd's answer: its status, and a part of its text.
pub(super) struct Asked {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) body: &'static str,
    pub(super) recorded: (u16, &'static str),
    pub(super) here: Option<(u16, &'static str)>,
}

pub(super) const fn post(path: &'static str, body: &'static str, code: u16, says: &'static str) -> Asked {
    Asked { method: "POST", path, body, recorded: (code, says), here: None }
}

pub(super) const fn get(path: &'static str, code: u16, says: &'static str) -> Asked {
    Asked { method: "GET", path, body: "", recorded: (code, says), here: None }
}

impl Asked {
    /// What Shoal answers instead.
    pub(super) const fn but(self, code: u16, says: &'static str) -> Self {
        Self { here: Some((code, says)), ..self }
    }
}

pub(super) const NAMES_AND_PAUSES: &[Asked] = &[
    post("/containers/made/rename?name=made", "", 400, "Renaming a container with the same name as its current name"),
    post(
        "/containers/made/rename?name=up",
        "",
        409,
        "Error when allocating new name: Conflict. The container name \\\"/up\\\" is already in use by container \\\"ID\\\". You have \
         to remove (or rename) that container to be able to reuse that name.",
    ),
    post("/containers/made/rename?name=", "", 400, "Neither old nor new names may be empty"),
    post("/containers/made/rename", "", 400, "Neither old nor new names may be empty"),
    post(
        "/containers/made/rename?name=a%20b",
        "",
        400,
        "Error when allocating new name: Invalid container name (/a b), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    ),
    post("/containers/nosuch/rename?name=x", "", 404, "No such container: nosuch"),
    post("/containers/made/rename?name=/made2", "", 204, ""),
    post("/containers/made2/rename?name=made", "", 204, ""),
    post("/containers/frozen/pause", "", 409, "Container ID is already paused"),
    post("/containers/made/pause", "", 409, "Container ID is not running"),
    post("/containers/nosuch/pause", "", 404, "No such container: nosuch"),
    post("/containers/up/unpause", "", 500, "Container ID is not paused").but(409, "container ID is not paused"),
    post("/containers/frozen/start", "", 409, "cannot start a paused container, try unpause instead"),
    post("/containers/frozen/exec", r#"{"Cmd":["ls"]}"#, 409, "is paused, unpause the container before exec"),
    post("/containers/frozen/attach?stream=1&stdout=1", "", 409, "is paused, unpause the container before attach"),
    post("/containers/up/resize?h=1&w=1", "", 200, ""),
];

/// Whose fault it is, and what is looked at first: a client that hears "not found" of a new container pulls its image.
pub(super) const FAULTS: &[Asked] = &[
    get("/containers/nosuch/archive", 400, "bad parameter: path"),
    post("/containers/nosuch/kill?signal=NOPE", "", 400, "Invalid signal: NOPE"),
    post("/containers/nosuch/kill", "", 404, "annot kill container: nosuch: No such container: nosuch"),
    post(
        "/containers/create",
        r#"{"Image":"IMAGE","Cmd":["true"],"HostConfig":{"Links":["nosuch:x"]}}"#,
        400,
        "could not get container for nosuch: No such container: nosuch",
    ),
    post(
        "/containers/create",
        r#"{"Image":"IMAGE","Cmd":["true"],"HostConfig":{"VolumesFrom":["nosuch"]}}"#,
        400,
        "No such container: nosuch",
    ),
    post(
        "/containers/create",
        r#"{"Image":"IMAGE","Cmd":["true"],"HostConfig":{"IpcMode":"container:nosuch"}}"#,
        400,
        "No such container: nosuch",
    ),
    post(
        "/containers/create",
        r#"{"Image":"IMAGE","Cmd":["true"],"HostConfig":{"Tmpfs":{"rel":""}}}"#,
        400,
        "invalid mount path: 'rel' mount path must be absolute",
    ),
    post(
        "/containers/create?platform=bad/x/y/z",
        r#"{"Image":"IMAGE","Cmd":["true"]}"#,
        400,
        "cannot parse platform specifier",
    ),
    post(
        "/containers/create",
        r#"{"Image":"IMAGE","Cmd":["true"],"NetworkingConfig":{"EndpointsConfig":{"netx":null}}}"#,
        400,
        "no EndpointSettings for netx",
    ),
    post("/containers/frozen/kill?signal=CONT", "", 204, ""),
    post("/containers/frozen/pause", "", 204, ""),
];

pub(super) const WAITS_AND_TOPS: &[Asked] = &[
    post("/containers/done3/wait", "", 200, r#""StatusCode":3"#),
    post("/containers/done3/wait?condition=not-running", "", 200, r#""StatusCode":3"#),
    post("/containers/made/wait", "", 200, r#""StatusCode":0"#),
    // The old one takes it for none.
    post("/containers/made/wait?condition=bogus", "", 200, "").but(400, "invalid condition: \\\"bogus\\\""),
    post("/containers/nosuch/wait", "", 404, "No such container: nosuch"),
    get("/containers/made/top", 409, "Container ID is not running"),
    get("/containers/nosuch/top", 404, "No such container: nosuch"),
    get("/containers/up/top", 200, r#""Titles":["UID","PID","PPID","C","STIME","TTY","TIME","CMD"]"#),
    get("/containers/frozen/top", 200, r#""sleep 1000"]"#),
    get("/containers/up/top?ps_args=-o%20pid,comm", 200, r#""Titles":["PID","COMMAND"]"#),
    get(
        "/containers/up/top?ps_args=aux",
        200,
        r#""Titles":["USER","PID","%CPU","%MEM","VSZ","RSS","TTY","STAT","START","TIME","COMMAND"]"#,
    ),
    get("/containers/up/top?ps_args=-o%20comm", 500, "Couldn't find PID field in ps output")
        .but(400, "Couldn't find PID field in ps output"),
    // There is no `ps` behind it.
    get("/containers/up/top?ps_args=--bogus", 500, "unknown gnu long option").but(400, "unsupported option --bogus"),
];

pub(super) const UPDATES: &[Asked] = &[
    post("/containers/up/update", r#"{"Memory":1000}"#, 400, "Minimum memory limit allowed is 6MB"),
    post(
        "/containers/up/update",
        r#"{"Memory":67108864,"MemorySwap":1000}"#,
        400,
        "Minimum memoryswap limit should be larger than memory limit, see usage",
    ),
    // The old one wants a limit of swap with the first limit of memory.
    post(
        "/containers/up/update",
        r#"{"Memory":67108864}"#,
        409,
        "Memory limit should be smaller than already set memoryswap",
    )
    .but(200, r#"{"Warnings":null}"#),
    post("/containers/up/update", r#"{"Memory":134217728,"MemorySwap":-1}"#, 200, r#"{"Warnings":null}"#),
    post("/containers/up/update", r#"{"CpuShares":512}"#, 200, r#"{"Warnings":null}"#),
    post("/containers/up/update", r#"{"CpusetCpus":"x"}"#, 400, "Invalid value x for cpuset cpus"),
    post("/containers/up/update", r#"{"NanoCpus":99000000000}"#, 400, "Range of CPUs is from 0.01 to "),
    post("/containers/up/update", r#"{"PidsLimit":50}"#, 200, r#"{"Warnings":null}"#),
    post("/containers/up/update", r#"{"RestartPolicy":{"Name":"bogus"}}"#, 400, "invalid restart policy")
        .but(400, "invalid restart policy: unknown policy 'bogus'"),
    post("/containers/up/update", r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3}}"#, 200, "null"),
    post(
        "/containers/up/update",
        r#"{"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":-1}}"#,
        400,
        "maximum retry count cannot be negative",
    ),
    post("/containers/up/update", r#"{"RestartPolicy":{"Name":"no"}}"#, 200, r#"{"Warnings":null}"#),
    post("/containers/up/update", "{}", 200, r#"{"Warnings":null}"#),
    post("/containers/nosuch/update", "{}", 404, "No such container: nosuch"),
    post("/containers/up/update", "junk", 500, "invalid character 'j'").but(400, "invalid JSON"),
    post("/containers/up/update", r#"{"MemoryReservation":1}"#, 400, "Minimum memory reservation allowed is 6MB"),
    post(
        "/containers/auto/update",
        r#"{"RestartPolicy":{"Name":"always"}}"#,
        409,
        "Cannot update container ID: Restart policy cannot be updated because AutoRemove is enabled for the container",
    ),
];

/// Filters of a list, more of its query, and the containers that it has; or the status and words of a refusal.
pub(super) type Listed = (&'static str, &'static str, Result<&'static [&'static str], (u16, &'static str)>);

pub(super) const RUNNING: &[&str] = &["frozen", "innet", "up"];
pub(super) const ALL: &[&str] = &["done0", "done3", "frozen", "innet", "made", "up"];

pub(super) const LISTS: &[Listed] = &[
    ("{}", "", Ok(RUNNING)),
    ("{}", "&all=1", Ok(ALL)),
    (r#"{"id":["zzz"]}"#, "&all=1", Ok(&[])),
    (r#"{"name":["up"]}"#, "", Ok(&["up"])),
    (r#"{"name":["/up"]}"#, "", Ok(&["up"])),
    (r#"{"name":["^/?u.$"]}"#, "", Ok(&["up"])),
    (r#"{"name":["(o|y)n"]}"#, "&all=1", Ok(&["done0", "done3"])),
    (r#"{"name":["("]}"#, "&all=1", Ok(&[])),
    (r#"{"label":["a"]}"#, "&all=1", Ok(&["made", "up"])),
    (r#"{"label":["a=1","b=2"]}"#, "&all=1", Ok(&["made"])),
    (r#"{"label":["a=2"]}"#, "&all=1", Ok(&[])),
    (r#"{"label!":["a"]}"#, "&all=1", Err((400, "invalid filter 'label!'"))),
    (r#"{"status":["exited"]}"#, "", Ok(&["done0", "done3"])),
    (r#"{"status":{"exited":true}}"#, "", Ok(&["done0", "done3"])),
    (r#"{"status":["created","paused"]}"#, "", Ok(&["frozen", "made"])),
    (r#"{"status":["running"]}"#, "", Ok(&["innet", "up"])),
    (r#"{"status":["dead"]}"#, "", Ok(&[])),
    (r#"{"status":["bogus"]}"#, "", Err((400, "invalid filter 'status=bogus'"))),
    (r#"{"exited":["3"]}"#, "&all=1", Ok(&["done3"])),
    (r#"{"exited":["0"]}"#, "", Ok(&[])),
    (r#"{"exited":["0","3"]}"#, "&all=1", Ok(&["done0", "done3"])),
    (r#"{"ancestor":["nosuch"]}"#, "", Ok(&[])),
    (r#"{"ancestor":["other:2"]}"#, "", Ok(RUNNING)),
    (r#"{"before":["up"]}"#, "&all=1", Ok(&["made"])),
    (r#"{"since":["done3"]}"#, "&all=1", Ok(&["done0", "frozen", "innet"])),
    (r#"{"volume":["vol"]}"#, "", Ok(&["up"])),
    (r#"{"volume":["/v"]}"#, "", Ok(&["up"])),
    (r#"{"volume":["nosuch"]}"#, "", Ok(&[])),
    (r#"{"network":["netx"]}"#, "", Ok(&["innet"])),
    (r#"{"network":["netx","bridge"]}"#, "", Ok(RUNNING)),
    (r#"{"network":["nosuch"]}"#, "", Ok(&[])),
    (r#"{"publish":["8081"]}"#, "", Ok(&["up"])),
    (r#"{"publish":["8000-8100/tcp"]}"#, "", Ok(&["up"])),
    (r#"{"publish":["80"]}"#, "", Ok(&[])),
    (r#"{"expose":["90"]}"#, "", Ok(&["up"])),
    (r#"{"expose":["80-95/tcp"]}"#, "", Ok(&["up"])),
    (r#"{"expose":["90/udp"]}"#, "", Ok(&[])),
    (r#"{"health":["none"]}"#, "", Ok(RUNNING)),
    (r#"{"is-task":["true"]}"#, "", Ok(&[])),
    (r#"{"is-task":["false"]}"#, "", Ok(RUNNING)),
    (r#"{"is-task":["x"]}"#, "", Err((400, "invalid filter 'is-task=[x]'"))),
    (r#"{"isolation":["default"]}"#, "", Ok(RUNNING)),
    (r#"{"bogus":["1"]}"#, "", Err((400, "invalid filter 'bogus'"))),
    (r#"{"label":["a=1"],"status":["created"]}"#, "&all=1", Ok(&["made"])),
    ("{}", "&limit=1", Ok(&["innet"])),
    ("{}", "&limit=2", Ok(&["frozen", "innet"])),
    ("{}", "&limit=-1", Ok(RUNNING)),
    (r#"{"status":["running"]}"#, "&limit=1", Ok(&["innet"])),
];

/// Kind of objects, filters, status and words.
pub(super) type Pruned = (&'static str, &'static str, (u16, &'static str), Option<(u16, &'static str)>);

pub(super) const PRUNES: &[Pruned] = &[
    ("containers", r#"{"bogus":["1"]}"#, (400, "invalid filter 'bogus'"), None),
    (
        "containers",
        r#"{"until":["x"]}"#,
        (500, "failed to parse value as time or duration: \\\"x\\\""),
        Some((400, "failed to parse value as time or duration: \\\"x\\\"")),
    ),
    (
        "containers",
        r#"{"until":["24h","1h"]}"#,
        (500, "more than one until filter specified"),
        Some((400, "more than one until filter specified")),
    ),
    ("containers", r#"{"until":["24h"]}"#, (200, r#"{"ContainersDeleted":null,"SpaceReclaimed":0}"#), None),
    ("containers", r#"{"until":["2020-01-01"]}"#, (200, r#""ContainersDeleted":null"#), None),
    ("containers", r#"{"label":["zz"]}"#, (200, r#""ContainersDeleted":null"#), None),
    ("containers", r#"{"label":["a=1"]}"#, (200, r#""ContainersDeleted":["ID"]"#), None),
    ("containers", r#"{"label!":["c=3"]}"#, (200, r#""ContainersDeleted":null"#), None),
    ("containers", r#"{"label":["c"]}"#, (200, r#""ContainersDeleted":["ID"]"#), None),
    ("volumes", r#"{"bogus":["1"]}"#, (400, "invalid filter 'bogus'"), None),
    ("volumes", r#"{"label":["x"]}"#, (200, r#"{"VolumesDeleted":[],"SpaceReclaimed":0}"#), None),
    ("volumes", r#"{"until":["1h"]}"#, (400, "invalid filter 'until'"), None),
    ("networks", r#"{"bogus":["1"]}"#, (400, "invalid filter 'bogus'"), None),
    ("networks", r#"{"label":["n=2"]}"#, (200, r#""NetworksDeleted":null"#), None),
    ("images", r#"{"dangling":["x"]}"#, (400, "invalid filter 'dangling=[x]'"), None),
    ("images", r#"{"until":["24h"]}"#, (200, r#"{"ImagesDeleted":null,"SpaceReclaimed":0}"#), None),
];

/// Members that dockerd has in an inspected container, and the newest have no more.
pub(super) const GONE: &[&str] = &["HostConfig.KernelMemory", "HostConfig.KernelMemoryTCP"];

/// Members of an inspected container, one word for each but for the names in maps.
pub(super) const SHAPE: &str = "AppArmorProfile Args Config.AttachStderr Config.AttachStdin Config.AttachStdout Config.Cmd Config.Domainname \
    Config.Entrypoint Config.Env Config.ExposedPorts Config.Hostname Config.Image Config.Labels Config.OnBuild Config.OpenStdin \
    Config.StdinOnce Config.Tty Config.User Config.Volumes Config.WorkingDir Created Driver ExecIDs GraphDriver.Data \
    GraphDriver.Name HostConfig.AutoRemove HostConfig.Binds HostConfig.BlkioDeviceReadBps HostConfig.BlkioDeviceReadIOps \
    HostConfig.BlkioDeviceWriteBps HostConfig.BlkioDeviceWriteIOps HostConfig.BlkioWeight HostConfig.BlkioWeightDevice \
    HostConfig.CapAdd HostConfig.CapDrop HostConfig.Cgroup HostConfig.CgroupParent HostConfig.CgroupnsMode \
    HostConfig.ConsoleSize HostConfig.ContainerIDFile HostConfig.CpuCount HostConfig.CpuPercent HostConfig.CpuPeriod \
    HostConfig.CpuQuota HostConfig.CpuRealtimePeriod HostConfig.CpuRealtimeRuntime HostConfig.CpuShares HostConfig.CpusetCpus \
    HostConfig.CpusetMems HostConfig.DeviceCgroupRules HostConfig.DeviceRequests HostConfig.Devices HostConfig.Dns \
    HostConfig.DnsOptions HostConfig.DnsSearch HostConfig.ExtraHosts HostConfig.GroupAdd HostConfig.IOMaximumBandwidth \
    HostConfig.IOMaximumIOps HostConfig.IpcMode HostConfig.Isolation HostConfig.KernelMemory HostConfig.KernelMemoryTCP \
    HostConfig.Links HostConfig.LogConfig HostConfig.MaskedPaths HostConfig.Memory HostConfig.MemoryReservation \
    HostConfig.MemorySwap HostConfig.MemorySwappiness HostConfig.NanoCpus HostConfig.NetworkMode HostConfig.OomKillDisable \
    HostConfig.OomScoreAdj HostConfig.PidMode HostConfig.PidsLimit HostConfig.PortBindings HostConfig.Privileged \
    HostConfig.PublishAllPorts HostConfig.ReadonlyPaths HostConfig.ReadonlyRootfs HostConfig.RestartPolicy HostConfig.Runtime \
    HostConfig.SecurityOpt HostConfig.ShmSize HostConfig.UTSMode HostConfig.Ulimits HostConfig.UsernsMode \
    HostConfig.VolumeDriver HostConfig.VolumesFrom HostnamePath HostsPath Id Image LogPath MountLabel Mounts Name \
    NetworkSettings.Bridge NetworkSettings.EndpointID NetworkSettings.Gateway NetworkSettings.GlobalIPv6Address \
    NetworkSettings.GlobalIPv6PrefixLen NetworkSettings.HairpinMode NetworkSettings.IPAddress NetworkSettings.IPPrefixLen \
    NetworkSettings.IPv6Gateway NetworkSettings.LinkLocalIPv6Address NetworkSettings.LinkLocalIPv6PrefixLen \
    NetworkSettings.MacAddress NetworkSettings.Networks NetworkSettings.Ports NetworkSettings.SandboxID \
    NetworkSettings.SandboxKey NetworkSettings.SecondaryIPAddresses NetworkSettings.SecondaryIPv6Addresses Path Platform \
    ProcessLabel ResolvConfPath RestartCount State.Dead State.Error State.ExitCode State.FinishedAt State.OOMKilled \
    State.Paused State.Pid State.Restarting State.Running State.StartedAt State.Status";

/// A line of the docker CLI, its exit code, and a part of what it says on standard error; of Shoal's where it differs.
pub(super) type Line = (&'static str, i32, &'static str, Option<&'static str>);

pub(super) const COPIES: &[Line] = &[
    ("cp cc:/nope out", 1, "Error response from daemon: Could not find the file /nope in container cc", None),
    ("cp nosuch:/x out", 1, "Error response from daemon: No such container: nosuch", None),
    ("cp src nosuch:/x", 1, "Error response from daemon: No such container: nosuch", None),
    ("cp cc:/a cc:/b", 1, "copying between containers is not supported", None),
    ("cp a b", 1, "must specify at least one container source", None),
    ("cp src cc:/etc/passwd", 1, "cannot copy directory", None),
    ("cp src/f cc:/tmp/none/", 1, "no such directory", None),
    ("cp src/f cc:/none/x", 1, "Error response from daemon: Could not find the file /none in container cc", None),
    ("cp none cc:/tmp", 1, "no such file or directory", None),
    ("cp src cc:/tmp/new", 0, "", None),
    ("cp src/. cc:/www", 0, "", None),
    ("cp src/f cc:/tmp/renamed", 0, "", None),
    ("cp src/f cc:/bind", 0, "", None),
    ("cp src/f cc:/fixed", 1, "Error response from daemon: mounted volume is marked read-only", None),
    ("cp src/f sealed:/tmp", 1, "Error response from daemon: container rootfs is marked read-only", None),
    ("cp src/f sealed:/v", 0, "", None),
    (
        "cp src/hosts cc:/etc/hosts",
        1,
        "Error response from daemon: Error processing tar file(exit status 1): unlinkat /etc/hosts: device or resource busy",
        // Newer dockerds have no other process for it either.
        Some("Error response from daemon: unlinkat /etc/hosts: device or resource busy"),
    ),
    ("cp cc:/tmp/new out", 0, "", None),
    ("cp cc:/tmp/new out/other", 0, "", None),
    ("cp -L cc:/bin/sh out/sh", 0, "", None),
    ("cp cc:/etc/hosts out", 0, "", None),
    ("cp cc:/tmp/new/f none/x", 1, "does not exist", None),
    ("commit cc Bad", 1, "must be lowercase", None),
    ("commit nosuch x", 1, "No such container: nosuch", None),
    ("commit -c FROM cc x", 1, "from is not a valid change command", None),
    ("export -o out/e.tar cc", 0, "", None),
    ("diff nosuch", 1, "No such container: nosuch", None),
];

/// What the Docker SDK for Python does with containers and their files.
pub(super) const PYTHON: &str = r#"
import docker, io, socket, sys, tarfile, websocket
client = docker.DockerClient(base_url='unix://' + sys.argv[1])
image = sys.argv[2]
made = client.containers.create(image, ['sh', '-c', 'echo hi; sleep 1000'], name='sdk', labels={'k': 'v'})
tar = io.BytesIO()
with tarfile.open(fileobj=tar, mode='w') as archive:
    entry = tarfile.TarInfo('f'); entry.size = 3
    archive.addfile(entry, io.BytesIO(b'one'))
assert made.put_archive('/tmp', tar.getvalue())
made.start()
chunks, stat = made.get_archive('/tmp/f')
assert (stat['name'], stat['size'], stat['mode'], stat['linkTarget']) == ('f', 3, 0o644, ''), stat
read = tarfile.open(fileobj=io.BytesIO(b''.join(chunks)))
assert read.extractfile('f').read() == b'one' and read.getnames() == ['f']
try:
    made.get_archive('/nope')
    assert False
except docker.errors.NotFound as error:
    assert 'Could not find the file /nope in container' in error.explanation, error.explanation
assert {'Path': '/tmp/f', 'Kind': 1} in made.diff(), made.diff()
assert 'tmp/f' in tarfile.open(fileobj=io.BytesIO(b''.join(made.export()))).getnames()
kept = made.commit('kept', 'sdk', message='why', author='me', changes='ENV A=b')
assert kept.tags == ['kept:sdk'] and kept.history()[0]['Comment'] == 'why', kept.history()
assert 'A=b' in kept.attrs['Config']['Env']
# It reads heads through a buffer, and what follows without it: what comes too early is lost.
for n in range(20):
    assert made.exec_run(['echo', str(n)]).output == b'%d\n' % n, n
# The start says how the output is read; an end counts, though a policy starts it again.
raw = client.api.exec_create(made.id, ['echo', 'x'], tty=True)
assert client.api.exec_start(raw) == b'x\r\n'
again = client.containers.run(image, ['sh', '-c', 'exit 3'], detach=True, restart_policy={'Name': 'always'})
assert again.wait()['StatusCode'] == 3
try:
    again.remove()
    assert False
except docker.errors.APIError as error:
    assert 'stop the container before' in error.explanation.lower(), error.explanation
again.remove(force=True)
net = client.networks.create('sdk-net', ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool('10.77.0.0/24')]))
assert client.api.inspect_network('sdk-net', scope='local')['IPAM']['Options'] is None
try:
    client.api.inspect_network('sdk-net', scope='global')
    assert False
except docker.errors.NotFound:
    pass
client.networks.get('bridge').disconnect(made)
net.connect(made, links=[('upstream', 'bar')], driver_opt={'com.example.setting': 'x'})
upstream = client.containers.run(image, ['sleep', '1000'], detach=True, name='upstream', network='sdk-net')
code, said = made.exec_run(['ping', '-c', '1', 'bar'])
assert code == 0, said
upstream.remove(force=True); net.disconnect(made); net.remove()
made.pause(); made.reload(); assert made.status == 'paused'
made.unpause(); made.rename('sdk2'); made.reload(); assert made.name == 'sdk2'
assert made.top()['Titles'][1] == 'PID'
assert made.update(cpu_shares=512) == {'Warnings': None}
assert [c.name for c in client.containers.list(filters={'label': 'k=v', 'name': '^sdk.$'})] == ['sdk2']
made.kill(); assert made.wait()['StatusCode'] == 137
assert client.containers.prune({'label': 'k=v'})['ContainersDeleted'] == [made.id]
client.images.remove('kept:sdk')
assert client.containers.create(image, 'true', name='clean').diff() is None
client.containers.get('clean').remove()
talk = client.containers.run(image, ['sh', '-c', 'echo first; while read l; do echo got $l; done'], stdin_open=True, detach=True)
def attach(**more):
    end = socket.socket(socket.AF_UNIX); end.connect(sys.argv[1])
    path = f'ws://d/v1.41/containers/{talk.id}/attach/ws?stream=1&stdin=1&stdout=1&logs=1'
    return websocket.create_connection(path, socket=end, timeout=10, **more)
web = attach()
assert web.recv_data() == (websocket.ABNF.OPCODE_BINARY, b'first\n')
web.send('x' * 100000 + '\n')
answer = b''
while not answer.endswith(b'\n'):
    answer += web.recv_data()[1]
assert answer == b'got ' + b'x' * 100000 + b'\n', len(answer)
web.close()
talk.remove(force=True)
"#;
