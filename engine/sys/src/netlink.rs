//! Netlink: requests as bytes, and a synchronous socket that sends many of them in one call.
//!
//! ## Design notes
//! The encoder is our own, a few hundred lines, because the crates for it change their API every two months and know no
//! nftables; both facilities share it. A socket belongs to the network namespace of the thread that opened it, and can
//! then be used from any thread: open it with [`crate::netns::Namespace::enter`].
//!
//! Netlink to the kernel is synchronous: when `send` returns, the requests have been carried out and their answers wait
//! in the receive queue.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

pub mod address;
pub mod conntrack;
pub mod link;
pub mod neighbour;

/// Bytes of requests in one `send`.
const BATCH_BYTES: usize = 64 * 1024;
/// Requests in one `send`: their answers must fit the receive buffer.
const BATCH_REQUESTS: usize = 128;
const HEADER: usize = 16;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Of an existing object: replace it.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Fail if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Make the object if there is none.
pub const NLM_F_CREATE: u16 = 0x400;
/// Add at the end.
pub const NLM_F_APPEND: u16 = 0x800;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// Which part of the kernel a socket talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nftables, connection tracking.
    Netfilter,
}

/// A request that the kernel refused, or an answer that did not come.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", detail(.message))]
pub struct NetlinkError {
    /// What was asked for.
    pub what: Cow<'static, str>,
    /// The kernel's explanation; empty when it gave none.
    pub message: String,
    /// The error number.
    #[source]
    pub source: io::Error,
}

fn detail(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

impl NetlinkError {
    fn new(what: impl Into<Cow<'static, str>>, source: impl Into<io::Error>) -> Self {
        Self { what: what.into(), message: String::new(), source: source.into() }
    }

    pub(crate) fn of(what: impl Into<Cow<'static, str>>, number: i32) -> Self {
        Self::new(what, io::Error::from_raw_os_error(number))
    }

    /// The error number; 0 when it was no system error.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    /// Does the object exist already?
    pub fn exists(&self) -> bool {
        self.errno() == libc::EEXIST
    }

    /// Is there no such object?
    pub fn missing(&self) -> bool {
        matches!(self.errno(), libc::ENOENT | libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL)
    }
}

/// A message under construction.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    what: Cow<'static, str>,
}

impl Request {
    /// A message of this type. `what` names it in errors: `make bridge shoal0`.
    pub fn new(kind: u16, flags: u16, what: impl Into<Cow<'static, str>>) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes, what: what.into() }
    }

    /// What it is for.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Appends the fixed header of the message's type, padded to four bytes.
    #[must_use]
    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    /// Appends an attribute.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.put(kind, value);
        self
    }

    /// Appends a text attribute with its final NUL.
    #[must_use]
    pub fn attr_str(mut self, kind: u16, value: &str) -> Self {
        self.put_str(kind, value);
        self
    }

    /// Appends a native-endian number.
    #[must_use]
    pub fn attr_u32(self, kind: u16, value: u32) -> Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends attributes inside another one.
    #[must_use]
    pub fn nest(mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> Self {
        self.put_nest(kind, fill);
        self
    }

    /// As [`Self::body`], in place.
    pub fn put_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// As [`Self::attr`], in place.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// As [`Self::attr_str`], in place.
    pub fn put_str(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// A native-endian number, in place.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// A big-endian number, in place: what nftables wants.
    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// As [`Self::nest`], in place.
    pub fn put_nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    /// Length so far, in bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    fn append_to(&self, buffer: &mut Vec<u8>, sequence: u32, extra_flags: u16) {
        let start = buffer.len();
        buffer.extend_from_slice(&self.bytes);
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        let flags = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]) | extra_flags;
        buffer[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
        buffer[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

/// A message from the kernel, without its header.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its type.
    pub kind: u16,
    /// The type's fixed header and the attributes.
    pub body: Vec<u8>,
}

/// Attributes in a slice: `(type without flags, value)`. Stops at the first malformed one.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes([*rest.first()?, *rest.get(1)?]));
        let kind = u16::from_ne_bytes([*rest.get(2)?, *rest.get(3)?]) & NLA_TYPE_MASK;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

/// The first four bytes as a native-endian number; 0 when there are fewer.
pub fn u32_of(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |b| u32::from_ne_bytes(*b))
}

