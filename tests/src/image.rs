//! The test image: a static busybox and nothing else, made here because no registry is at hand.

use std::io::Write;

use anyhow::Context;

/// Its name on every host.
pub const NAME: &str = "page:1";

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 26] = [
    "sh", "sleep", "echo", "cat", "ls", "true", "false", "httpd", "wget", "ping", "nc", "ip", "id", "mount",
    "hostname", "head", "tail", "env", "touch", "mkdir", "rm", "kill", "dd", "nslookup", "timeout", "grep",
];

/// A root file system as a tar: `/bin/busybox`, links to it, and the usual empty folders.
///
/// # Errors
/// When busybox is not installed (Debian: busybox-static).
pub fn busybox() -> anyhow::Result<Vec<u8>> {
    let program = std::fs::read(BUSYBOX).context("no /bin/busybox: install busybox-static")?;
    let mut tar = Vec::new();
    for folder in ["bin/", "etc/", "tmp/", "www/", "proc/", "sys/", "dev/", "root/"] {
        entry(&mut tar, folder, b'5', 0o755, "", &[])?;
    }
    entry(&mut tar, "bin/busybox", b'0', 0o755, "", &program)?;
    for applet in APPLETS {
        entry(&mut tar, &format!("bin/{applet}"), b'2', 0o777, "busybox", &[])?;
    }
    entry(&mut tar, "etc/passwd", b'0', 0o644, "", b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")?;
    entry(&mut tar, "etc/group", b'0', 0o644, "", b"root:x:0:\nweb:x:1000:\n")?;
    tar.extend([0; 1024]);
    Ok(tar)
}

/// One ustar entry: its name, its type flag, its mode, what it links to, its contents. Names have at most 100 bytes.
///
/// # Errors
/// Never: writing to memory does not fail.
pub fn entry(tar: &mut Vec<u8>, name: &str, kind: u8, mode: u32, link: &str, data: &[u8]) -> anyhow::Result<()> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", data.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.write_all(&header)?;
    tar.write_all(data)?;
    tar.resize(tar.len().next_multiple_of(512), 0);
    Ok(())
}
