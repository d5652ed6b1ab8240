//! Attach and exec for clients that do not ask for an upgrade.
//!
//! ## Design notes
//! dockerd takes a connection over (attach, exec) whether or not the client sent `Upgrade: tcp`; to clients that did
//! not it answers `200 OK` without a length. hyper hands a connection over only after a `101`. So the first head of a
//! connection is looked at before hyper sees it: to a take-over without `Upgrade` that header is added, and in hyper's
//! answer the `101` is turned into the `200` that such a client expects. A request that comes while another one is still
//! answered is not treated so: its output is sent as an ordinary chunked body, and there is no input.

use bytes::{BufMut, Bytes, BytesMut};

/// No request head is longer than this (hyper's own limit is larger).
pub(crate) const HEAD_LIMIT_BYTES: usize = 64 << 10;

/// Where the head ends, its empty line included; whether lines end with CRLF or, as hyper takes them too, with LF.
pub(crate) fn head_length(data: &[u8]) -> Option<usize> {
    let ends = data.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    ends.into_iter().find_map(|end| match &data[end..] {
        [b'\n', ..] => Some(end + 1),
        [b'\r', b'\n', ..] => Some(end + 2),
        _ => None,
    })
}

/// What a head asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// An ordinary request.
    Plain,
    /// To take the connection over, with an `Upgrade` header.
    Upgrade,
    /// To take the connection over, without saying so.
    RawTakeOver,
}

/// Looks at a head.
pub(crate) fn intent(head: &[u8]) -> Intent {
    let Ok(text) = std::str::from_utf8(head) else { return Intent::Plain };
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or("").split(' ');
    let (Some("POST"), Some(target)) = (words.next(), words.next()) else { return Intent::Plain };
    let path = target.split('?').next().unwrap_or("");
    let takes_over = (path.ends_with("/attach") && path.contains("/containers/"))
        || (path.ends_with("/start") && path.contains("/exec/"));
    if !takes_over {
        return Intent::Plain;
    }
    let has_upgrade = lines.any(|line| line.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case("upgrade")));
    if has_upgrade { Intent::Upgrade } else { Intent::RawTakeOver }
}

/// Is it from a client that is known to read what follows the head of an answer through the same buffer?
pub(crate) fn reads_on(head: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(head) else { return false };
    let agent = text.split("\r\n").filter_map(|line| line.split_once(':'));
    let agent = agent.filter(|(name, _)| name.eq_ignore_ascii_case("user-agent")).map(|(_, value)| value.trim()).next();
    agent.is_some_and(|agent| agent.starts_with("Docker-Client/") || agent.starts_with("Go-http-client/"))
}

