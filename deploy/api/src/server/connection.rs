//! The byte stream that hyper reads requests from and writes responses to.
//!
//! ## Design notes
//! A client that closes its sending side may still want the answer (`printf … | nc -N`), and one that is gone must end
//! its event stream. hyper can only be told to treat the end of input always as the one or always as the other. So it
//! is told the latter, and this stream keeps the end of input from it while an answer is under way, unless the peer has
//! closed both directions, which a unix socket tells (`POLLHUP`). TCP does not tell; there, as in dockerd, the end of
//! input means that the client is gone, but for take-overs, whose end of input is the end of the container's input.
//! A handler that goes on waiting for the rest of its request's body after that end would wait for ever: then hyper is
//! told, too, and fails the body. Only after a pause: a body that is complete may not have reached its handler yet.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shoal_engine_sys::socket::is_read_by_peer;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Sleep;

use super::activity::Activity;
use super::framing::{self, Place};
use super::sniff::{self, Intent};

/// How often a half-closed peer is asked whether it is gone altogether.
const HANG_UP_CHECK: Duration = Duration::from_millis(500);

/// A client that has not read a head for so long does something else first.
const HEAD_READ_WITHIN: Duration = Duration::from_millis(500);
/// Where nobody tells, it may be read by then.
const HEAD_READ_PERHAPS: Duration = Duration::from_millis(10);

/// A connection of any kind.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {
    /// After the end of input: is the peer gone? `None` when the kind of connection cannot tell.
    fn is_gone(&self) -> Option<bool>;

    /// Waits until the peer has read all that was written. `None` when the kind of connection cannot tell.
    fn poll_read_by_peer(&self, task: &mut Context<'_>) -> Poll<Option<()>>;
}

impl Transport for UnixStream {
    fn is_gone(&self) -> Option<bool> {
        let mut fds = [PollFd::new(self, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).ok()?;
        Some(fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
    }

    fn poll_read_by_peer(&self, task: &mut Context<'_>) -> Poll<Option<()>> {
        loop {
            if ready!(self.poll_write_ready(task)).is_err() {
                return Poll::Ready(None);
            }
            let look = || if is_read_by_peer(self)? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) };
            match self.try_io(Interest::WRITABLE, look) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.ok()),
            }
        }
    }
}

impl Transport for TcpStream {
    fn is_gone(&self) -> Option<bool> {
        None
    }

    fn poll_read_by_peer(&self, _: &mut Context<'_>) -> Poll<Option<()>> {
        Poll::Ready(None)
    }
}

impl Transport for tokio_rustls::server::TlsStream<TcpStream> {
    fn is_gone(&self) -> Option<bool> {
        None
    }

    fn poll_read_by_peer(&self, _: &mut Context<'_>) -> Poll<Option<()>> {
        Poll::Ready(None)
    }
}

/// When a half-closed peer is looked at again.
struct HangUpCheck {
    at: Pin<Box<Sleep>>,
    /// Was the rest of a body waited for when the pause began?
    awaited_body: bool,
}

/// Output that waits for the client to take the head before it.
struct HeldOutput {
    limit: Pin<Box<Sleep>>,
    /// This kind of connection does not say what was read: the limit is all there is.
    nobody_tells: bool,
}

/// The answer to who asks for a take-over.
struct AnswerHead {
    begun: BytesMut,
    /// Is the client one that did not ask for an upgrade?
    downgrade: bool,
}

/// See the module.
pub(crate) struct ConnectionIo {
    transport: Box<dyn Transport>,
    activity: Arc<Activity>,
    /// Where the input is.
    place: Place,
    /// What was read for a head, to be given to hyper.
    unread: Bytes,
    /// Does the client read what follows a head through the buffer that it read the head through?
    reads_on: bool,
    /// Has hyper written without a flush that went through? It closes a connection whose input has ended without
    /// waiting for its last bytes to leave.
    unflushed: bool,
    /// Did the peer end its input?
    ended: bool,
    /// Does a handler have the connection, and was it told of that end?
    taken_over: bool,
    end_told: bool,
    hang_up_check: Option<HangUpCheck>,
    takes_over: bool,
    /// Why output waits.
    held: Option<HeldOutput>,
    /// Where the input would be if the take-over that was asked for is refused; `None` when hyper was given more than that
    /// request before it answered.
    fallback: Option<Place>,
    /// The head of the answer to who asks for a take-over, until it is complete.
    answer: Option<AnswerHead>,
    /// The rewritten head, to be sent.
    unsent: Bytes,
}

