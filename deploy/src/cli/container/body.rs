//! Flags of `run` and `create` into the API's create request. Pure, but for files that flags name.

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use super::options::ContainerOptions;
use crate::cli::look::{Look as _, set, set_list, set_some};
use crate::cli::parse::{csv, pair, port, size, volume};
use crate::cli::service::spec::healthcheck;

/// Which of its streams a container in the foreground is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attached {
    /// Standard input.
    pub(crate) stdin: bool,
    /// Standard output.
    pub(crate) stdout: bool,
    /// Standard error.
    pub(crate) stderr: bool,
}

impl ContainerOptions {
    /// The streams to attach; none for a detached container.
    pub(crate) fn attached(&self, detach: bool) -> Attached {
        if detach {
            return Attached { stdin: false, stdout: false, stderr: false };
        }
        if self.attach.is_empty() {
            return Attached { stdin: self.interactive, stdout: true, stderr: true };
        }
        let named = |stream: &str| self.attach.iter().any(|name| name.eq_ignore_ascii_case(stream));
        Attached { stdin: named("stdin"), stdout: named("stdout"), stderr: named("stderr") }
    }

    /// The request's body for this image and command.
    pub(crate) fn body(&self, image: &str, command: &[String], attached: Attached) -> anyhow::Result<Value> {
        if self.rm && self.restart != "no" && !self.restart.is_empty() {
            bail!("conflicting options: cannot specify both --restart and --rm");
        }
        let mut body = json!({
            "Image": image,
            "AttachStdin": attached.stdin, "AttachStdout": attached.stdout, "AttachStderr": attached.stderr,
            "OpenStdin": self.interactive, "StdinOnce": self.interactive && attached.stdin, "Tty": self.tty,
            "Env": pair::environment(&self.env, &self.env_file)?,
            "Cmd": if command.is_empty() { Value::Null } else { json!(command) },
            "Labels": self.labels()?,
            "HostConfig": {},
        });
        set_some(&mut body, "User", self.security.user.clone());
        set_some(&mut body, "WorkingDir", self.workdir.clone());
        // As docker does: an empty text resets the image's entry point.
        set_some(&mut body, "Entrypoint", self.entrypoint.as_ref().map(|command| json!([command])));
        set_some(&mut body, "StopSignal", self.stop_signal.clone());
        set_some(&mut body, "StopTimeout", self.stop_timeout);
        set_some(&mut body, "Healthcheck", healthcheck(&Value::Null, &self.health)?);
        self.ports(&mut body)?;
        self.storage(&mut body)?;
        self.networks(&mut body)?;
        self.limits(&mut body)?;
        self.security(&mut body)?;
        self.host(&mut body)?;
        Ok(body)
    }

    fn labels(&self) -> anyhow::Result<Map<String, Value>> {
        let mut labels = Map::new();
        for file in &self.label_file {
            labels.extend(pair::map(&pair::lines_of(file)?));
        }
        labels.extend(pair::map(&self.label));
        Ok(labels)
    }

    fn ports(&self, body: &mut Value) -> anyhow::Result<()> {
        let (mut exposed, mut bindings) = (Map::new(), Map::<String, Value>::new());
        for flag in &self.publish {
            for mapping in port::mappings(flag).map_err(anyhow::Error::msg)? {
                let key = format!("{}/{}", mapping.container_port, mapping.protocol);
                exposed.insert(key.clone(), json!({}));
                let binding = json!({"HostIp": mapping.host_ip, "HostPort": mapping.host_port});
                if let Value::Array(list) = bindings.entry(key).or_insert_with(|| json!([])) {
                    list.push(binding);
                }
            }
        }
        for flag in &self.expose {
            for key in port::exposed(flag).map_err(anyhow::Error::msg)? {
                exposed.insert(key, json!({}));
            }
        }
        if !exposed.is_empty() {
            set(body, "ExposedPorts", exposed);
        }
        if !bindings.is_empty() {
            set(body, "HostConfig.PortBindings", bindings);
        }
        if self.publish_all {
            set(body, "HostConfig.PublishAllPorts", true);
        }
        Ok(())
    }