/// The head with what hyper takes for no part of a target percent-encoded; `None` when there is nothing of that. dockerd
/// takes a query such as `filters={"name":["web"]}` as it is.
pub(crate) fn with_encoded_target(head: &[u8]) -> Option<BytesMut> {
    let start = head.iter().position(|byte| *byte == b' ')? + 1;
    let end = start + head[start..].iter().position(|byte| matches!(byte, b' ' | b'\r'))?;
    let is_foreign = |byte: &u8| matches!(byte, b'"' | b'<' | b'>' | b'#' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
    if !head[start..end].iter().any(is_foreign) {
        return None;
    }
    let mut out = BytesMut::with_capacity(head.len() * 2);
    out.put_slice(&head[..start]);
    for byte in &head[start..end] {
        match is_foreign(byte) {
            true => out.put_slice(format!("%{byte:02X}").as_bytes()),
            false => out.put_u8(*byte),
        }
    }
    out.put_slice(&head[end..]);
    Some(out)
}

/// The head with an `Upgrade` header. A wish to close stays: it holds when there is no take-over.
pub(crate) fn with_upgrade(head: &[u8]) -> Bytes {
    let lines = head[..head.len() - 2].split(|byte| *byte == b'\n');
    let mut out = BytesMut::with_capacity(head.len() + 64);
    let mut closes = false;
    for line in lines.filter(|line| !line.is_empty()) {
        if let Some(options) = line.to_ascii_lowercase().strip_prefix(b"connection:") {
            closes |= options.split(|byte| *byte == b',').any(|option| option.trim_ascii() == b"close");
        } else {
            out.put_slice(line);
            out.put_u8(b'\n');
        }
    }
    out.put_slice(if closes { b"Connection: Upgrade, close\r\n" } else { b"Connection: Upgrade\r\n" });
    out.put_slice(b"Upgrade: tcp\r\n\r\n");
    out.freeze()
}

/// Does an answer's head hand the connection over?
pub(crate) fn switches(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 101") || head.starts_with(b"HTTP/1.0 101")
}

/// Is it one that comes before the answer (to `Expect: 100-continue`)?
pub(crate) fn is_interim(head: &[u8]) -> bool {
    head.starts_with(b"HTTP/1.1 100") || head.starts_with(b"HTTP/1.0 100")
}

/// A `101` head as the `200` without a length that old clients expect, in HTTP/1.1 as dockerd answers to HTTP/1.0 as
/// well; any other head as it is.
pub(crate) fn downgrade(head: &[u8]) -> Bytes {
    if !switches(head) {
        return Bytes::copy_from_slice(head);
    }
    let text = String::from_utf8_lossy(head);
    let mut out = String::from("HTTP/1.1 200 OK\r\n");
    for line in text.split("\r\n").skip(1).filter(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or("").to_ascii_lowercase();
        if !matches!(name.as_str(), "connection" | "upgrade" | "content-length" | "transfer-encoding") {
            out.push_str(line);
            out.push_str("\r\n");
        }
    }
    out.push_str("\r\n");
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_end_where_hyper_ends_them() {
        assert_eq!(head_length(b"GET / HTTP/1.1\r\nHost: d\r\n\r\nGET"), Some(27));
        assert_eq!(head_length(b"A\r\nB\n\nC\r\n\r\n"), Some(6));
        assert_eq!(head_length(b"A\r\nB\n\r\nC\r\n\r\n"), Some(7));
        for data in [&b""[..], b"A\r\n", b"A\r\nB\r\n\r", b"A\nB\n"] {
            assert_eq!(head_length(data), None, "{data:?}");
        }
    }

    #[test]
    fn take_overs_are_recognised() {
        let plain = b"GET /v1.41/containers/json HTTP/1.1\r\nHost: d\r\n\r\n";
        assert_eq!(intent(plain), Intent::Plain);
        let start = b"POST /v1.41/containers/abc/start HTTP/1.1\r\nHost: d\r\n\r\n";
        assert_eq!(intent(start), Intent::Plain);
        let attach = b"POST /v1.41/containers/abc/attach?stream=1 HTTP/1.1\r\nHost: d\r\n\r\n";
        assert_eq!(intent(attach), Intent::RawTakeOver);
        let exec = b"POST /exec/abc/start HTTP/1.1\r\nHost: d\r\nupgrade: tcp\r\n\r\n";
        assert_eq!(intent(exec), Intent::Upgrade);
        assert_eq!(intent(b"\xff\xfe\r\n\r\n"), Intent::Plain);
    }

    #[test]
    fn targets_are_encoded_where_they_have_to_be() {
        assert_eq!(with_encoded_target(b"GET /containers/json?all=1&x=%7B HTTP/1.1\r\nX: {\"\r\n\r\n"), None);
        let head = b"GET /containers/json?filters={\"name\":[\"a#b\"]} HTTP/1.1\r\nX: {\"\r\n\r\n";
        let encoded = with_encoded_target(head).unwrap();
        assert_eq!(
            encoded.as_ref(),
            b"GET /containers/json?filters=%7B%22name%22:[%22a%23b%22]%7D HTTP/1.1\r\nX: {\"\r\n\r\n"
        );
        assert_eq!(with_encoded_target(b"nonsense"), None);
    }

    #[test]
    fn upgrade_is_added_and_nothing_else_changes() {
        let head = b"POST /exec/a/start HTTP/1.1\r\nHost: d\r\nConnection: close\r\nContent-Length: 2\r\n\r\n";
        assert_eq!(
            with_upgrade(head).as_ref(),
            b"POST /exec/a/start HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\nConnection: Upgrade, close\r\nUpgrade: tcp\r\n\r\n"
        );
        let open = b"POST /exec/a/start HTTP/1.1\r\nHost: d\r\nConnection: keep-alive\r\n\r\n";
        let upgraded = with_upgrade(open);
        assert!(upgraded.ends_with(b"Host: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"), "{upgraded:?}");
        assert_eq!(intent(&with_upgrade(head)), Intent::Upgrade);
    }

    #[test]
    fn only_a_101_is_rewritten() {
        let head = b"HTTP/1.1 101 UPGRADED\r\ncontent-type: x\r\nconnection: Upgrade\r\nupgrade: tcp\r\n\r\n";
        assert_eq!(downgrade(head).as_ref(), b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n\r\n");
        let older = b"HTTP/1.0 101 UPGRADED\r\ncontent-type: x\r\n\r\n";
        assert_eq!(downgrade(older).as_ref(), b"HTTP/1.1 200 OK\r\ncontent-type: x\r\n\r\n");
        let refusal = b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n";
        assert_eq!(downgrade(refusal).as_ref(), refusal);
    }
}