impl ConnectionIo {
    /// Wraps a fresh connection.
    pub(crate) fn new(transport: Box<dyn Transport>, activity: Arc<Activity>) -> Self {
        Self {
            transport,
            activity,
            place: Place::Head(BytesMut::new()),
            unread: Bytes::new(),
            reads_on: false,
            unflushed: false,
            ended: false,
            taken_over: false,
            end_told: false,
            hang_up_check: None,
            takes_over: false,
            held: None,
            fallback: None,
            answer: None,
            unsent: Bytes::new(),
        }
    }

    /// hyper is done with the connection: what it had read ahead comes back. From now on the end of input is told once;
    /// a read after it waits until the peer is gone altogether, and then fails.
    pub(crate) fn take_over(&mut self, read_ahead: Bytes) {
        self.taken_over = true;
        self.fallback = None;
        // hyper hands over what it has answered: no head is half written.
        self.answer = None;
        let mut unread = BytesMut::from(read_ahead.as_ref());
        unread.extend_from_slice(&self.unread);
        if let Place::Head(begun) = std::mem::replace(&mut self.place, Place::Opaque) {
            unread.extend_from_slice(&begun);
        }
        self.unread = unread.freeze();
    }

    /// After the head of an answer: what is written waits until the client has taken that. Clients that read a head through a
    /// buffer and what follows without it (docker-py) lose what they got in one piece with the head; dockerd is too slow for
    /// them to notice. Docker's own CLI, and what else is made of its Go packages, reads on through its buffer, and need not wait.
    pub(crate) fn hold_output(&mut self) {
        if self.reads_on {
            return;
        }
        self.held = Some(HeldOutput { limit: Box::pin(tokio::time::sleep(HEAD_READ_WITHIN)), nobody_tells: false });
    }

    /// Has the client taken the head, or had the time to?
    fn poll_head_taken(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Some(held) = &mut self.held else { return Poll::Ready(()) };
        if !held.nobody_tells {
            match self.transport.poll_read_by_peer(task) {
                Poll::Ready(Some(())) => {
                    self.held = None;
                    return Poll::Ready(());
                }
                Poll::Ready(None) => {
                    held.nobody_tells = true;
                    held.limit.as_mut().reset(tokio::time::Instant::now() + HEAD_READ_PERHAPS);
                }
                Poll::Pending => {}
            }
        }
        ready!(held.limit.as_mut().poll(task));
        self.held = None;
        Poll::Ready(())
    }