    fn storage(&self, body: &mut Value) -> anyhow::Result<()> {
        let (mut anonymous, mut binds) = (Map::new(), Vec::new());
        for flag in &self.volume {
            match volume::volume(flag).map_err(anyhow::Error::msg)? {
                volume::Volume::Anonymous(path) => drop(anonymous.insert(path, json!({}))),
                volume::Volume::Bind(bind) => binds.push(bind),
            }
        }
        if !anonymous.is_empty() {
            set(body, "Volumes", anonymous);
        }
        set_list(body, "HostConfig.Binds", binds);
        set_list(body, "HostConfig.Mounts", self.mount.clone());
        set_list(body, "HostConfig.VolumesFrom", self.volumes_from.clone());
        set_some(body, "HostConfig.VolumeDriver", self.volume_driver.clone());
        if !self.tmpfs.is_empty() {
            let split = |flag: &String| {
                let (path, options) = flag.split_once(':').unwrap_or((flag, ""));
                (path.to_owned(), Value::from(options))
            };
            set(body, "HostConfig.Tmpfs", self.tmpfs.iter().map(split).collect::<Map<_, _>>());
        }
        if !self.storage_opt.is_empty() {
            set(body, "HostConfig.StorageOpt", pair::map(&self.storage_opt));
        }
        Ok(())
    }

    fn networks(&self, body: &mut Value) -> anyhow::Result<()> {
        let options = &self.network;
        set_some(body, "Hostname", options.hostname.clone());
        set_some(body, "Domainname", options.domainname.clone());
        set_list(body, "HostConfig.Dns", options.dns.clone());
        set_list(body, "HostConfig.DnsOptions", options.dns_option.clone());
        set_list(body, "HostConfig.DnsSearch", options.dns_search.clone());
        set_list(
            body,
            "HostConfig.ExtraHosts",
            options.add_host.iter().map(|(name, address)| format!("{name}:{address}")).collect(),
        );
        set_list(body, "HostConfig.Links", options.link.clone());
        let mut endpoints = Map::new();
        let mut mode = None;
        for (index, flag) in options.network.iter().enumerate() {
            let (name, mut endpoint) = endpoint(flag)?;
            if index == 0 {
                let aliases: Vec<String> =
                    endpoint.texts("Aliases").into_iter().chain(options.network_alias.iter().cloned()).collect();
                set_list(&mut endpoint, "Aliases", aliases);
                set_some(&mut endpoint, "IPAMConfig.IPv4Address", options.ip.map(|ip| ip.to_string()));
                set_some(&mut endpoint, "IPAMConfig.IPv6Address", options.ip6.map(|ip| ip.to_string()));
                set_some(&mut endpoint, "MacAddress", options.mac_address.clone());
                mode = Some(name.clone());
            }
            let special = ["none", "host", "default"].contains(&name.as_str()) || name.starts_with("container:");
            if special && options.network.len() > 1 {
                bail!("conflicting options: cannot attach both user-defined and non-user-defined network-modes");
            }
            if endpoints.insert(name.clone(), endpoint).is_some() {
                bail!("network {name:?} is specified multiple times");
            }
        }
        if mode.is_none() {
            if options.ip.is_some() || options.ip6.is_some() || !options.network_alias.is_empty() {
                bail!("--ip, --ip6 and --network-alias need --network with a network of your own");
            }
            if let Some(address) = &options.mac_address {
                endpoints.insert("default".to_owned(), json!({"MacAddress": address}));
            }
        }
        set(body, "HostConfig.NetworkMode", mode.unwrap_or_else(|| "default".to_owned()));
        endpoints.retain(|_, endpoint| {
            endpoint.as_object().is_some_and(|fields| !fields.is_empty()) || options.network.len() > 1
        });
        if !endpoints.is_empty() {
            set(body, "NetworkingConfig.EndpointsConfig", endpoints);
        }
        Ok(())
    }

