//! Terminals: receiving a master from a runtime, sizes, and the controlling terminal.

use std::io;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::termios::Winsize;

/// Sets a terminal's size, through its master or slave side.
///
/// # Errors
/// As `ioctl(TIOCSWINSZ)`.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Receives one descriptor over a unix socket, as OCI runtimes send a terminal's master over the console socket.
///
/// # Errors
/// When the connection ends, or the message has no descriptor.
pub fn receive_descriptor(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0_u8; 256];
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut name)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no descriptor in the message"))
}

/// A new terminal of the `devpts` that is mounted at `/dev/pts` here: its master and its slave.
///
/// The slave is opened through the master, so nothing can be put in its place between the two (CVE-2025-52565).
///
/// # Errors
/// When `/dev/ptmx` is missing or is not the multiplexer of terminals.
pub fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::OpenptFlags;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/pts/ptmx", flags | OFlags::NOFOLLOW, Mode::empty())?;
    let device = rustix::fs::fstat(&master)?.st_rdev;
    let magic = rustix::fs::fstatfs(&master)?.f_type;
    if (rustix::fs::major(device), rustix::fs::minor(device)) != (5, 2) || magic != DEVPTS_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/pts/ptmx is not the terminal multiplexer"));
    }
    rustix::pty::unlockpt(&master)?;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    Ok((master, slave))
}

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: rustix::fs::FsWord = 0x1cd1;

/// Sends one descriptor over a unix socket.
///
/// # Errors
/// When the other side is gone.
pub fn send_descriptor(socket: impl AsFd, descriptor: impl AsFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[io::IoSlice::new(b"terminal")], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Makes a terminal this session's controlling one, and this process's three standard streams. The process must lead a
/// session that has none yet.
///
/// # Errors
/// As `ioctl(TIOCSCTTY)`.
pub fn take_over(slave: &OwnedFd) -> io::Result<()> {
    rustix::process::ioctl_tiocsctty(slave)?;
    rustix::stdio::dup2_stdin(slave)?;
    rustix::stdio::dup2_stdout(slave)?;
    Ok(rustix::stdio::dup2_stderr(slave)?)
}
