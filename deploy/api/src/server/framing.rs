//! Where the requests of a connection begin.
//!
//! ## Design notes
//! hyper reads requests, but some of their heads have to be changed before it does (see [`super::sniff`]), and on a connection
//! that serves many requests a head comes after a body. So bodies are counted here as well: by their length, or chunk by
//! chunk. What cannot be counted is passed on as it is, to the end of the connection; hyper then judges it.

use bytes::BytesMut;

use super::sniff;

/// Where in its input a connection is.
#[derive(Debug)]
pub(crate) enum Place {
    /// In a head, of which this was read.
    Head(BytesMut),
    /// In a body.
    Body(Body),
    /// In something else, for good.
    Opaque,
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes.
    Bytes(u64),
    /// The line before a chunk; the digits that were read of its size, until something else came.
    Size { bytes: u64, ended: bool },
    /// So many bytes of a chunk, the end of its line included.
    Chunk(u64),
    /// Lines after the last chunk; how long the one at hand is.
    Trailer { length: usize },
}

impl Place {
    /// What follows a head.
    pub(crate) fn after(head: &[u8]) -> Self {
        let asks_for_upgrade = || headers(head).any(|(name, _)| name.eq_ignore_ascii_case("upgrade"));
        if asks_for_upgrade() { Self::Opaque } else { Self::after_refused_upgrade(head) }
    }

    /// What follows a head when the upgrade that it asks for is refused. Counts as hyper does, or not at all: what is a body
    /// to the one and a head to the other would be a request of which nobody knows.
    pub(crate) fn after_refused_upgrade(head: &[u8]) -> Self {
        if !is_regular(head) || std::str::from_utf8(head).is_err() {
            return Self::Opaque;
        }
        let (mut length, mut chunked) = (None, false);
        for (name, value) in headers(head) {
            if name.eq_ignore_ascii_case("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case("chunked") {
                    return Self::Opaque;
                }
                chunked = true;
            }
            if name.eq_ignore_ascii_case("content-length") {
                let digits = Some(value).filter(|value| value.bytes().all(|byte| byte.is_ascii_digit()));
                let bytes: Option<u64> = digits.and_then(|digits| digits.parse().ok());
                if bytes.is_none() || (length.is_some() && length != bytes) {
                    return Self::Opaque;
                }
                length = bytes;
            }
        }
        match (chunked, length.unwrap_or(0)) {
            (true, _) => Self::Body(Body::Size { bytes: 0, ended: false }),
            (false, 0) => Self::Head(BytesMut::new()),
            (false, bytes) => Self::Body(Body::Bytes(bytes)),
        }
    }

    /// Goes through what was read of a body: how much of it belongs to it. Behind that a head begins.
    pub(crate) fn pass_body(&mut self, data: &[u8]) -> usize {
        let mut passed = 0;
        while let Self::Body(body) = self {
            let rest = &data[passed..];
            if rest.is_empty() {
                return passed;
            }
            let (taken, next) = body.step(rest);
            passed += taken;
            *self = next;
        }
        if matches!(self, Self::Opaque) { data.len() } else { passed }
    }
}

impl Body {
    /// Goes on by at least one byte.
    fn step(self, data: &[u8]) -> (usize, Place) {
        match self {
            Self::Bytes(left) => {
                let taken = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match left - taken as u64 {
                    0 => (taken, Place::Head(BytesMut::new())),
                    left => (taken, Place::Body(Self::Bytes(left))),
                }
            }
            Self::Chunk(left) => {
                let taken = data.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                match left - taken as u64 {
                    0 => (taken, Place::Body(Self::Size { bytes: 0, ended: false })),
                    left => (taken, Place::Body(Self::Chunk(left))),
                }
            }
            Self::Size { bytes, ended } => (1, size(bytes, ended, data[0])),
            Self::Trailer { length } => match data[0] {
                b'\n' if length == 0 => (1, Place::Head(BytesMut::new())),
                b'\n' => (1, Place::Body(Self::Trailer { length: 0 })),
                b'\r' => (1, Place::Body(Self::Trailer { length })),
                _ => (1, Place::Body(Self::Trailer { length: length.saturating_add(1) })),
            },
        }
    }
}