    fn limits(&self, body: &mut Value) -> anyhow::Result<()> {
        let options = &self.limits;
        let mut put = |field: &str, value: Option<Value>| set_some(body, &format!("HostConfig.{field}"), value);
        put("Memory", options.memory.map(Value::from));
        put("MemoryReservation", options.memory_reservation.map(Value::from));
        put("MemorySwap", options.memory_swap.map(Value::from));
        put("MemorySwappiness", options.memory_swappiness.map(Value::from));
        put("OomKillDisable", options.oom_kill_disable.then(|| Value::from(true)));
        put("OomScoreAdj", options.oom_score_adj.map(Value::from));
        put("NanoCpus", options.cpus.map(Value::from));
        put("CpuShares", options.cpu_shares.map(Value::from));
        put("CpuPeriod", options.cpu_period.map(Value::from));
        put("CpuQuota", options.cpu_quota.map(Value::from));
        put("CpuRealtimePeriod", options.cpu_rt_period.map(Value::from));
        put("CpuRealtimeRuntime", options.cpu_rt_runtime.map(Value::from));
        put("CpusetCpus", options.cpuset_cpus.clone().map(Value::from));
        put("CpusetMems", options.cpuset_mems.clone().map(Value::from));
        put("PidsLimit", options.pids_limit.map(Value::from));
        put("BlkioWeight", options.blkio_weight.map(Value::from));
        put("ShmSize", options.shm_size.map(Value::from));
        put("CgroupParent", options.cgroup_parent.clone().map(Value::from));
        put("CgroupnsMode", options.cgroupns.clone().map(Value::from));
        set_list(body, "HostConfig.Ulimits", options.ulimit.clone());
        let bytes = |text: &str| size::bytes(text).map_err(anyhow::Error::msg);
        let number = |text: &str| text.parse::<i64>().with_context(|| format!("invalid rate '{text}'"));
        let mut throttle = |field: &str, key: &str, flags: &[String], rate: &dyn Fn(&str) -> anyhow::Result<i64>| {
            let devices = flags.iter().map(|flag| device_rate(flag, key, rate)).collect::<anyhow::Result<Vec<_>>>()?;
            set_list(body, &format!("HostConfig.{field}"), devices);
            anyhow::Ok(())
        };
        throttle("BlkioWeightDevice", "Weight", &options.blkio_weight_device, &number)?;
        throttle("BlkioDeviceReadBps", "Rate", &options.device_read_bps, &bytes)?;
        throttle("BlkioDeviceWriteBps", "Rate", &options.device_write_bps, &bytes)?;
        throttle("BlkioDeviceReadIOps", "Rate", &options.device_read_iops, &number)?;
        throttle("BlkioDeviceWriteIOps", "Rate", &options.device_write_iops, &number)
    }

    fn security(&self, body: &mut Value) -> anyhow::Result<()> {
        let options = &self.security;
        let mut put = |field: &str, value: Option<Value>| set_some(body, &format!("HostConfig.{field}"), value);
        put("ReadonlyRootfs", options.read_only.then(|| Value::from(true)));
        put("Privileged", options.privileged.then(|| Value::from(true)));
        put("IpcMode", options.ipc.clone().map(Value::from));
        put("PidMode", options.pid.clone().map(Value::from));
        put("UTSMode", options.uts.clone().map(Value::from));
        put("UsernsMode", options.userns.clone().map(Value::from));
        set_list(body, "HostConfig.GroupAdd", options.group_add.clone());
        set_list(body, "HostConfig.CapAdd", options.cap_add.clone());
        set_list(body, "HostConfig.CapDrop", options.cap_drop.clone());
        set_list(
            body,
            "HostConfig.SecurityOpt",
            options.security_opt.iter().map(|option| security_option(option)).collect::<anyhow::Result<Vec<_>>>()?,
        );
        set_list(
            body,
            "HostConfig.Devices",
            options.device.iter().map(|flag| device(flag)).collect::<anyhow::Result<Vec<_>>>()?,
        );
        set_list(body, "HostConfig.DeviceCgroupRules", options.device_cgroup_rule.clone());
        if !options.sysctl.is_empty() {
            set(body, "HostConfig.Sysctls", pair::map(&options.sysctl));
        }
        Ok(())
    }

