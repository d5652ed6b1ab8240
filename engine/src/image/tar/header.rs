//! One header block.

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// Who wrote it; decides what the bytes behind the magic mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    V7,
    Posix,
    Star,
    Gnu,
}

/// A header whose checksum was right.
pub(super) struct Block {
    bytes: [u8; BLOCK],
    flavour: Flavour,
}

impl Block {
    pub(super) fn parse(bytes: [u8; BLOCK]) -> Result<Self, String> {
        let expected = number(&bytes[148..156])?;
        let (mut unsigned, mut signed) = (0_u64, 0_i64);
        for (position, byte) in bytes.iter().enumerate() {
            let byte = if (148..156).contains(&position) { b' ' } else { *byte };
            unsigned += u64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if expected != unsigned && i64::try_from(expected) != Ok(signed) {
            return Err("a header with a wrong checksum".to_owned());
        }
        let flavour = match &bytes[257..265] {
            b"ustar  \0" => Flavour::Gnu,
            magic if magic.starts_with(b"ustar\0") => {
                if &bytes[508..512] == b"tar\0" {
                    Flavour::Star
                } else {
                    Flavour::Posix
                }
            }
            _ => Flavour::V7,
        };
        Ok(Self { bytes, flavour })
    }

    pub(super) fn flavour(&self) -> Flavour {
        self.flavour
    }

    pub(super) fn kind(&self) -> u8 {
        self.bytes[156]
    }

    pub(super) fn field(&self, from: usize, length: usize) -> &[u8] {
        &self.bytes[from..from + length]
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.bytes[..100]);
        let prefix = match self.flavour {
            Flavour::Posix => text(&self.bytes[345..500]),
            Flavour::Star => text(&self.bytes[345..476]),
            Flavour::V7 | Flavour::Gnu => &[],
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.bytes[157..257]).to_vec()
    }

    pub(super) fn size(&self) -> Result<u64, String> {
        let size = number(&self.bytes[124..136]).map_err(|_| "a header with an invalid size".to_owned())?;
        // Sums with it must not overflow; no file system has such files.
        if size > 1 << 60 { Err("a header with an invalid size".to_owned()) } else { Ok(size) }
    }

    pub(super) fn mode(&self) -> Result<u32, String> {
        // Some writers leave type bits above the permissions.
        number(&self.bytes[100..108]).map(|mode| u32::try_from(mode & 0o177_777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> Result<u64, String> {
        number(&self.bytes[108..116])
    }

    pub(super) fn gid(&self) -> Result<u64, String> {
        number(&self.bytes[116..124])
    }

    pub(super) fn modified(&self) -> Result<(i64, u32), String> {
        let field = &self.bytes[136..148];
        if field[0] == 0xff {
            return Ok((0, 0)); // negative: before 1970
        }
        number(field).map(|seconds| (i64::try_from(seconds).unwrap_or(0), 0))
    }

    pub(super) fn device(&self) -> Result<(u32, u32), String> {
        if self.flavour == Flavour::V7 || !matches!(self.kind(), b'3' | b'4') {
            return Ok((0, 0));
        }
        let part = |from: usize| {
            let value = number(&self.bytes[from..from + 8])?;
            u32::try_from(value).map_err(|_| "a device number that is out of range".to_owned())
        };
        Ok((part(329)?, part(337)?))
    }
}

/// Up to the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits among spaces and NULs, or binary when the first bit is set.
pub(super) fn number(field: &[u8]) -> Result<u64, String> {
    let invalid = || "a header with an invalid number".to_owned();
    match field.first() {
        Some(first) if first & 0x80 != 0 => {
            if first & 0x40 != 0 {
                return Err(invalid()); // negative
            }
            let mut value = u64::from(first & 0x3f);
            for byte in &field[1..] {
                value = value.checked_mul(256).ok_or_else(invalid)? | u64::from(*byte);
            }
            Ok(value)
        }
        _ => {
            let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
            let rest = &field[start..];
            let digits = rest.iter().position(|byte| !(b'0'..=b'7').contains(byte)).unwrap_or(rest.len());
            if rest[digits..].iter().any(|byte| !matches!(byte, b' ' | 0)) {
                return Err(invalid());
            }
            rest[..digits]
                .iter()
                .try_fold(0_u64, |value, digit| Ok(value.checked_mul(8).ok_or_else(invalid)? + u64::from(digit - b'0')))
        }
    }
}
