//! The zygote: where shims are forked from.
//!
//! A message on its socket is `run` or `exec`, a blank, and the shim's directory; with it come two descriptors, the shim's
//! first connection and its `shim.log`. There is no answer: the shim answers on its connection.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use shoal_engine_sys::memory;
use shoal_engine_sys::process::{self, Fork, SealedProgram, SingleThread};

use super::protocol::{Response, RuntimeFailure, message};

/// The longest message: a verb and a path.
const MAX_MESSAGE_BYTES: usize = 4096 + 16;

/// Room that the zygote is started with for the words that its children show.
const TITLE_BYTES: usize = 400;

/// The daemon's side: starts a zygote when one is needed, and a new one when it is gone.
#[derive(Debug)]
pub(super) struct Zygote {
    program: SealedProgram,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: OwnedFd,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself when the socket closes. Killed besides, so that waiting for it cannot last.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Zygote {
    pub(super) fn new(program: SealedProgram) -> Self {
        Self { program, running: Mutex::new(None) }
    }

    /// Starts it before it is needed, so that the first container does not wait for it.
    pub(super) fn warm_up(&self) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_none() {
            *running = Some(self.start()?);
        }
        Ok(())
    }

    fn start(&self) -> io::Result<Running> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let mut command = self.program.command();
        command.args(["shim", "zygote"]).arg("-".repeat(TITLE_BYTES));
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running { child: command.spawn()?, socket: ours };
        // It forks nothing before it is told to, so that every container has the limit that the daemon began with.
        process::give_first_descriptor_limit(running.child.id())?;
        Ok(running)
    }

    /// Forks a shim that serves `control`.
    pub(super) fn launch(&self, verb: &str, dir: &Path, control: OwnedFd, log: OwnedFd) -> io::Result<()> {
        let mut text = format!("{verb} ").into_bytes();
        text.extend_from_slice(dir.as_os_str().as_bytes());
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the directory's path is too long"));
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(zygote) = running.as_ref() {
            match send(&zygote.socket, &text, &control, &log) {
                Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
                other => return other,
            }
        }
        let zygote = running.insert(self.start()?);
        send(&zygote.socket, &text, &control, &log)
    }
}

fn send(socket: &OwnedFd, text: &[u8], control: &OwnedFd, log: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [control.as_fd(), log.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(socket, &[IoSlice::new(text)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What a forked process is to be.
pub(super) struct Order {
    pub(super) is_exec: bool,
    pub(super) dir: PathBuf,
    pub(super) control: OwnedFd,
}

/// The zygote's process. Returns in each forked shim with what it is to be, and in the zygote itself with `None` when its
/// daemon is gone.
pub(super) fn run(socket: OwnedFd) -> io::Result<Option<Order>> {
    rustix::thread::set_name(c"shoal-zygote")?;
    process::ignore_children(true);
    // Only for whoever reads `ps`.
    let _ = process::set_title(&[b"shoal", b"shim", b"zygote"]);
    let single = SingleThread::prove()?;
    // A fork does not inherit these pages anyway.
    let _ = memory::release_program();
    loop {
        let Some((order, log)) = receive(&socket)? else { return Ok(None) };
        match single.fork() {
            Ok(Fork::Parent(_)) => {}
            Ok(Fork::Child) => {
                drop(socket);
                process::ignore_children(false);
                rustix::stdio::dup2_stderr(&log)?;
                return Ok(Some(order));
            }
            Err(error) => {
                let failure = RuntimeFailure::other(format!("cannot fork a shim: {error}"));
                let mut control = UnixStream::from(order.control);
                // When nobody listens any more, there is nobody to tell.
                let _ = control.write_all(&message(&Response::Failed(failure)));
            }
        }
    }
}

fn receive(socket: &OwnedFd) -> io::Result<Option<(Order, OwnedFd)>> {
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut text = [0_u8; MAX_MESSAGE_BYTES];
        let received = loop {
            let buffers = &mut [IoSliceMut::new(&mut text)];
            match rustix::net::recvmsg(socket, buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let mut descriptors = descriptors.next().into_iter().flatten();
        let (Some(control), Some(log)) = (descriptors.next(), descriptors.next()) else { continue };
        let text = &text[..received.bytes];
        let (is_exec, dir) = match text.strip_prefix(b"exec ") {
            Some(dir) => (true, dir),
            None => match text.strip_prefix(b"run ") {
                Some(dir) => (false, dir),
                None => continue,
            },
        };
        let dir = PathBuf::from(std::ffi::OsString::from_vec(dir.to_vec()));
        return Ok(Some((Order { is_exec, dir, control }, log)));
    }
}