    fn host(&self, body: &mut Value) -> anyhow::Result<()> {
        set(body, "HostConfig.RestartPolicy", restart_policy(&self.restart)?);
        set(body, "HostConfig.AutoRemove", self.rm);
        set_some(body, "HostConfig.Init", self.init);
        set_some(body, "HostConfig.Runtime", self.runtime.clone());
        set_some(
            body,
            "HostConfig.ContainerIDFile",
            self.cidfile.as_ref().map(|file| file.to_string_lossy().into_owned()),
        );
        if self.log_driver.is_some() || !self.log_opt.is_empty() {
            set(
                body,
                "HostConfig.LogConfig",
                json!({"Type": self.log_driver.clone().unwrap_or_default(), "Config": pair::map(&self.log_opt)}),
            );
        }
        if !self.annotation.is_empty() {
            set(body, "HostConfig.Annotations", pair::map(&self.annotation));
        }
        Ok(())
    }
}

/// The API's restart policy of `on-failure:3`.
pub(crate) fn restart_policy(text: &str) -> anyhow::Result<Value> {
    let (name, count) = text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    let count = count
        .map(str::parse::<u32>)
        .transpose()
        .with_context(|| format!("invalid restart policy format '{text}': maximum retry count must be an integer"))?;
    match name {
        "" | "no" | "always" | "unless-stopped" if count.is_none() => {
            Ok(json!({"Name": if name.is_empty() { "no" } else { name }, "MaximumRetryCount": 0}))
        }
        "on-failure" => Ok(json!({"Name": name, "MaximumRetryCount": count.unwrap_or_default()})),
        _ => bail!("invalid restart policy '{text}' (no, always, unless-stopped, on-failure[:max])"),
    }
}

/// A network's name and endpoint settings of `--network name` or `--network name=web,alias=www,ip=10.0.0.5`.
pub(crate) fn endpoint(flag: &str) -> anyhow::Result<(String, Value)> {
    if !flag.contains('=') {
        return Ok((flag.to_owned(), json!({})));
    }
    let (mut name, mut endpoint, mut aliases) = (String::new(), json!({}), Vec::new());
    for (key, value) in csv::pairs(flag).map_err(anyhow::Error::msg)? {
        let value = value.with_context(|| format!("invalid field '{key}' in --network: want key=value"))?;
        match key.as_str() {
            "name" => name = value,
            "alias" => aliases.push(value),
            "ip" => set(&mut endpoint, "IPAMConfig.IPv4Address", value),
            "ip6" => set(&mut endpoint, "IPAMConfig.IPv6Address", value),
            "mac-address" => set(&mut endpoint, "MacAddress", value),
            "gw-priority" => set(&mut endpoint, "GwPriority", value.parse::<i64>().context("invalid gw-priority")?),
            "driver-opt" => {
                let (key, value) = value.split_once('=').context("driver-opt must be key=value")?;
                set(&mut endpoint, "DriverOpts", json!({key: value}));
            }
            _ => bail!(
                "invalid field key {key} in --network (name, alias, ip, ip6, mac-address, driver-opt, gw-priority)"
            ),
        }
    }
    set_list(&mut endpoint, "Aliases", aliases);
    if name.is_empty() { bail!("network name is required in '{flag}'") } else { Ok((name, endpoint)) }
}

fn device_rate(flag: &str, key: &str, rate: &dyn Fn(&str) -> anyhow::Result<i64>) -> anyhow::Result<Value> {
    let (path, value) =
        flag.split_once(':').with_context(|| format!("bad format: {flag} (want <device-path>:<number>)"))?;
    if !path.starts_with("/dev/") {
        bail!("bad format for device path: {flag} (want /dev/...)");
    }
    let mut device = json!({"Path": path});
    set(&mut device, key, rate(value)?);
    Ok(device)
}

