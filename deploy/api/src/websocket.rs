//! A container's streams over a websocket (RFC 6455): `attach/ws`.
//!
//! ## Design notes
//! As in dockerd, output comes in binary frames as the program wrote it, stdout and stderr alike, and data frames of any kind
//! are input. Payloads are passed on in pieces, so that no frame is held in memory, however long it says it is. A page of
//! another origin is refused: browsers let any page open websockets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use shoal_engine::container::{AttachStreams, InputState};
use shoal_proto::error::{ErrorKind, Failure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Mutex;

use crate::error::ApiError;
use crate::hijack::{error_line, hand_over};
use crate::response::{self, Response};

mod sha1;

/// What RFC 6455 has the server add to the client's key.
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a payload that are passed on at once.
const PIECE: usize = 32 << 10;

/// A frame of text.
pub(crate) const TEXT: u8 = 0x1;
/// A frame of bytes.
pub(crate) const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
/// Longest payload of a control frame.
const LONGEST_CONTROL: u64 = 125;
/// "Normal closure", and "protocol error".
const ENDED: u16 = 1000;
const WRONG: u16 = 1002;

/// The answer that makes a websocket of the connection, which then carries these streams, output in frames of this kind.
///
/// # Errors
/// When the request is no handshake, or comes from a page of another origin.
pub(crate) fn respond(
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    streams: AttachStreams,
    kind: u8,
) -> Result<Response, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").trim();
    let key = text("sec-websocket-key");
    let is_key = STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16);
    let handshake =
        text("upgrade").eq_ignore_ascii_case("websocket") && text("sec-websocket-version") == "13" && is_key;
    let Some(upgrade) = upgrade.filter(|_| handshake) else {
        return Err(ApiError::invalid(
            "not a websocket handshake: a GET with Upgrade, Sec-WebSocket-Key and version 13",
        ));
    };
    check_origin(text("origin"), text("host"))?;
    let accept = STANDARD.encode(sha1::digest(format!("{key}{MAGIC}").as_bytes()));
    hand_over(upgrade, move |io| pump(io, streams, kind));
    let mut answer = response::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::try_from(accept).map_err(|error| Failure::internal(&error))?;
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    Ok(answer)
}

fn check_origin(origin: &str, host: &str) -> Result<(), ApiError> {
    let of_origin = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    if origin.is_empty() || of_origin.eq_ignore_ascii_case(host) {
        return Ok(());
    }
    let message = format!("a websocket for pages of {origin} is refused: this is {host}");
    Err(Failure::new(ErrorKind::PermissionDenied, message).into())
}

/// Carries bytes until the output ends or the client leaves.
async fn pump<IO: AsyncRead + AsyncWrite>(io: IO, mut streams: AttachStreams, kind: u8) {
    let (mut reader, writer) = tokio::io::split(io);
    let writer = Mutex::new(writer);
    let output = async {
        while let Some(frame) = streams.output.next().await {
            let data = frame.map_or_else(|failure| error_line(&failure), |frame| frame.data);
            if send(&writer, kind, &data).await.is_err() {
                return;
            }
        }
    };
    let mut input = streams.input;
    let incoming = async {
        let mut payload = BytesMut::new();
        loop {
            let frame = match Head::read(&mut reader).await {
                Ok(frame) => frame,
                Err(code) => return code,
            };
            if frame.kind == CLOSE {
                return ENDED;
            }
            let mut left = frame.length;
            let mut at = 0;
            while left > 0 {
                let piece = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
                payload.resize(piece, 0);
                if reader.read_exact(&mut payload).await.is_err() {
                    return ENDED;
                }
                frame.unmask(&mut payload, at);
                (left, at) = (left - piece as u64, at + piece);
                let data = payload.split().freeze();
                if frame.kind == PING {
                    if send(&writer, PONG, &data).await.is_err() {
                        return ENDED;
                    }
                } else if frame.kind < CLOSE
                    && let Some(open) = &mut input
                {
                    match open.write(data).await {
                        Ok(InputState::Open) => {}
                        Ok(InputState::Detached) => return ENDED,
                        Ok(InputState::Closed) | Err(_) => input = None,
                    }
                }
            }
            if frame.kind == PING && frame.length == 0 && send(&writer, PONG, &[]).await.is_err() {
                return ENDED;
            }
        }
    };
    let code = tokio::select! {
        () = output => ENDED,
        code = incoming => code,
    };
    if let Some(open) = input {
        open.close().await;
    }
    // The client may be gone.
    let _ = send(&writer, CLOSE, &code.to_be_bytes()).await;
    let _ = writer.lock().await.shutdown().await;
}

async fn send<W: AsyncWrite + Unpin>(writer: &Mutex<W>, kind: u8, data: &[u8]) -> std::io::Result<()> {
    let mut frame = BytesMut::with_capacity(data.len() + 10);
    put_head(&mut frame, kind, data.len());
    frame.put_slice(data);
    let mut writer = writer.lock().await;
    writer.write_all(&frame).await?;
    writer.flush().await
}

