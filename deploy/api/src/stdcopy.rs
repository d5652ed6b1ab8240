//! The multiplexed stream of logs and attach: each piece of output behind a header of eight bytes, which are the
//! stream (1 stdout, 2 stderr, 3 the daemon's error), three zeros, and the length in big-endian.

use bytes::{BufMut, Bytes, BytesMut};

/// Which stream a piece of output belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Channel {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// A failure that happened after the response began.
    SystemError = 3,
}

/// Puts the header before a piece of output.
pub(crate) fn frame(channel: Channel, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + payload.len());
    out.put_u8(channel as u8);
    out.put_bytes(0, 3);
    out.put_u32(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_slice(payload);
    out.freeze()
}

/// `frame` when multiplexed; else the payload as it is.
pub(crate) fn frame_if(multiplexed: bool, channel: Channel, payload: Bytes) -> Bytes {
    if multiplexed { frame(channel, &payload) } else { payload }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_is_stream_zeros_and_big_endian_length() {
        assert_eq!(frame(Channel::Stdout, b"hello\n").as_ref(), b"\x01\0\0\0\0\0\0\x06hello\n");
        assert_eq!(&frame(Channel::Stderr, &[b'x'; 300])[..8], b"\x02\0\0\0\0\0\x01\x2c");
        assert_eq!(frame(Channel::SystemError, b"").as_ref(), b"\x03\0\0\0\0\0\0\0");
        assert_eq!(frame_if(false, Channel::Stdout, Bytes::from_static(b"raw")).as_ref(), b"raw");
    }
}
