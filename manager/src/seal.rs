//! Encryption at rest: everything the manager writes to disk is sealed with a data key, which is itself sealed with a
//! key-encryption key.
//!
//! ## Design notes
//! The data key (DEK) never changes owner: it lives in `keys`, sealed with the key-encryption key (KEK). The KEK is
//! the content of a file beside the node's certificates, or, once autolock is on, the cluster's unlock key; switching
//! between the two rewrites `keys` and nothing else. A record is `key id (4) | nonce (24) | ciphertext and tag`, with
//! its place (table, index, term) as associated data, so that no record can be moved to another place.

use std::fmt;
use std::io;
use std::path::Path;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use shoal_kit::entropy::Entropy;
use shoal_kit::identity::{IdentityError, write_private};
use shoal_proto::codec;
use zeroize::Zeroizing;

const KEY_FILE: &str = "keys";
const HEADER: usize = 4 + 24;

/// Why something could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The record was changed, moved, or sealed with another key.
    #[error("{what} cannot be opened: it is damaged, or sealed with another key")]
    Forged {
        /// What it was.
        what: &'static str,
    },
    /// The data keys are sealed with the cluster's unlock key, which was not given.
    #[error("this manager is locked: unlock it with the cluster's unlock key")]
    Locked,
    /// A key file could not be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A key file could not be written.
    #[error("write a key file")]
    Write(#[source] IdentityError),
    /// A key file has no sense.
    #[error("malformed key file")]
    Malformed(#[source] codec::DecodeError),
}

/// Where the key-encryption key comes from.
#[derive(Clone)]
pub enum KeyEncryption {
    /// A file of mode 0600 with 32 random bytes, made when missing.
    File(std::path::PathBuf),
    /// The cluster's unlock key, which only its operators have.
    UnlockKey(Zeroizing<String>),
}

impl fmt::Debug for KeyEncryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::UnlockKey(_) => f.write_str("UnlockKey"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct KeyFile {
    /// `file` or `unlock-key`.
    kek: String,
    keys: Vec<(u32, Vec<u8>)>,
}

/// The data keys of this manager. Cheap to share behind an `Arc`.
pub struct Keyring {
    current: u32,
    ciphers: Vec<(u32, XChaCha20Poly1305)>,
    entropy: Entropy,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("current", &self.current).finish_non_exhaustive()
    }
}

impl Keyring {
    /// A ring with one fresh key that is stored nowhere, for tests.
    pub fn ephemeral(entropy: Entropy) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        entropy.fill(key.as_mut());
        Self { current: 1, ciphers: vec![(1, XChaCha20Poly1305::new(&(*key).into()))], entropy }
    }

    /// Reads the data keys in `directory`, or makes the first one.
    ///
    /// # Errors
    /// When the keys are sealed with another key-encryption key, or the files cannot be read or written.
    pub fn open(directory: &Path, kek: &KeyEncryption, entropy: Entropy) -> Result<Self, SealError> {
        let path = directory.join(KEY_FILE);
        match std::fs::read(&path) {
            Ok(bytes) => Self::unseal(&codec::decode(&bytes).map_err(SealError::Malformed)?, kek, entropy),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (cipher, kind) = key_encryption(kek, true, &entropy)?;
                let mut key = Zeroizing::new([0; 32]);
                entropy.fill(key.as_mut());
                let sealed = seal(&cipher, 0, key.as_ref(), b"dek 1", &entropy)?;
                let file = KeyFile { kek: kind.to_owned(), keys: vec![(1, sealed)] };
                write_private(&path, &codec::encode(&file)).map_err(SealError::Write)?;
                Self::unseal(&file, kek, entropy)
            }
            Err(source) => Err(SealError::Read { path, source }),
        }
    }

    fn unseal(file: &KeyFile, kek: &KeyEncryption, entropy: Entropy) -> Result<Self, SealError> {
        let (cipher, kind) = key_encryption(kek, false, &entropy)?;
        if kind != file.kek {
            return Err(SealError::Locked);
        }
        let mut ciphers = Vec::new();
        for (id, sealed) in &file.keys {
            let (_, opened) = open(&cipher, sealed, format!("dek {id}").as_bytes(), "the data key")?;
            let key = Zeroizing::new(opened);
            let cipher =
                XChaCha20Poly1305::new_from_slice(&key).map_err(|_| SealError::Forged { what: "the data key" })?;
            ciphers.push((*id, cipher));
        }
        let current = ciphers.iter().map(|(id, _)| *id).max().ok_or(SealError::Forged { what: "the key file" })?;
        Ok(Self { current, ciphers, entropy })
    }

    fn cipher(&self, id: u32) -> Option<&XChaCha20Poly1305> {
        self.ciphers.iter().find(|(known, _)| *known == id).map(|(_, cipher)| cipher)
    }

    /// Seals a record for the place that `place` names.
    ///
    /// # Errors
    /// When the record is longer than the cipher allows (256 GiB).
    pub fn seal(&self, plaintext: &[u8], place: &[u8]) -> Result<Vec<u8>, SealError> {
        let cipher = self.cipher(self.current).ok_or(SealError::Forged { what: "the key ring" })?;
        seal(cipher, self.current, plaintext, place, &self.entropy)
    }

    /// Opens a record of that place.
    ///
    /// # Errors
    /// When it was changed, moved, or sealed with a key that is not in the ring.
    pub fn open_record(&self, sealed: &[u8], place: &[u8], what: &'static str) -> Result<Vec<u8>, SealError> {
        let id = sealed.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)).ok_or(SealError::Forged { what })?;
        let cipher = self.cipher(id).ok_or(SealError::Forged { what })?;
        open(cipher, sealed, place, what).map(|(_, plaintext)| plaintext)
    }

    /// The id of the key that new records are sealed with.
    pub(crate) fn current_id(&self) -> u32 {
        self.current
    }

    /// Seals one chunk of a stream with an explicit nonce (see `raft::snapshot_file`).
    pub(crate) fn seal_chunk(
        &self,
        id: u32,
        nonce: &[u8; 24],
        plaintext: &[u8],
        place: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let forged = SealError::Forged { what: "a snapshot" };
        let Some(cipher) = self.cipher(id) else { return Err(forged) };
        let nonce: &XNonce = nonce.into();
        cipher.encrypt(nonce, Payload { msg: plaintext, aad: place }).map_err(|_| forged)
    }

    /// Opens one chunk of a stream.
    pub(crate) fn open_chunk(
        &self,
        id: u32,
        nonce: &[u8; 24],
        sealed: &[u8],
        place: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let forged = SealError::Forged { what: "a snapshot" };
        let Some(cipher) = self.cipher(id) else { return Err(forged) };
        let nonce: &XNonce = nonce.into();
        cipher.decrypt(nonce, Payload { msg: sealed, aad: place }).map_err(|_| forged)
    }

    /// Random bytes for a stream's nonce prefix.
    pub(crate) fn nonce_prefix(&self) -> [u8; 19] {
        let mut prefix = [0; 19];
        self.entropy.fill(&mut prefix);
        prefix
    }
}