/// The bytes up to the first NUL, as text.
pub fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// An open socket.
#[derive(Debug)]
pub struct NetlinkSocket {
    descriptor: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl NetlinkSocket {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(family: Family) -> io::Result<Self> {
        let protocol = match family {
            Family::Route => None,
            Family::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let descriptor =
            rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_option(&descriptor, libc::SOL_NETLINK, libc::NETLINK_EXT_ACK, 1)?;
        set_option(&descriptor, libc::SOL_NETLINK, libc::NETLINK_CAP_ACK, 1)?;
        // Old kernels (before 4.20) do not filter dumps; then everything is dumped, which is only slower.
        let _ = set_option(&descriptor, libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1);
        let _ = set_option(&descriptor, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 1 << 20);
        let timeout = std::time::Duration::from_secs(30);
        rustix::net::sockopt::set_socket_timeout(&descriptor, rustix::net::sockopt::Timeout::Recv, Some(timeout))?;
        Ok(Self { descriptor, sequence: 0, buffer: Vec::new() })
    }

    /// Carries out one request.
    ///
    /// # Errors
    /// The kernel's.
    pub fn request(&mut self, request: Request) -> Result<(), NetlinkError> {
        self.batch(std::slice::from_ref(&request)).pop().unwrap_or(Ok(()))
    }

    /// Carries out many requests in as few calls as possible. One failure does not stop the others; the answers stand
    /// in the order of the requests.
    pub fn batch(&mut self, requests: &[Request]) -> Vec<Result<(), NetlinkError>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut bytes = Vec::with_capacity(4096);
            let first = self.sequence.wrapping_add(1);
            let mut count = 0;
            for request in rest.iter().take(BATCH_REQUESTS) {
                if count > 0 && bytes.len() + request.length() > BATCH_BYTES {
                    break;
                }
                self.sequence = self.sequence.wrapping_add(1);
                request.append_to(&mut bytes, self.sequence, NLM_F_ACK);
                count += 1;
            }
            let (now, later) = rest.split_at(count);
            self.exchange(&bytes, first, now, &mut results);
            rest = later;
        }
        results
    }

    fn exchange(
        &mut self,
        bytes: &[u8],
        first: u32,
        requests: &[Request],
        results: &mut Vec<Result<(), NetlinkError>>,
    ) {
        let start = results.len();
        let failed = |request: &Request, source: &io::Error| {
            let copy = source.raw_os_error().map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
            Err(NetlinkError::new(request.what.clone(), copy))
        };
        if let Err(error) = self.send(bytes) {
            results.extend(requests.iter().map(|request| failed(request, &error)));
            return;
        }
        let mut answers: Vec<Option<Result<(), NetlinkError>>> = requests.iter().map(|_| None).collect();
        let mut missing = requests.len();
        while missing > 0 {
            let received = self.receive(RecvFlags::empty(), |header, body| {
                if header.kind != NLMSG_ERROR {
                    return;
                }
                let index = header.sequence.wrapping_sub(first) as usize;
                if let (Some(slot @ None), Some(request)) = (answers.get_mut(index), requests.get(index)) {
                    *slot = Some(acknowledgement(header.flags, body, &request.what));
                    missing -= 1;
                }
            });
            if let Err(error) = received {
                let rest = answers.into_iter().zip(requests);
                results.extend(rest.map(|(answer, request)| answer.unwrap_or_else(|| failed(request, &error))));
                return;
            }
        }
        results.extend(answers.into_iter().flatten());
        debug_assert_eq!(results.len(), start + requests.len(), "every request has one answer");
    }

    /// Asks for all objects of a kind.
    ///
    /// # Errors
    /// The kernel's. A dump that was interrupted by a change is repeated.
    pub fn dump(&mut self, request: &Request) -> Result<Vec<Message>, NetlinkError> {
        for _ in 0..8 {
            let (messages, interrupted) = self.dump_once(request)?;
            if !interrupted {
                return Ok(messages);
            }
        }
        let busy = io::Error::from_raw_os_error(libc::EINTR);
        Err(NetlinkError::new(request.what.clone(), busy))
    }

    fn dump_once(&mut self, request: &Request) -> Result<(Vec<Message>, bool), NetlinkError> {
        let what = request.what.clone();
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut bytes = Vec::new();
        request.append_to(&mut bytes, sequence, NLM_F_DUMP);
        self.send(&bytes).map_err(|source| NetlinkError::new(what.clone(), source))?;
        let (mut messages, mut interrupted, mut end) = (Vec::new(), false, None);
        while end.is_none() {
            self.receive(RecvFlags::empty(), |header, body| {
                if header.sequence != sequence {
                    return;
                }
                interrupted |= header.flags & 0x10 != 0;
                match header.kind {
                    NLMSG_DONE => end = Some(done(body, &what)),
                    NLMSG_ERROR => end = Some(acknowledgement(header.flags, body, &what)),
                    kind => messages.push(Message { kind, body: body.to_vec() }),
                }
            })
            .map_err(|source| NetlinkError::new(what.clone(), source))?;
        }
        end.unwrap_or(Ok(())).map(|()| (messages, interrupted))
    }

    /// Asks for one object.
    ///
    /// # Errors
    /// The kernel's.
    pub fn get(&mut self, request: &Request) -> Result<Message, NetlinkError> {
        let what = request.what.clone();
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let mut bytes = Vec::new();
        request.append_to(&mut bytes, sequence, 0);
        self.send(&bytes).map_err(|source| NetlinkError::new(what.clone(), source))?;
        let mut answer = None;
        while answer.is_none() {
            self.receive(RecvFlags::empty(), |header, body| {
                if header.sequence != sequence || answer.is_some() {
                    return;
                }
                answer = Some(match header.kind {
                    NLMSG_ERROR => match acknowledgement(header.flags, body, &what) {
                        Ok(()) => Err(NetlinkError::new(what.clone(), io::Error::from_raw_os_error(libc::ENODATA))),
                        Err(error) => Err(error),
                    },
                    kind => Ok(Message { kind, body: body.to_vec() }),
                });
            })
            .map_err(|source| NetlinkError::new(what.clone(), source))?;
        }
        answer.unwrap_or_else(|| Err(NetlinkError::new(what, io::Error::from_raw_os_error(libc::ENODATA))))
    }

