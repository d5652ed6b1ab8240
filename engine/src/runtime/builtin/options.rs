//! Mount options, as specifications write them.

use shoal_engine_sys::namespace::MountChange;

use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// The kernel's `MOUNT_ATTR_*`.
pub(super) const READ_ONLY: u64 = 0x1;
pub(super) const NO_SUID: u64 = 0x2;
pub(super) const NO_DEVICES: u64 = 0x4;
pub(super) const NO_EXECUTION: u64 = 0x8;
const ACCESS_TIME: u64 = 0x70;
const NO_ACCESS_TIME: u64 = 0x10;
const STRICT_ACCESS_TIME: u64 = 0x20;
const NO_DIRECTORY_ACCESS_TIME: u64 = 0x80;
const NO_SYMLINKS: u64 = 0x20_0000;

/// And its `MS_*` for propagation.
pub(super) const UNBINDABLE: u64 = 1 << 17;
pub(super) const PRIVATE: u64 = 1 << 18;
pub(super) const SLAVE: u64 = 1 << 19;
pub(super) const SHARED: u64 = 1 << 20;

/// What a mount's options say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `Some` for a bind mount: whether mounts below come along.
    pub(super) bind: Option<bool>,
    /// Attributes of the mount itself.
    pub(super) set: u64,
    pub(super) clear: u64,
    /// Attributes of the mount and all below.
    pub(super) set_all: u64,
    pub(super) clear_all: u64,
    /// Propagation (`MS_*`), and whether it goes for all below.
    pub(super) propagation: Option<(u64, bool)>,
    /// What only the file system understands: a flag, or a key and its value.
    pub(super) data: Vec<(String, Option<String>)>,
}

impl Options {
    pub(super) fn parse(words: &[String]) -> Result<Self, RuntimeFailure> {
        let mut options = Self::default();
        for word in words {
            options.add(word)?;
        }
        Ok(options)
    }

    fn add(&mut self, word: &str) -> Result<(), RuntimeFailure> {
        // Options for all mounts below begin with an `r` that those for one do not have.
        if let Some((set, clear)) = attribute(word) {
            self.set = self.set & !clear | set;
            self.clear = self.clear & !set | clear;
        } else if let Some((set, clear)) = word.strip_prefix('r').and_then(attribute) {
            self.set_all = self.set_all & !clear | set;
            self.clear_all = self.clear_all & !set | clear;
        } else if let Some(kind) = propagation(word) {
            self.propagation = Some((kind, false));
        } else if let Some(kind) = word.strip_prefix('r').and_then(propagation) {
            self.propagation = Some((kind, true));
        } else {
            match word {
                "bind" => self.bind = Some(false),
                "rbind" => self.bind = Some(true),
                // The last ones say what no file system does any other way, or nothing at all.
                "" | "defaults" | "silent" | "loud" | "acl" | "noacl" | "iversion" | "noiversion" => {}
                "idmap" | "ridmap" | "tmpcopyup" => {
                    let text = format!("the mount option {word} is not supported");
                    return Err(RuntimeFailure::new(FailureKind::CannotApply, text));
                }
                word => self.data.push(match word.split_once('=') {
                    Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                    None => (word.to_owned(), None),
                }),
            }
        }
        Ok(())
    }

    /// The changes that make a bind mount what it is to be.
    pub(super) fn changes(&self) -> Vec<MountChange> {
        let mut changes = Vec::new();
        if self.set_all | self.clear_all != 0 {
            changes.push(change(self.set_all, self.clear_all, true));
        }
        if self.set | self.clear != 0 {
            changes.push(change(self.set, self.clear, false));
        }
        changes
    }
}

fn change(set: u64, clear: u64, recursive: bool) -> MountChange {
    // The kernel wants the whole field cleared before one of its values is set; relatime is the value zero.
    let clear = if (set | clear) & ACCESS_TIME == 0 { clear } else { clear | ACCESS_TIME };
    MountChange { set, clear: clear & !(set & !ACCESS_TIME), propagation: 0, recursive }
}

/// Bits to set and to clear.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (READ_ONLY, 0),
        "rw" => (0, READ_ONLY),
        "nosuid" => (NO_SUID, 0),
        "suid" => (0, NO_SUID),
        "nodev" => (NO_DEVICES, 0),
        "dev" => (0, NO_DEVICES),
        "noexec" => (NO_EXECUTION, 0),
        "exec" => (0, NO_EXECUTION),
        "noatime" => (NO_ACCESS_TIME, STRICT_ACCESS_TIME),
        "strictatime" => (STRICT_ACCESS_TIME, NO_ACCESS_TIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (0, NO_ACCESS_TIME | STRICT_ACCESS_TIME),
        "nodiratime" => (NO_DIRECTORY_ACCESS_TIME, 0),
        "diratime" => (0, NO_DIRECTORY_ACCESS_TIME),
        "nosymfollow" => (NO_SYMLINKS, 0),
        "symfollow" => (0, NO_SYMLINKS),
        _ => return None,
    })
}

pub(super) fn propagation(word: &str) -> Option<u64> {
    Some(match word {
        "private" => PRIVATE,
        "slave" => SLAVE,
        "shared" => SHARED,
        "unbindable" => UNBINDABLE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Options {
        Options::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn attributes_propagation_and_data_are_told_apart() {
        let options = parsed(&["rbind", "ro", "rro", "rslave", "nosuid", "size=64m", "newinstance", "rw"]);
        assert_eq!(options.bind, Some(true));
        assert_eq!((options.set, options.clear), (NO_SUID, READ_ONLY));
        assert_eq!((options.set_all, options.clear_all), (READ_ONLY, 0));
        assert_eq!(options.propagation, Some((SLAVE, true)));
        assert_eq!(options.data, [("size".to_owned(), Some("64m".to_owned())), ("newinstance".to_owned(), None)]);
        assert!(Options::parse(&["idmap".to_owned()]).is_err());
    }

    #[test]
    fn access_times_are_one_field() {
        let [change] = parsed(&["noatime", "strictatime"]).changes()[..] else { panic!() };
        assert_eq!((change.set, change.clear), (STRICT_ACCESS_TIME, ACCESS_TIME));
        let [change] = parsed(&["relatime"]).changes()[..] else { panic!() };
        assert_eq!((change.set, change.clear), (0, ACCESS_TIME));
        let [change] = parsed(&["ro", "nodev"]).changes()[..] else { panic!() };
        assert_eq!((change.set, change.clear), (READ_ONLY | NO_DEVICES, 0));
    }
}
