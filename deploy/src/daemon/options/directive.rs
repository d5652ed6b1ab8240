//! Every directive of dockerd, 20.10's and 28's: its name on the command line and in the config file, and what it is here.
//!
//! ## Design notes
//! One table says it all, so that nothing is silently ignored: a directive takes effect, or it has no meaning here (which is
//! logged), or it is refused by name. Command line, config file, conflicts between them, reload and help follow from it.

use serde_json::Value;

/// What a directive's value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--icc`, `--icc=false`; true or false in the file.
    Switch,
    /// A word.
    Text,
    /// A whole number.
    Number,
    /// `64m`; in the file a number, too.
    Bytes,
    /// May be given several times; a list in the file.
    List,
    /// `name=value`, several times; an object of texts in the file.
    Pairs,
    /// `name=path`; `{"name": {"path": …}}`.
    Runtimes,
    /// `nofile=1024:2048`; `{"nofile": {"Name": …, "Soft": …, "Hard": …}}`.
    Ulimits,
    /// `base=10.0.0.0/8,size=24`; `[{"base": …, "size": …}]`.
    Pools,
    /// `bridge=name=value`; `{"bridge": {"name": "value"}}`.
    DriverOptions,
    /// `name` or `name=false`; `{"name": true}`.
    Features,
    /// Whatever the file holds.
    Any,
}

/// What becomes of a directive here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It takes effect when the daemon starts.
    Start,
    /// It takes effect when the daemon starts and when its file is read again.
    Reload,
    /// It is accepted, and there is nothing that it could change. Why.
    Idle(&'static str),
    /// Only these values have a meaning here; others are refused. Why.
    Only(&'static [&'static str], &'static str),
    /// It cannot be done, unless it is switched off or empty. Why.
    Refused(&'static str),
}

/// A directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Directive {
    /// Its key in the config file.
    pub key: &'static str,
    /// Its flag; `None` when it stands in the file only.
    pub flag: Option<&'static str>,
    /// Its short flag.
    pub short: Option<char>,
    /// Its value.
    pub kind: Kind,
    /// What becomes of it.
    pub effect: Effect,
    /// One line for the help.
    pub help: &'static str,
}

impl Directive {
    const fn new(key: &'static str, kind: Kind, effect: Effect, help: &'static str) -> Self {
        Self { key, flag: Some(key), short: None, kind, effect, help }
    }

    const fn flag(self, flag: &'static str) -> Self {
        Self { flag: Some(flag), ..self }
    }

    const fn short(self, short: char) -> Self {
        Self { short: Some(short), ..self }
    }

    const fn in_file_only(self) -> Self {
        Self { flag: None, ..self }
    }

    /// The line for the help: of what does nothing here, that and why.
    pub(super) fn described(&self) -> String {
        match self.effect {
            Effect::Start | Effect::Reload | Effect::Only(..) => self.help.to_owned(),
            Effect::Idle(why) => format!("No effect: {why}"),
            Effect::Refused(why) => format!("Not offered: {why}"),
        }
    }