/// A byte of the line before a chunk.
fn size(bytes: u64, ended: bool, byte: u8) -> Place {
    let digit = char::from(byte).to_digit(16).filter(|_| !ended);
    let body = match (byte, digit) {
        (b'\n', _) if bytes == 0 => Body::Trailer { length: 0 },
        // Its data, and an end of line.
        (b'\n', _) => match bytes.checked_add(2) {
            Some(left) => Body::Chunk(left),
            None => return Place::Opaque,
        },
        (_, Some(digit)) => match bytes.checked_mul(16) {
            Some(bytes) => Body::Size { bytes: bytes | u64::from(digit), ended },
            None => return Place::Opaque,
        },
        (_, None) => Body::Size { bytes, ended: true },
    };
    Place::Body(body)
}

/// The headers of a head in UTF-8; of another none.
fn headers(head: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let lines = std::str::from_utf8(head).unwrap_or("").split("\r\n").skip(1);
    lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()))
}

/// Does each line end with CRLF, and does the first one say something? hyper takes others, too.
pub(crate) fn is_regular(head: &[u8]) -> bool {
    let ends_bare = |at: usize| head[at] == b'\n' && (at == 0 || head[at - 1] != b'\r');
    !head.starts_with(b"\r\n") && !(0..head.len()).any(ends_bare)
}

/// No head is longer than this; what is gets passed on, and refused.
pub(crate) fn is_too_long(head: &[u8]) -> bool {
    head.len() >= sniff::HEAD_LIMIT_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &str) -> Place {
        Place::after(format!("POST /x HTTP/1.1\r\n{lines}\r\n").as_bytes())
    }

    /// How many bytes are the body's, however they come.
    fn body(lines: &str, data: &[u8]) -> Option<usize> {
        let whole = {
            let mut place = after(lines);
            let passed = place.pass_body(data);
            matches!(place, Place::Head(_)).then_some(passed)
        };
        let mut place = after(lines);
        let mut passed = 0;
        for byte in data.chunks(1) {
            if matches!(place, Place::Head(_)) {
                break;
            }
            passed += place.pass_body(byte);
        }
        let bytewise = matches!(place, Place::Head(_)).then_some(passed);
        assert_eq!(whole, bytewise, "{lines:?}");
        whole
    }

    #[test]
    fn bodies_end_where_they_say() {
        assert_eq!(body("", b"GET "), Some(0));
        assert_eq!(body("Content-Length: 0\r\n", b"GET "), Some(0));
        assert_eq!(body("content-length: 3\r\n", b"abcGET "), Some(3));
        assert_eq!(body("Content-Length: 9\r\n", b"abc"), None);
        let chunks = b"3\r\nabc\r\nA;x=1f\r\n0123456789\r\n0\r\n\r\n";
        let more = [chunks, &b"GET /y"[..]].concat();
        assert_eq!(body("Transfer-Encoding: chunked\r\n", &more), Some(chunks.len()));
        let trailer = b"0\r\nExpires: never\r\nB: c\r\n\r\n";
        assert_eq!(body("Transfer-Encoding: chunked\r\n", &[trailer, &b"GET"[..]].concat()), Some(trailer.len()));
        assert_eq!(body("Transfer-Encoding: chunked\r\n", b"3\r\nab"), None);
    }

    #[test]
    fn a_refused_upgrade_has_a_body_like_any_other() {
        let head = b"POST /x HTTP/1.1\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n";
        assert!(matches!(Place::after(head), Place::Opaque));
        assert!(matches!(Place::after_refused_upgrade(head), Place::Body(Body::Bytes(2))));
    }

    #[test]
    fn what_cannot_be_counted_is_not() {
        assert!(matches!(after("Upgrade: tcp\r\nContent-Length: 2\r\n"), Place::Opaque));
        assert!(matches!(after("Content-Length: many\r\n"), Place::Opaque));
        for lines in [
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "X: y\nContent-Length: 3\r\n",
            "X: y\nTransfer-Encoding: chunked\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: \r\n",
            "Content-Length: 3\r\nContent-Length: 4\r\n",
        ] {
            assert!(matches!(after(lines), Place::Opaque), "{lines:?}");
        }
        assert!(matches!(Place::after(b"\r\nGET / HTTP/1.1\r\n\r\n"), Place::Opaque));
        let mut place = after("Transfer-Encoding: chunked\r\n");
        assert_eq!(place.pass_body(b"fffffffffffffffffff\r\nabc"), 24);
        assert!(matches!(place, Place::Opaque));
    }
}