/// The API's device of `/dev/sda[:/dev/xvda[:rwm]]`.
fn device(flag: &str) -> anyhow::Result<Value> {
    let is_permissions = |text: &str| !text.is_empty() && text.chars().all(|character| "rwm".contains(character));
    let parts: Vec<&str> = flag.split(':').collect();
    let (host, inside, permissions) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, permissions] if is_permissions(permissions) => (*host, *host, *permissions),
        [host, inside] => (*host, *inside, "rwm"),
        [host, inside, permissions] if is_permissions(permissions) => (*host, *inside, *permissions),
        _ => bail!("invalid device specification: {flag}"),
    };
    Ok(json!({"PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": permissions}))
}

/// A seccomp profile is sent by content.
fn security_option(option: &str) -> anyhow::Result<String> {
    match option.split_once('=').or_else(|| option.split_once(':')) {
        Some(("seccomp", file)) if !["unconfined", "builtin"].contains(&file) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("opening seccomp profile ({file}) failed"))?;
            let profile: Value = serde_json::from_str(&text)
                .with_context(|| format!("compacting json for seccomp profile ({file}) failed"))?;
            Ok(format!("seccomp={profile}"))
        }
        _ => Ok(option.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(disable_help_flag = true)]
    struct Run {
        #[command(flatten)]
        options: ContainerOptions,
    }

    fn body(words: &[&str]) -> anyhow::Result<Value> {
        use clap::{CommandFactory as _, FromArgMatches as _};
        let command = crate::cli::flags::adapt(Run::command());
        let matches = command
            .try_get_matches_from(std::iter::once("run").chain(words.iter().copied()))
            .unwrap_or_else(|error| panic!("{error}"));
        let options = Run::from_arg_matches(&matches).unwrap().options;
        options.body("busybox", &["true".to_owned()], options.attached(false))
    }

    fn host(words: &[&str]) -> Value {
        body(words).unwrap()["HostConfig"].clone()
    }

    #[test]
    fn the_least_container() {
        let want = json!({
            "Image": "busybox", "Cmd": ["true"], "Env": [], "Labels": {}, "Tty": false, "OpenStdin": false, "StdinOnce": false,
            "AttachStdin": false, "AttachStdout": true, "AttachStderr": true,
            "HostConfig": {"NetworkMode": "default", "AutoRemove": false, "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}}
        });
        assert_eq!(body(&[]).unwrap(), want);
    }

    #[test]
    fn a_terminal() {
        let body = body(&["-it", "--rm"]).unwrap();
        assert_eq!(
            (
                &body["Tty"],
                &body["OpenStdin"],
                &body["StdinOnce"],
                &body["AttachStdin"],
                &body["HostConfig"]["AutoRemove"]
            ),
            (&json!(true), &json!(true), &json!(true), &json!(true), &json!(true))
        );
    }

    #[test]
    fn ports_volumes_and_limits() {
        let host = host(&[
            "-p",
            "8080:80",
            "-p",
            "127.0.0.1::53/udp",
            "-v",
            "data:/data:ro",
            "-v",
            "/anon",
            "--tmpfs",
            "/run:size=1m",
            "--mount",
            "type=bind,src=/a,dst=/b",
            "-m",
            "64m",
            "--memory-swap",
            "-1",
            "--cpus",
            "1.5",
            "--pids-limit",
            "10",
            "--ulimit",
            "nofile=10",
            "--shm-size",
            "1m",
            "--cgroup-parent",
            "/x",
            "--device-read-bps",
            "/dev/sda:1mb",
            "--blkio-weight",
            "300",
            "--oom-score-adj",
            "-5",
        ]);
        assert_eq!(
            host["PortBindings"],
            json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "53/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}]})
        );
        assert_eq!(host["Binds"], json!(["data:/data:ro"]));
        assert_eq!(host["Tmpfs"], json!({"/run": "size=1m"}));
        assert_eq!(host["Mounts"], json!([{"Type": "bind", "Source": "/a", "Target": "/b"}]));
        assert_eq!(
            (&host["Memory"], &host["MemorySwap"], &host["NanoCpus"]),
            (&json!(64 << 20), &json!(-1), &json!(1_500_000_000))
        );
        assert_eq!(
            (&host["PidsLimit"], &host["ShmSize"], &host["CgroupParent"]),
            (&json!(10), &json!(1 << 20), &json!("/x"))
        );
        assert_eq!(host["Ulimits"], json!([{"Name": "nofile", "Soft": 10, "Hard": 10}]));
        assert_eq!(host["BlkioDeviceReadBps"], json!([{"Path": "/dev/sda", "Rate": 1 << 20}]));
        assert_eq!((&host["BlkioWeight"], &host["OomScoreAdj"]), (&json!(300), &json!(-5)));
    }

    #[test]
    fn networks() {
        let one = body(&[
            "--network",
            "web",
            "--network-alias",
            "www",
            "--ip",
            "172.18.0.9",
            "-h",
            "box",
            "--add-host",
            "db:10.0.0.1",
        ])
        .unwrap();
        assert_eq!(one["HostConfig"]["NetworkMode"], "web");
        assert_eq!(
            one["NetworkingConfig"]["EndpointsConfig"],
            json!({"web": {"Aliases": ["www"], "IPAMConfig": {"IPv4Address": "172.18.0.9"}}})
        );
        assert_eq!((&one["Hostname"], &one["HostConfig"]["ExtraHosts"]), (&json!("box"), &json!(["db:10.0.0.1"])));
        let two = body(&["--network", "name=a,alias=x", "--network", "b"]).unwrap();
        assert_eq!(two["NetworkingConfig"]["EndpointsConfig"], json!({"a": {"Aliases": ["x"]}, "b": {}}));
        assert!(body(&["--network", "host", "--network", "b"]).is_err());
        assert!(body(&["--ip", "172.18.0.9"]).is_err());
        assert_eq!(host(&["--network", "none"])["NetworkMode"], "none");
    }

    #[test]
    fn security() {
        let host = host(&[
            "--cap-add",
            "NET_ADMIN",
            "--cap-drop",
            "ALL",
            "--read-only",
            "--security-opt",
            "no-new-privileges",
            "--security-opt",
            "seccomp=unconfined",
            "--device",
            "/dev/null:/dev/x:r",
            "--sysctl",
            "net.core.somaxconn=5",
            "--init",
            "--group-add",
            "video",
            "--pid",
            "host",
        ]);
        assert_eq!((&host["CapAdd"], &host["CapDrop"]), (&json!(["NET_ADMIN"]), &json!(["ALL"])));
        assert_eq!(host["SecurityOpt"], json!(["no-new-privileges", "seccomp=unconfined"]));
        assert_eq!(
            host["Devices"],
            json!([{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "r"}])
        );
        assert_eq!(
            (&host["ReadonlyRootfs"], &host["Init"], &host["PidMode"]),
            (&json!(true), &json!(true), &json!("host"))
        );
    }

    #[test]
    fn restarts_and_health() {
        assert_eq!(restart_policy("on-failure:3").unwrap(), json!({"Name": "on-failure", "MaximumRetryCount": 3}));
        assert!(restart_policy("always:3").is_err() && restart_policy("often").is_err());
        assert!(body(&["--rm", "--restart", "always"]).is_err());
        let checked = body(&["--health-cmd", "true", "--health-interval", "1s", "--entrypoint", "sh"]).unwrap();
        assert_eq!(checked["Healthcheck"], json!({"Test": ["CMD-SHELL", "true"], "Interval": 1_000_000_000}));
        assert_eq!(checked["Entrypoint"], json!(["sh"]));
        assert_eq!(body(&["--no-healthcheck"]).unwrap()["Healthcheck"], json!({"Test": ["NONE"]}));
    }
}