    /// Is a value as good as none?
    pub(super) fn is_off(value: &Value) -> bool {
        match value {
            Value::Null | Value::Bool(false) => true,
            Value::Bool(true) => false,
            Value::Number(number) => number.as_f64() == Some(0.0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        }
    }
}

use Effect::{Idle, Only, Refused, Reload, Start};
use Kind::{Any, Bytes, DriverOptions, Features, List, Number, Pairs, Pools, Runtimes, Switch, Text, Ulimits};

const IPV6: Effect = Refused("IPv6 is not offered yet");
const NO_CONTAINERD: Effect = Idle("no containerd is used");
const NO_PROXY_PROCESS: Effect =
    Idle("published ports are rules of the kernel, loopback included, and on IPv6 addresses carried by the daemon");
const NO_NETWORK_GOSSIP: Effect = Idle("networks have no gossip: the cluster's store is the truth");
const RAFT_TIMING: Effect = Idle("raft has its own timing");
const NO_STORE: Effect = Refused("clusters need no store of their own: use `swarm init`");

const fn directive(key: &'static str, kind: Kind, effect: Effect, help: &'static str) -> Directive {
    Directive::new(key, kind, effect, help)
}

/// All of them, in the order of the help.
pub(super) const DIRECTIVES: &[Directive] = &[
    // The daemon itself.
    directive("data-root", Text, Start, "Folder for everything that must survive a reboot [default: /var/lib/shoal]").short('g'),
    directive("exec-root", Text, Start, "Folder for sockets and state of what runs [default: /run/shoal]"),
    directive("pidfile", Text, Start, "File that holds the daemon's process id while it runs [default: /run/shoal.pid]").short('p'),
    directive("debug", Switch, Reload, "Log what the daemon does in detail").short('D'),
    directive("log-level", Text, Reload, "debug, info, warn, error, fatal [default: info]").short('l'),
    directive("log-format", Text, Start, "text or json [default: text]"),
    directive("raw-logs", Switch, Idle("the log has full time stamps and no colours"), "Full time stamps without colours"),
    directive("labels", List, Reload, "Label of this node, key=value; constraints match it as engine.labels.key").flag("label"),
    directive("features", Features, Reload, "Switch a feature on or off").flag("feature"),
    directive("experimental", Switch, Start, "Enable experimental features: checkpoints of containers, by CRIU"),
    directive("live-restore", Switch, Reload, "Containers outlive the daemon; =false stops them with it [default: true]"),
    directive("shutdown-timeout", Number, Reload, "Seconds that containers have to stop with the daemon; -1 is no bound [default: 15]"),
    directive("oom-score-adjust", Number, Start, "Set the oom_score_adj of the daemon"),
    directive("metrics-addr", Text, Start, "Serve Prometheus metrics at this address, as 127.0.0.1:9323"),
    directive("rootless", Switch, Refused("the daemon runs as root"), "Enable rootless mode"),
    // Its API.
    directive("hosts", List, Start, "Where the API listens: unix:///path, tcp://address:port or fd:// (sockets passed by systemd); TCP beyond loopback needs --tlsverify [default: unix:///run/shoal/shoal.sock]").flag("host").short('H'),
    directive("group", Text, Start, "Group that may use unix sockets of the API [default: docker, if there is one]").short('G'),
    directive("tls", Switch, Start, "Use TLS on TCP; implied by --tlsverify"),
    directive("tlsverify", Switch, Start, "Use TLS on TCP, and let in only clients with a certificate of --tlscacert"),
    directive("tlscacert", Text, Start, "Authority that clients' certificates must come from, PEM [default: ~/.docker/ca.pem]"),
    directive("tlscert", Text, Start, "The daemon's certificate, PEM [default: ~/.docker/cert.pem]"),
    directive("tlskey", Text, Start, "The key of that certificate, PEM [default: ~/.docker/key.pem]"),
    directive("authorization-plugins", List, Refused("there are no plugins: let only those in that may do everything"), "Authorization plugins to load").flag("authorization-plugin"),
    directive("api-cors-header", Text, Refused("pages of other origins are not let in"), "Set CORS headers in the API"),
    // Containers.
    directive("runtimes", Runtimes, Reload, "One more OCI runtime, name=path").flag("add-runtime"),
    directive("default-runtime", Text, Reload, "Runtime of containers that name none; \"shoal\" is the built-in one"),
    directive("cgroup-parent", Text, Start, "Cgroup below which every container gets its own [default: /shoal]"),
    directive("exec-opts", List, Start, "Options of the runtime: native.cgroupdriver=cgroupfs").flag("exec-opt"),
    directive("init", Switch, Start, "Run an init in containers that do not say"),
    directive("init-path", Text, Start, "The program of that init"),
    directive("log-driver", Text, Start, "Log driver of containers that name none [default: json-file]"),
    directive("log-opts", Pairs, Start, "Options of that log driver, name=value").flag("log-opt"),
    directive("default-ulimits", Ulimits, Start, "Ulimit of containers that do not set it, name=soft[:hard]").flag("default-ulimit"),
    directive("default-shm-size", Bytes, Reload, "Size of /dev/shm of containers that do not say [default: 64m]"),
    directive("default-ipc-mode", Text, Reload, "private or shareable [default: private]"),
    directive("default-cgroupns-mode", Text, Reload, "private or host [default: private on cgroup v2, else host]"),
    directive("no-new-privileges", Switch, Start, "Forbid processes of containers that do not say to gain privileges"),
    directive("seccomp-profile", Text, Start, "builtin, unconfined, or the path of a seccomp profile [default: builtin]"),
    directive("selinux-enabled", Switch, Refused("SELinux labels are not offered"), "Enable SELinux support"),
    directive("userns-remap", Text, Start, "Run containers in user namespaces with the ids that /etc/subuid and /etc/subgid give to this user: default, user[:group] or uid[:gid]"),
    directive("cpu-rt-period", Number, Refused("real-time scheduling is set per container"), "Real-time period of the parent cgroup"),
    directive("cpu-rt-runtime", Number, Refused("real-time scheduling is set per container"), "Real-time runtime of the parent cgroup"),
    directive("cdi-spec-dirs", List, Start, "Folder of CDI specifications").flag("cdi-spec-dir"),
    // Local networks.
    directive("bridge", Text, Start, "Use this bridge, made by somebody else, as the default one; none is no default bridge").short('b'),
    directive("bip", Text, Start, "Address and prefix length of the default bridge, for example 172.17.0.1/16"),
    directive("bip6", Text, IPV6, "IPv6 address of the default bridge"),
    directive("fixed-cidr", Text, Start, "Part of the default bridge's subnet that containers get addresses of"),
    directive("fixed-cidr-v6", Text, IPV6, "IPv6 subnet of the default bridge"),
    directive("default-gateway", Text, Start, "Gateway of containers on the default bridge"),
    directive("default-gateway-v6", Text, IPV6, "IPv6 gateway of containers on the default bridge"),
    directive("mtu", Number, Start, "MTU of the default bridge [default: that of the default route, at most 1500]"),
    directive("icc", Switch, Start, "Let containers on the default bridge reach each other [default: true]"),
    directive("ip", Text, Start, "Host address that ports of the default bridge are published at [default: 0.0.0.0]"),
    directive("ip-forward", Switch, Start, "Switch on net.ipv4.ip_forward [default: true]"),
    directive("ip-forward-no-drop", Switch, Idle("what is not of containers is never dropped"), "Do not drop forwarded packets of others"),
    directive("ip-masq", Switch, Start, "Hide the addresses of the default bridge [default: true]"),
    directive("iptables", Switch, Start, "Write rules into the kernel's packet filter (nftables) [default: true]"),
    directive("ip6tables", Switch, Idle("there is no IPv6 to write rules for"), "Write rules for IPv6"),
    directive("ipv6", Switch, IPV6, "Enable IPv6"),
    directive("firewall-backend", Text, Only(&["nftables"], "rules are written into nftables"), "Packet filter"),
    directive("bridge-accept-fwmark", Text, Refused("marks of others are not looked at"), "Accept packets with this mark"),
    directive("allow-direct-routing", Switch, Refused("containers are reached by published ports"), "Let remote hosts reach containers' addresses"),
    directive("userland-proxy", Switch, NO_PROXY_PROCESS, "Use a process for loopback traffic"),
    directive("userland-proxy-path", Text, NO_PROXY_PROCESS, "Path of that process's program"),
    directive("default-address-pools", Pools, Start, "Subnets for networks made without one, base=10.0.0.0/8,size=24").flag("default-address-pool"),
    directive("default-network-opts", DriverOptions, Start, "Option of networks that do not set it, driver=name=value").flag("default-network-opt"),
    directive("dns", List, Start, "Name server of containers that name none"),
    directive("dns-opts", List, Start, "Option of the resolver of containers that set none").flag("dns-opt"),
    directive("dns-search", List, Start, "Search domain of containers that name none"),
    directive("host-gateway-ips", List, Start, "What host-gateway in --add-host stands for [default: the default bridge]").flag("host-gateway-ip"),
    directive("host-gateway-ip", Text, Start, "").in_file_only(),
    // The cluster.
    directive("swarm-default-advertise-addr", Text, Start, "Address or interface that this node advertises when init and join name none"),
    directive("node-generic-resources", List, Start, "Resource that this node offers to services, kind=number").flag("node-generic-resource"),
    directive("swarm-raft-heartbeat-tick", Number, RAFT_TIMING, "Raft's heartbeat"),
    directive("swarm-raft-election-tick", Number, RAFT_TIMING, "Raft's election time-out"),
    directive("network-control-plane-mtu", Number, NO_NETWORK_GOSSIP, "MTU of the networks' gossip"),
    directive("network-diagnostic-port", Number, Refused("networks have no gossip to diagnose"), "Port of the networks' diagnosis"),
    directive("cluster-store", Text, NO_STORE, "Address of a key-value store"),
    directive("cluster-advertise", Text, NO_STORE, "Address in a key-value store"),
    directive("cluster-store-opts", Pairs, NO_STORE, "Options of a key-value store").flag("cluster-store-opt"),
    // Images and registries.
    directive("storage-driver", Text, Only(&["overlay2", "overlayfs"], "layers are stacked by the kernel's overlay file system"), "Storage driver").short('s'),
    directive("storage-opts", List, Start, "Options of the storage driver").flag("storage-opt"),
    directive("registry-mirrors", List, Reload, "Mirror of Docker Hub, https://host").flag("registry-mirror"),
    directive("insecure-registries", List, Reload, "Registry, or subnet of registries, without valid TLS").flag("insecure-registry"),
    directive("allow-nondistributable-artifacts", List, Idle("no artifact is held back"), "Registry that gets all artifacts"),
    directive("max-concurrent-downloads", Number, Reload, "Layers of a pull at a time [default: 3]"),
    directive("max-concurrent-uploads", Number, Reload, "Layers of a push at a time [default: 5]"),
    directive("max-download-attempts", Number, Reload, "Attempts for each layer of a pull [default: 5]"),
    directive("http-proxy", Text, Start, "Proxy for HTTP, as http://proxy:3128"),
    directive("https-proxy", Text, Start, "Proxy for HTTPS"),
    directive("no-proxy", Text, Start, "Hosts that are reached without a proxy, separated by commas"),
    directive("builder", Any, Idle("there is no build cache"), "").in_file_only(),
    // containerd.
    directive("containerd", Text, NO_CONTAINERD, "Address of containerd"),
    directive("containerd-namespace", Text, NO_CONTAINERD, "Its namespace for containers"),
    directive("containerd-plugins-namespace", Text, NO_CONTAINERD, "Its namespace for plugins"),
    directive("containerd-plugin-namespace", Text, NO_CONTAINERD, "").in_file_only(),
    directive("cri-containerd", Switch, NO_CONTAINERD, "Start containerd with its CRI plugin"),
    directive("deprecated-key-path", Text, Idle("images are not signed with it"), "").in_file_only(),
];

/// The directive of a key.
pub(super) fn of_key(key: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.key == key)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The flags of dockerd 28 that are no directives: `config-file`, `help`, `validate` and `version` apart.
    const FLAGS_28: &str = "add-runtime allow-direct-routing allow-nondistributable-artifacts authorization-plugin bip bip6 \
        bridge cdi-spec-dir cgroup-parent containerd containerd-namespace containerd-plugins-namespace cpu-rt-period \
        cpu-rt-runtime cri-containerd data-root debug default-address-pool default-cgroupns-mode default-gateway \
        default-gateway-v6 default-ipc-mode default-network-opt default-runtime default-shm-size default-ulimit dns dns-opt \
        dns-search exec-opt exec-root experimental feature fixed-cidr fixed-cidr-v6 group host host-gateway-ip http-proxy \
        https-proxy icc init init-path insecure-registry ip ip-forward ip-forward-no-drop ip-masq ip6tables iptables ipv6 label \
        live-restore log-driver log-format log-level log-opt max-concurrent-downloads max-concurrent-uploads \
        max-download-attempts metrics-addr mtu network-control-plane-mtu no-new-privileges no-proxy node-generic-resource \
        pidfile raw-logs registry-mirror rootless seccomp-profile selinux-enabled shutdown-timeout storage-driver storage-opt \
        swarm-default-advertise-addr tls tlscacert tlscert tlskey tlsverify userland-proxy userland-proxy-path userns-remap \
        network-diagnostic-port swarm-raft-election-tick swarm-raft-heartbeat-tick";
    /// Those of 20.10 that 28 has not.
    const FLAGS_20: &str = "api-cors-header cluster-advertise cluster-store cluster-store-opt oom-score-adjust";

    #[test]
    fn every_flag_of_dockerd_is_there_once() {
        for flag in FLAGS_28.split_whitespace().chain(FLAGS_20.split_whitespace()) {
            let found = DIRECTIVES.iter().filter(|directive| directive.flag == Some(flag)).count();
            assert_eq!(found, 1, "--{flag}");
        }
        for (index, directive) in DIRECTIVES.iter().enumerate() {
            let same = |other: &&Directive| {
                other.key == directive.key || (other.short.is_some() && other.short == directive.short)
            };
            assert_eq!(DIRECTIVES[index + 1..].iter().find(same), None, "{}", directive.key);
            assert_eq!(directive.flag.is_none(), directive.help.is_empty(), "{}", directive.key);
        }
    }
}
