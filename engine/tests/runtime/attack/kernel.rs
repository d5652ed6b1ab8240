//! What the kernel would do for a container that asks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use shoal_engine::runtime::spec::{CapabilityChange, SeccompChoice, SpecInput};

use super::super::sandbox::{Backend, Sandbox, eventually};
use super::{compile, tell};

pub(crate) const TESTS: &[crate::Test] = &[
    ("attack::kernel::calls_that_lead_out_are_refused", calls_that_lead_out_are_refused),
    ("attack::kernel::cgroups_cannot_be_written", cgroups_cannot_be_written),
    ("attack::kernel::the_hosts_settings_cannot_be_written", the_hosts_settings_cannot_be_written),
];

const EPERM: &str = "1";
/// What `socketcall` asks for lies in memory, which a filter does not see: libseccomp, and with it runc, lets it pass.
const BY_SOCKETCALL: [&str; 2] = ["alg-int80-socketcall", "alg-int80-socketcall-high-bits"];

fn calls_that_lead_out_are_refused(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    compile(&sandbox, include_str!("hostile.c"), "hostile");
    let calls = |change: &dyn Fn(&mut SpecInput)| -> BTreeMap<String, String> {
        let said = sandbox.shell("hostile", |input| change(input));
        said.lines().filter_map(|line| line.split_once(' ')).map(|(name, code)| (name.into(), code.into())).collect()
    };
    let all = calls(&|input| input.privileged = true);
    // The control: nobody refuses them to who is privileged. What this kernel does not have is another matter.
    let refused: Vec<_> = all.iter().filter(|(_, code)| *code == EPERM).collect();
    assert!(all.len() > 20 && refused.is_empty(), "{refused:?} of {all:?}");
    let mut default = calls(&|_| {});
    assert_eq!(default.len(), all.len());
    if backend == Backend::Runc {
        let passed = BY_SOCKETCALL.map(|name| default.remove(name)).into_iter().flatten().any(|code| code != EPERM);
        tell(backend, "AF_ALG through socketcall", passed);
    }
    default.retain(|_, code| code != EPERM);
    assert!(default.is_empty(), "not refused: {default:?}");
    // Nor does root in the container get them back with capabilities that are none of their business.
    let mut other = calls(&|input| input.capabilities.add = vec!["NET_ADMIN".to_owned(), "SYS_PTRACE".to_owned()]);
    other.retain(|name, code| code != EPERM && !(backend == Backend::Runc && BY_SOCKETCALL.contains(&&**name)));
    assert!(other.is_empty(), "not refused: {other:?}");
}

fn cgroups_cannot_be_written(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    let script = "cd /sys/fs/cgroup; mkdir /tmp/m; \
        for c in . *; do [ -e $c/cgroup.procs ] || continue; for f in notify_on_release release_agent cgroup.procs devices.allow cgroup.subtree_control; do \
        [ -e $c/$f ] && (: >> $c/$f) 2>/dev/null && echo opened $f && [ $f = notify_on_release ] && echo 1 > $c/$f; \
        done; mkdir $c/new 2>/dev/null && echo made $c/new && busybox rmdir $c/new; \
        mount -o remount,rw,bind /sys/fs/cgroup/$c 2>/dev/null && echo remounted $c; done; \
        for t in cgroup cgroup2; do for o in pids memory devices rw; do \
        mount -t $t -o $o x /tmp/m 2>/dev/null && echo mounted $t && umount /tmp/m; done; done; \
        busybox mv /tmp/said /tmp/done; sleep 100";
    let run = |change: &dyn Fn(&mut SpecInput)| {
        let done = sandbox.rootfs().join("tmp/done");
        let mut input = sandbox.input(&["sh", "-c", &format!("exec > /tmp/said; {script}")]);
        change(&mut input);
        let running = sandbox.create(&input).unwrap();
        sandbox.wait_for(running.shim.start()).unwrap();
        eventually("the attack is over", || done.exists());
        let said = fs::read_to_string(&done).unwrap();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let own = hierarchies.map(|entry| entry.path().join(running.cgroup.trim_start_matches('/')));
        // A new one has what its parent has.
        let is_told =
            |folder: &Path| fs::read_to_string(folder.join("notify_on_release")).is_ok_and(|text| text.trim() == "1");
        let notified = own.filter(|own| is_told(own) && !own.parent().is_some_and(is_told)).count();
        sandbox.wait_for(async {
            running.shim.signal(9, true).await.unwrap();
            running.shim.wait().await.unwrap();
        });
        fs::remove_file(done).unwrap();
        fs::remove_dir(sandbox.rootfs().join("tmp/m")).unwrap();
        (said, notified)
    };
    assert_eq!(run(&|_| {}), (String::new(), 0));
    assert_eq!(run(&|input| input.user.uid = 1000), (String::new(), 0));
    // The control: with what protects taken away, the host sees what was written. (The library gives a container no cgroup in
    // named hierarchies: there it would write to the host's root.)
    if backend != Backend::Libcontainer {
        let (said, notified) = run(&|input| {
            input.capabilities.add = vec!["SYS_ADMIN".to_owned()];
            input.seccomp = SeccompChoice::Unconfined;
            input.writable_cgroups = true;
        });
        assert!(
            said.contains("opened cgroup.procs") && said.contains("made") && said.contains("mounted cgroup"),
            "{said}"
        );
        // What the kernel starts on the host when a cgroup empties is of v1.
        let has_v1 = fs::read_to_string("/proc/self/cgroup").unwrap().lines().any(|line| !line.starts_with("0::"));
        assert!(!has_v1 || said.contains("opened notify_on_release") && notified > 0, "{said}");
    }
    // The filter alone is enough against new mounts, and read-only mounts alone against writes.
    let (said, notified) = run(&|input| {
        input.capabilities = CapabilityChange { add: vec!["ALL".to_owned()], drop: vec!["SYS_ADMIN".to_owned()] };
        input.seccomp = SeccompChoice::Unconfined;
    });
    assert_eq!((said.as_str(), notified), ("", 0));
}