    /// Reads until a head is complete, and adapts it.
    fn poll_head(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unread.is_empty() && !self.ended {
            let mut space = [0; 4096];
            let mut buffer = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut self.transport).poll_read(task, &mut buffer))?;
            let data = buffer.filled();
            self.ended = data.is_empty();
            let quiet = !self.unflushed && !self.activity.is_busy(task);
            let mut out = BytesMut::new();
            self.pass(data, quiet, &mut out);
            if let Place::Head(begun) = &mut self.place
                && (self.ended || framing::is_too_long(begun))
            {
                // Not for us to say what is wrong with it.
                out.extend_from_slice(&std::mem::take(begun));
                self.place = Place::Opaque;
            }
            self.unread = out.freeze();
        }
        Poll::Ready(Ok(()))
    }

    /// Passes input on, heads as hyper is to see them. `quiet`: is no answer under way?
    fn pass(&mut self, data: &[u8], mut quiet: bool, out: &mut BytesMut) {
        let mut data = BytesMut::from(data);
        while !data.is_empty() {
            match &mut self.place {
                Place::Head(begun) => {
                    begun.extend_from_slice(&data);
                    let Some(length) = sniff::head_length(begun) else { return };
                    let mut head = std::mem::take(begun);
                    data = head.split_off(length);
                    self.adapt(&head, quiet, out);
                    // Its answer comes before those of what follows.
                    quiet = false;
                }
                Place::Body(_) | Place::Opaque => {
                    let passed = self.pass_body(&data);
                    out.extend_from_slice(&data.split_to(passed));
                }
            }
        }
    }

    /// Of what was read into `buffer`, keeps what comes behind the end of a body.
    fn keep_heads(&mut self, before: usize, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) {
        let end = before + self.pass_body(&buffer.filled()[before..]);
        if end == buffer.filled().len() {
            return;
        }
        let quiet = !self.unflushed && !self.activity.is_busy(task);
        let mut out = BytesMut::new();
        let rest = buffer.filled()[end..].to_vec();
        buffer.set_filled(end);
        self.pass(&rest, quiet, &mut out);
        self.unread = out.freeze();
    }

    /// How much of what was read is of the body at hand.
    fn pass_body(&mut self, data: &[u8]) -> usize {
        if self.fallback.as_mut().is_some_and(|place| place.pass_body(data) < data.len()) {
            self.fallback = None;
        }
        self.place.pass_body(data)
    }

    fn adapt(&mut self, head: &[u8], quiet: bool, out: &mut BytesMut) {
        if !framing::is_regular(head) {
            (self.takes_over, self.reads_on, self.place) = (false, false, Place::Opaque);
            out.extend_from_slice(head);
            return;
        }
        let encoded = sniff::with_encoded_target(head);
        let head = encoded.as_deref().unwrap_or(head);
        self.reads_on = sniff::reads_on(head);
        let intent = match sniff::intent(head) {
            // The answer is rewritten: it has to be the next one.
            Intent::RawTakeOver if !quiet => Intent::Plain,
            intent => intent,
        };
        self.takes_over = intent != Intent::Plain;
        self.place = if self.takes_over { Place::Opaque } else { Place::after(head) };
        if self.takes_over && quiet {
            self.fallback = Some(Place::after_refused_upgrade(head));
            let downgrade = intent == Intent::RawTakeOver;
            self.answer = Some(AnswerHead { begun: BytesMut::new(), downgrade });
        }
        match intent {
            Intent::RawTakeOver => out.extend_from_slice(&sniff::with_upgrade(head)),
            Intent::Upgrade | Intent::Plain => out.extend_from_slice(head),
        }
    }

    /// Takes what hyper writes of the answer to who asks for a take-over. Without one, input is again what it was before.
    fn answer(&mut self, mut answer: AnswerHead, data: &[u8]) {
        answer.begun.extend_from_slice(data);
        let mut out = BytesMut::new();
        while let Some(length) = sniff::head_length(&answer.begun) {
            let head = answer.begun.split_to(length);
            if sniff::is_interim(&head) {
                out.extend_from_slice(&head);
                continue;
            }
            let fallback = self.fallback.take();
            if !sniff::switches(&head) {
                self.takes_over = false;
                self.place = fallback.unwrap_or(Place::Opaque);
            }
            out.extend_from_slice(&if answer.downgrade { sniff::downgrade(&head) } else { head.freeze() });
            out.extend_from_slice(&answer.begun);
            self.unsent = out.freeze();
            return;
        }
        self.unsent = out.freeze();
        self.answer = Some(answer);
    }

    /// The peer ended its input: may hyper know?
    fn poll_end(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if !self.taken_over && !self.activity.is_busy(task) && !self.unflushed {
            return Poll::Ready(());
        }
        loop {
            let gone = self.transport.is_gone();
            if gone.unwrap_or(!self.takes_over) {
                return Poll::Ready(());
            }
            let awaits_body = !self.taken_over && self.activity.awaits_body();
            if gone.is_none() && !awaits_body {
                return Poll::Pending;
            }
            let check = self.hang_up_check.get_or_insert_with(|| HangUpCheck {
                at: Box::pin(tokio::time::sleep(HANG_UP_CHECK)),
                awaited_body: awaits_body,
            });
            ready!(check.at.as_mut().poll(task));
            let awaited_body = check.awaited_body;
            self.hang_up_check = None;
            if awaited_body && awaits_body {
                return Poll::Ready(());
            }
        }
    }

    fn poll_unsent(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let sent = ready!(Pin::new(&mut self.transport).poll_write(task, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ConnectionIo {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.taken_over && matches!(this.place, Place::Head(_)) {
            ready!(this.poll_head(task))?;
        }
        if !this.unread.is_empty() {
            let length = this.unread.len().min(buffer.remaining());
            buffer.put_slice(&this.unread.split_to(length));
            return Poll::Ready(Ok(()));
        }
        if !this.ended {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut this.transport).poll_read(task, buffer))?;
            this.keep_heads(before, task, buffer);
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            this.ended = true;
        }
        if this.taken_over && !this.end_told {
            this.end_told = true;
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_end(task));
        if this.taken_over { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) } else { Poll::Ready(Ok(())) }
    }
}

