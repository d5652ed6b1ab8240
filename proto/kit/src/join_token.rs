//! Join tokens: `SWMTKN-1-<sha256 of the root certificate, 50 base-36 digits>-<secret, 25 base-36 digits>`.
//!
//! The first half lets a joining node check that it talks to the right cluster before it shows the second half.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const PREFIX: &str = "SWMTKN-1-";
const DIGEST_WIDTH: usize = 50;
const SECRET_WIDTH: usize = 25;

/// A parsed join token. Its `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the root certificate in DER form.
    pub root_digest: [u8; 32],
    /// What the cluster knows the token by.
    pub secret: [u8; 16],
}

/// The text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token: expected SWMTKN-1-<50 characters>-<25 characters>, all of 0-9 and a-z")]
pub struct InvalidJoinToken;

impl JoinToken {
    /// A token of the cluster with this root certificate (DER).
    pub fn new(root_der: &[u8], secret: [u8; 16]) -> Self {
        Self { root_digest: certificate_digest(root_der), secret }
    }
}

/// SHA-256 of a certificate in DER form.
pub fn certificate_digest(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-…", encode(&self.root_digest, DIGEST_WIDTH))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}-{}", encode(&self.root_digest, DIGEST_WIDTH), encode(&self.secret, SECRET_WIDTH))
    }
}

impl FromStr for JoinToken {
    type Err = InvalidJoinToken;

    fn from_str(text: &str) -> Result<Self, InvalidJoinToken> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(InvalidJoinToken)?;
        let (digest, secret) = rest.split_once('-').ok_or(InvalidJoinToken)?;
        if digest.len() != DIGEST_WIDTH || secret.len() != SECRET_WIDTH {
            return Err(InvalidJoinToken);
        }
        Ok(Self { root_digest: decode(digest)?, secret: decode(secret)? })
    }
}

/// The number with these big-endian bytes in base 36, zero-padded to `width` digits.
fn encode(bytes: &[u8], width: usize) -> String {
    let mut number = bytes.to_vec();
    let mut out = vec![b'0'; width];
    for digit in out.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in &mut number {
            let current = remainder << 8 | u32::from(*byte);
            *byte = (current / 36) as u8;
            remainder = current % 36;
        }
        *digit = DIGITS[remainder as usize];
    }
    out.into_iter().map(char::from).collect()
}

fn decode<const N: usize>(text: &str) -> Result<[u8; N], InvalidJoinToken> {
    let mut number = [0u8; N];
    for byte in text.bytes() {
        let digit = DIGITS.iter().position(|d| *d == byte).ok_or(InvalidJoinToken)?;
        let mut carry = digit as u32;
        for place in number.iter_mut().rev() {
            let current = u32::from(*place) * 36 + carry;
            *place = (current & 0xff) as u8;
            carry = current >> 8;
        }
        if carry != 0 {
            return Err(InvalidJoinToken);
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_at_the_edges() {
        for (digest, secret) in [([0u8; 32], [0u8; 16]), ([0xff; 32], [0xff; 16]), ([7; 32], [9; 16])] {
            let token = JoinToken { root_digest: digest, secret };
            let text = token.to_string();
            assert_eq!(text.len(), PREFIX.len() + DIGEST_WIDTH + 1 + SECRET_WIDTH);
            assert_eq!(text.parse(), Ok(token));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let too_big = format!("{PREFIX}{}-{}", "z".repeat(50), "z".repeat(25));
        for text in ["", "SWMTKN-1-", "SWMTKN-2-0-abc-def", "SWMTKN-1-abc-def", too_big.as_str()] {
            assert_eq!(text.parse::<JoinToken>(), Err(InvalidJoinToken), "{text}");
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        let token = JoinToken { root_digest: [1; 32], secret: [0xff; 16] };
        assert!(!format!("{token:?}").contains(&encode(&token.secret, SECRET_WIDTH)));
    }
}