/// A disk of the host that root may read, as `major minor`.
fn readable_disk(sandbox: &Sandbox) -> Option<String> {
    use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
    let node = sandbox.dir.path().join("disk");
    fs::read_dir("/sys/block").unwrap().flatten().find_map(|disk| {
        let numbers = fs::read_to_string(disk.path().join("dev")).ok()?.trim().replace(':', " ");
        let (major, minor) = numbers.split_once(' ')?;
        let device = makedev(major.parse().ok()?, minor.parse().ok()?);
        mknodat(CWD, &node, FileType::BlockDevice, Mode::RUSR, device).unwrap();
        let read = fs::File::open(&node).and_then(|mut disk| std::io::Read::read(&mut disk, &mut [0; 512]));
        fs::remove_file(&node).unwrap();
        (read.ok()? > 0).then_some(numbers)
    })
}

fn the_hosts_settings_cannot_be_written(backend: Backend) {
    let sandbox = Sandbox::new(backend);
    // They are opened and left as they are: an attack that works must not do harm.
    let script = "for f in sys/kernel/core_pattern sys/kernel/modprobe sys/kernel/printk sys/vm/panic_on_oom \
        sys/fs/binfmt_misc/register sys/fs/protected_symlinks sysrq-trigger irq/default_smp_affinity; do \
        [ -e /proc/$f ] && (: >> /proc/$f) 2>/dev/null && echo opened $f; done; \
        for f in /sys/kernel/uevent_helper /sys/power/state /sys/kernel/mm/transparent_hugepage/enabled \
        /sys/module/printk/parameters/time; do [ -e $f ] && (: >> $f) 2>/dev/null && echo opened $f; done; \
        for f in kcore keys timer_list interrupts; do [ -s /proc/$f ] || head -c 1 /proc/$f 2>/dev/null | grep -q . \
        && echo read $f; done; \
        for m in /proc/sys /proc/sysrq-trigger /proc/interrupts /sys /sys/firmware; do \
        umount $m 2>/dev/null && echo unmounted $m; mount -o remount,rw,bind $m 2>/dev/null && echo remounted $m; done; \
        [ -c /dev/kmsg ] && (: >> /dev/kmsg) 2>/dev/null && echo opened kmsg; mknod /tmp/disk b DISK && head -c 1 /tmp/disk >/dev/null 2>&1 \
        && echo read the disk; rm /tmp/disk; true";
    let disk = readable_disk(&sandbox);
    let script = &script.replace("DISK", disk.as_deref().unwrap_or("7 0"));
    assert_eq!(sandbox.shell(script, |_| {}), "");
    let with_others = |input: &mut SpecInput| {
        input.capabilities.add = ["NET_ADMIN", "SYS_PTRACE", "SYS_RAWIO", "SYSLOG"].map(str::to_owned).into();
        input.seccomp = SeccompChoice::Unconfined;
    };
    assert_eq!(sandbox.shell(script, with_others), "");
    // The control.
    let open = sandbox.shell(script, |input| {
        input.masked_paths = Some(Vec::new());
        input.read_only_paths = Some(Vec::new());
    });
    for found in ["opened sys/kernel/core_pattern", "opened irq/default_smp_affinity", "read interrupts"] {
        assert!(open.contains(found), "{found} in {open}");
    }
    let privileged = sandbox.shell(script, |input| input.privileged = true);
    assert!(privileged.contains("remounted /sys") && privileged.contains("opened kmsg"), "{privileged}");
    assert!(disk.is_none() || privileged.contains("read the disk"), "{privileged}");
}