/// The head of a whole frame of the server, which is not masked.
fn put_head(frame: &mut BytesMut, kind: u8, length: usize) {
    frame.put_u8(0x80 | kind);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if u64::from(short) <= LONGEST_CONTROL => frame.put_u8(short),
        (_, Ok(middle)) => {
            frame.put_u8(126);
            frame.put_u16(middle);
        }
        _ => {
            frame.put_u8(127);
            frame.put_u64(length as u64);
        }
    }
}

/// The head of a frame of the client.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    kind: u8,
    length: u64,
    mask: [u8; 4],
}

impl Head {
    /// Reads one; the code to close with when there is none, or it breaks the rules.
    async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<Self, u16> {
        let mut start = [0; 2];
        reader.read_exact(&mut start).await.map_err(|_| ENDED)?;
        let (kind, is_last, reserved) = (start[0] & 0x0f, start[0] & 0x80 != 0, start[0] & 0x70);
        let masked = start[1] & 0x80 != 0;
        let length = match start[1] & 0x7f {
            126 => u64::from(reader.read_u16().await.map_err(|_| ENDED)?),
            127 => reader.read_u64().await.map_err(|_| ENDED)?,
            short => u64::from(short),
        };
        let is_control = kind >= CLOSE;
        let known = matches!(kind, 0..=BINARY | CLOSE..=PONG);
        if !masked
            || reserved != 0
            || !known
            || is_control && (!is_last || length > LONGEST_CONTROL)
            || length >> 63 != 0
        {
            return Err(WRONG);
        }
        let mut mask = [0; 4];
        reader.read_exact(&mut mask).await.map_err(|_| ENDED)?;
        Ok(Self { kind, length, mask })
    }

    /// Unmasks a piece of the payload that begins at this offset.
    fn unmask(&self, piece: &mut [u8], offset: usize) {
        for (index, byte) in piece.iter_mut().enumerate() {
            *byte ^= self.mask[(offset + index) % 4];
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use shoal_engine::container::{OutputFrame, OutputKind};

    use super::*;

    #[tokio::test]
    async fn heads_are_read_and_rules_kept() {
        let read = async |bytes: &[u8]| Head::read(&mut &*bytes).await;
        let mask = [1, 2, 3, 4];
        assert_eq!(read(&[0x81, 0x85, 1, 2, 3, 4]).await, Ok(Head { kind: 1, length: 5, mask }));
        assert_eq!(read(&[0x02, 0xfe, 1, 0, 1, 2, 3, 4]).await, Ok(Head { kind: 2, length: 256, mask }));
        let long = [0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(read(&long).await, Ok(Head { kind: 2, length: 1 << 32, mask }));
        for wrong in [&[0x81, 0x05, 0, 0, 0, 0][..], &[0xc1, 0x80, 0, 0, 0, 0], &[0x83, 0x80, 0, 0, 0, 0]] {
            assert_eq!(read(wrong).await, Err(WRONG), "{wrong:?}");
        }
        assert_eq!(read(&[0x09, 0x80, 0, 0, 0, 0]).await, Err(WRONG), "a part of a control frame");
        assert_eq!(read(&[0x89, 0xfe, 1, 0, 0, 0, 0, 0]).await, Err(WRONG), "a long control frame");
        assert_eq!(read(&[0x81]).await, Err(ENDED));
        let mut text = *b"hello";
        Head { kind: 1, length: 5, mask }.unmask(&mut text, 2);
        assert_eq!(text, [b'h' ^ 3, b'e' ^ 4, b'l' ^ 1, b'l' ^ 2, b'o' ^ 3]);
    }

    #[tokio::test]
    async fn output_comes_in_binary_frames_and_pings_are_answered() {
        let (client, server) = tokio::io::duplex(1 << 20);
        let frame = |output, data: &[u8]| Ok(OutputFrame { output, data: Bytes::copy_from_slice(data) });
        let frames = [frame(OutputKind::Stdout, b"out"), frame(OutputKind::Stderr, &[b'e'; 300])];
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let tail = stream::once(async move { drop(ended.await) }).filter_map(|()| async { None });
        let output = stream::iter(frames).chain(tail).boxed();
        let pump = tokio::spawn(pump(server, AttachStreams { tty: false, output, input: None }, BINARY));
        let (mut reader, mut writer) = tokio::io::split(client);
        let mut buffer = vec![0; 5 + 4 + 300];
        reader.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..9], b"\x82\x03out\x82\x7e\x01\x2c");
        writer.write_all(&[0x89, 0x82, 0, 0, 0, 0, b'h', b'i']).await.unwrap();
        let mut pong = [0; 4];
        reader.read_exact(&mut pong).await.unwrap();
        assert_eq!(&pong, b"\x8a\x02hi");
        drop(end);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [0x88, 2, 3, 0xe8]);
        pump.await.unwrap();
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        assert!(check_origin("", "d").is_ok() && check_origin("http://d:1", "D:1").is_ok());
        assert_eq!(check_origin("http://evil.example", "d").unwrap_err().status(), StatusCode::FORBIDDEN);
        assert!(check_origin("null", "d").is_err());
    }
}
