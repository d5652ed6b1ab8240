//! The terminal of this process: raw mode, size, and keys that detach from a container.

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;

/// Puts the terminal of standard input into raw mode until dropped.
pub(crate) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Enters raw mode; `None` when standard input is no terminal.
    pub(crate) fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else { return Ok(None) };
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).context("put the terminal into raw mode")?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done about a terminal that is gone.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    rustix::termios::isatty(std::io::stdin())
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    rustix::termios::isatty(std::io::stdout())
}

/// Rows and columns of the terminal of standard output (else of standard input).
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin())).ok()?;
    (size.ws_row > 0).then_some((size.ws_row, size.ws_col))
}

/// Standard input, read on a thread of its own because a read of a terminal cannot be cancelled. The thread ends with
/// the process, or at the end of the input. At most 16 pieces of 32 KiB wait to be taken.
pub(crate) fn stdin_chunks() -> mpsc::Receiver<bytes::Bytes> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        use std::io::Read as _;
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; 32 * 1024];
        loop {
            match stdin.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return,
                Ok(length) => {
                    let chunk = bytes::Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                    if sender.blocking_send(chunk).is_err() {
                        return;
                    }
                }
            }
        }
    });
    receiver
}

/// The keys docker detaches by.
const DEFAULT_DETACH_KEYS: &[u8] = &[16, 17];

/// Parses `ctrl-p,ctrl-q` or `a,b`.
pub(crate) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(DEFAULT_DETACH_KEYS.to_vec()) };
    let key = |name: &str| {
        let invalid = || {
            format!(
                "invalid detach keys ({text}): unknown key '{name}' (a letter, or ctrl- and one of a-z @ [ \\ ] ^ _)"
            )
        };
        if let [key] = name.as_bytes() {
            return Ok(*key);
        }
        match name.to_ascii_lowercase().strip_prefix("ctrl-").map(str::as_bytes) {
            Some([key @ b'a'..=b'z']) => Ok(key - b'a' + 1),
            Some(b"@") => Ok(0),
            Some([key @ b'['..=b'_']) => Ok(key - b'[' + 27),
            _ => Err(invalid()),
        }
    };
    text.split(',').map(key).collect()
}

/// Looks for the detach keys in what is typed. Keys that might be their beginning are held back until the next.
#[derive(Debug)]
pub(crate) struct DetachFilter {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachFilter {
    /// Looks for these keys.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// What to pass on of the typed bytes, and whether the keys were complete.
    pub(crate) fn push(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(self.keys.get(..self.matched).unwrap_or_default());
            self.matched = 0;
            if self.keys.first() == Some(byte) {
                self.matched = 1;
            } else {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(detach_keys(None), Ok(vec![16, 17]));
        assert_eq!(detach_keys(Some("ctrl-a,x,ctrl-@,ctrl-]")), Ok(vec![1, b'x', 0, 29]));
        assert!(detach_keys(Some("ctrl-1")).is_err());
    }

    #[test]
    fn detaching() {
        let mut filter = DetachFilter::new(vec![16, 17]);
        assert_eq!(filter.push(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(filter.push(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(filter.push(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(filter.push(b"\x11rest"), (Vec::new(), true));
    }
}