impl AsyncWrite for ConnectionIo {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        ready!(this.poll_unsent(task))?;
        ready!(this.poll_head_taken(task));
        match this.answer.take() {
            None => return Pin::new(&mut this.transport).poll_write(task, data),
            Some(answer) => this.answer(answer, data),
        }
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(task))?;
        ready!(Pin::new(&mut this.transport).poll_flush(task))?;
        if std::mem::take(&mut this.unflushed) && this.ended {
            task.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_unsent(task))?;
        Pin::new(&mut this.transport).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_reads_on_through_its_buffer_does_not_wait() {
        for (agent, waits) in [("Docker-Client/28.0 (linux)", false), ("docker-sdk-python/7.1.0", true)] {
            let (here, mut there) = UnixStream::pair().expect("pair");
            let mut io = ConnectionIo::new(Box::new(here), Arc::default());
            let head = format!("POST /exec/a/start HTTP/1.1\r\nUser-Agent: {agent}\r\nUpgrade: tcp\r\n\r\n");
            there.write_all(head.as_bytes()).await.expect("write");
            io.read_exact(&mut vec![0; head.len()]).await.expect("read");
            io.take_over(Bytes::new());
            // Nobody has read the head of the answer.
            io.write_all(b"head").await.expect("write");
            io.hold_output();
            let output = io.write_all(b"output").now_or_never();
            assert_eq!(output.is_none(), waits, "{agent}");
        }
    }

    /// On a connection that does not tell whether its client is gone, only take-overs outlive the end of its input.
    #[tokio::test]
    async fn a_refused_take_over_leaves_nothing_behind() {
        let next = b"GET /asked?filters={} HTTP/1.1\r\n\r\n";
        for (header, answer) in [("", "HTTP/1.1 200 OK"), ("Upgrade: tcp\r\n", "HTTP/1.1 409 Conflict")] {
            let (here, mut there) = UnixStream::pair().expect("pair");
            let mut io = ConnectionIo::new(Box::new(here), Arc::default());
            let head = format!("POST /exec/a/start HTTP/1.1\r\n{header}Content-Length: 2\r\n\r\n");
            there.write_all(head.as_bytes()).await.expect("write");
            let mut seen = [0; 256];
            assert!(io.read(&mut seen).await.expect("read") >= head.len());
            assert!(io.takes_over);
            // Refused before its body has come.
            for piece in ["HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 ", &answer[9..], "\r\n\r\n"] {
                io.write_all(piece.as_bytes()).await.expect("write");
            }
            io.flush().await.expect("flush");
            assert!(!io.takes_over, "{answer}");
            there.write_all(&[b"{}", &next[..]].concat()).await.expect("write");
            assert_eq!(io.read(&mut seen).await.expect("read"), 2, "the body");
            let read = io.read(&mut seen).await.expect("read");
            assert_eq!(&seen[..read], b"GET /asked?filters=%7B%7D HTTP/1.1\r\n\r\n");
        }
    }

    #[tokio::test]
    async fn what_is_sent_before_the_answer_is_for_hyper_to_judge() {
        let (here, mut there) = UnixStream::pair().expect("pair");
        let mut io = ConnectionIo::new(Box::new(here), Arc::default());
        let head = b"POST /exec/a/start HTTP/1.1\r\n\r\nGET /a";
        there.write_all(head).await.expect("write");
        assert!(io.read(&mut [0; 256]).await.expect("read") > head.len());
        io.write_all(b"HTTP/1.1 409 Conflict\r\n\r\n").await.expect("write");
        assert!(!io.takes_over && matches!(io.place, Place::Opaque), "half a head is with hyper");
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_the_peer_has_read_the_head() {
        let (mut here, mut there) = UnixStream::pair().expect("pair");
        here.write_all(b"head").await.expect("write");
        let read = poll_fn(|task| here.poll_read_by_peer(task));
        tokio::pin!(read);
        assert_eq!(read.as_mut().now_or_never(), None, "nobody has read it");
        let waits = async { tokio::time::timeout(Duration::from_secs(10), read).await.expect("nobody was woken") };
        let reads = async {
            // The other one waits by now.
            tokio::task::yield_now().await;
            there.read_exact(&mut [0; 4]).await.expect("read");
        };
        assert_eq!(tokio::join!(waits, reads).0, Some(()));
        drop(there);
        let read = poll_fn(|task| here.poll_read_by_peer(task));
        assert!(tokio::time::timeout(Duration::from_secs(10), read).await.is_ok(), "a peer that is gone is waited for");
    }
}