fn key_encryption(
    kek: &KeyEncryption,
    create: bool,
    entropy: &Entropy,
) -> Result<(XChaCha20Poly1305, &'static str), SealError> {
    match kek {
        KeyEncryption::UnlockKey(text) => {
            let digest = Zeroizing::new(<[u8; 32]>::from(Sha256::digest(text.as_bytes())));
            Ok((XChaCha20Poly1305::new(&(*digest).into()), "unlock-key"))
        }
        KeyEncryption::File(path) => {
            let bytes = match std::fs::read(path) {
                Ok(bytes) => Zeroizing::new(bytes),
                Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                    let mut fresh = Zeroizing::new(vec![0; 32]);
                    entropy.fill(&mut fresh);
                    write_private(path, &fresh).map_err(SealError::Write)?;
                    fresh
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SealError::Locked),
                Err(source) => return Err(SealError::Read { path: path.clone(), source }),
            };
            let cipher = XChaCha20Poly1305::new_from_slice(&bytes)
                .map_err(|_| SealError::Forged { what: "the key-encryption key" })?;
            Ok((cipher, "file"))
        }
    }
}

fn seal(
    cipher: &XChaCha20Poly1305,
    id: u32,
    plaintext: &[u8],
    place: &[u8],
    entropy: &Entropy,
) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0u8; 24];
    entropy.fill(&mut nonce);
    let ciphertext = cipher
        .encrypt((&nonce).into(), Payload { msg: plaintext, aad: place })
        .map_err(|_| SealError::Forged { what: "a record" })?;
    let mut record = Vec::with_capacity(HEADER + ciphertext.len());
    record.extend_from_slice(&id.to_be_bytes());
    record.extend_from_slice(&nonce);
    record.extend_from_slice(&ciphertext);
    Ok(record)
}

fn open(
    cipher: &XChaCha20Poly1305,
    sealed: &[u8],
    place: &[u8],
    what: &'static str,
) -> Result<(u32, Vec<u8>), SealError> {
    let (header, ciphertext) = sealed.split_at_checked(HEADER).ok_or(SealError::Forged { what })?;
    let (id, nonce) = header.split_at(4);
    let id = u32::from_be_bytes(id.try_into().map_err(|_| SealError::Forged { what })?);
    let nonce: &[u8; 24] = nonce.try_into().map_err(|_| SealError::Forged { what })?;
    let plaintext = cipher
        .decrypt(nonce.into(), Payload { msg: ciphertext, aad: place })
        .map_err(|_| SealError::Forged { what })?;
    Ok((id, plaintext))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> Keyring {
        Keyring::ephemeral(Entropy::from_seed(1))
    }

    #[test]
    fn a_record_opens_only_in_its_place() {
        let ring = ring();
        let sealed = ring.seal(b"payload", b"log 7").unwrap();
        assert_eq!(ring.open_record(&sealed, b"log 7", "an entry").unwrap(), b"payload");
        assert!(ring.open_record(&sealed, b"log 8", "an entry").is_err());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let ring = ring();
        let sealed = ring.seal(b"payload", b"x").unwrap();
        for byte in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[byte] ^= 1;
            assert!(ring.open_record(&forged, b"x", "an entry").is_err(), "byte {byte}");
        }
        for length in 0..sealed.len() {
            assert!(ring.open_record(&sealed[..length], b"x", "an entry").is_err(), "length {length}");
        }
    }

    #[test]
    fn the_key_survives_a_restart_and_needs_its_key_encryption_key() {
        let directory = tempfile::tempdir().unwrap();
        let kek = KeyEncryption::File(directory.path().join("kek"));
        let entropy = Entropy::from_seed(3);
        let sealed = Keyring::open(directory.path(), &kek, entropy.clone()).unwrap().seal(b"p", b"x").unwrap();
        let again = Keyring::open(directory.path(), &kek, entropy.clone()).unwrap();
        assert_eq!(again.open_record(&sealed, b"x", "an entry").unwrap(), b"p");
        let locked = KeyEncryption::UnlockKey(Zeroizing::new("SWMKEY-1-x".to_owned()));
        assert!(matches!(Keyring::open(directory.path(), &locked, entropy.clone()), Err(SealError::Locked)));
        std::fs::remove_file(directory.path().join("kek")).unwrap();
        assert!(matches!(Keyring::open(directory.path(), &kek, entropy), Err(SealError::Locked)));
    }
}