    /// Sends messages as one transaction, as nftables wants it: all in one call, answers only for those refused.
    ///
    /// # Errors
    /// The first refusal. Nothing was changed then.
    pub fn transact(&mut self, requests: &[Request]) -> Result<(), NetlinkError> {
        let mut bytes = Vec::with_capacity(requests.iter().map(Request::length).sum());
        let first = self.sequence.wrapping_add(1);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.append_to(&mut bytes, self.sequence, 0);
        }
        if bytes.len() > 128 * 1024 {
            let wanted = i32::try_from(bytes.len() * 2).unwrap_or(i32::MAX);
            set_option(&self.descriptor, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted)
                .map_err(|source| NetlinkError::new("grow the send buffer", source))?;
        }
        self.send(&bytes).map_err(|source| NetlinkError::new("send a transaction", source))?;
        let mut refusal = None;
        loop {
            let received = self.receive(RecvFlags::DONTWAIT, |header, body| {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind == NLMSG_ERROR && refusal.is_none() && index < requests.len() {
                    refusal = acknowledgement(header.flags, body, &requests[index].what).err();
                }
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(NetlinkError::new("read a transaction's answers", error)),
            }
        }
        refusal.map_or(Ok(()), Err)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.descriptor, bytes, SendFlags::empty())?;
        Ok(())
    }

    fn receive(&mut self, flags: RecvFlags, mut each: impl FnMut(&Header, &[u8])) -> io::Result<()> {
        self.buffer.resize(BATCH_BYTES, 0);
        let (length, _) = rustix::net::recv(&self.descriptor, self.buffer.as_mut_slice(), flags)?;
        let mut rest = &self.buffer[..length.min(BATCH_BYTES)];
        while let Some(header) = Header::parse(rest) {
            let Some(body) = rest.get(HEADER..header.length) else { break };
            each(&header, body);
            rest = rest.get(header.length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        Ok(())
    }
}

struct Header {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        (length >= HEADER).then(|| Self {
            length,
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            sequence: u32_of(&head[8..12]),
        })
    }
}

fn done(body: &[u8], what: &str) -> Result<(), NetlinkError> {
    match u32_of(body).cast_signed() {
        number if number < 0 => Err(NetlinkError::new(what.to_owned(), io::Error::from_raw_os_error(-number))),
        _ => Ok(()),
    }
}

fn acknowledgement(flags: u16, body: &[u8], what: &str) -> Result<(), NetlinkError> {
    let number = u32_of(body).cast_signed();
    if number == 0 {
        return Ok(());
    }
    let mut error = NetlinkError::new(what.to_owned(), io::Error::from_raw_os_error(-number));
    if flags & NLM_F_ACK_TLVS != 0 {
        let original = if flags & NLM_F_CAPPED != 0 { HEADER } else { u32_of(body.get(4..).unwrap_or(&[])) as usize };
        let details = body.get(4 + original.next_multiple_of(4)..).unwrap_or(&[]);
        error.message = attributes(details).find(|(kind, _)| *kind == 1).map_or_else(String::new, |(_, t)| text_of(t));
    }
    Err(error)
}

#[expect(unsafe_code, reason = "no safe wrapper sets netlink socket options")]
fn set_option(descriptor: &OwnedFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of a live i32, which every option used here takes.
    let status = unsafe {
        libc::setsockopt(descriptor.as_raw_fd(), level, option, (&raw const value).cast(), size_of::<i32>() as u32)
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_nest_and_pad() {
        let request = Request::new(16, 0, "x").body(&[1; 16]).nest(18, |r| r.put_str(1, "veth")).attr(4, &[7]);
        let mut bytes = Vec::new();
        request.append_to(&mut bytes, 9, NLM_F_ACK);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32_of(&bytes) as usize, bytes.len());
        let parsed: Vec<_> = attributes(&bytes[32..]).collect();
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].0, 18);
        assert_eq!(attributes(parsed[0].1).map(|(_, v)| text_of(v)).collect::<Vec<_>>(), ["veth"]);
        assert_eq!(parsed[1], (4, &[7][..]));
    }

    #[test]
    fn malformed_attributes_end_the_walk() {
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 5]).count(), 1);
        assert_eq!(attributes(&[]).count(), 0);
    }

    #[test]
    fn refusals_carry_the_kernels_words() {
        let mut socket = NetlinkSocket::open(Family::Route).unwrap();
        let error = socket.request(link::delete(999_999)).unwrap_err();
        assert!(error.missing(), "{error:?}");
        assert!(error.to_string().contains("999999"));
    }
}
