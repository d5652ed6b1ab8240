//! The ranges of ids that a user of the host may give to others: `/etc/subuid` and `/etc/subgid`.

use std::io;
use std::path::{Path, PathBuf};

use super::{IdMap, IdRange};

/// The word for the user that exists for this only, and its name.
const DEFAULT: &str = "default";
const DEFAULT_USER: &str = "dockremap";

/// Where the host says who is who.
#[derive(Debug, Clone)]
pub struct AccountFiles {
    /// Users.
    pub passwd: PathBuf,
    /// Groups.
    pub group: PathBuf,
    /// Ranges of user ids.
    pub subuid: PathBuf,
    /// Ranges of group ids.
    pub subgid: PathBuf,
}

impl Default for AccountFiles {
    fn default() -> Self {
        Self::below(Path::new("/etc"))
    }
}

impl AccountFiles {
    /// All of them in one folder.
    pub fn below(folder: &Path) -> Self {
        Self {
            passwd: folder.join("passwd"),
            group: folder.join("group"),
            subuid: folder.join("subuid"),
            subgid: folder.join("subgid"),
        }
    }
}

/// What was asked for is none.
#[derive(Debug, thiserror::Error)]
pub enum RemapError {
    /// More than a user and a group.
    #[error("invalid user/group specification in --userns-remap: {0:?}")]
    Form(String),
    /// There is no such user or group.
    #[error("{kind} {name:?} has no entry in {}", .path.display())]
    Unknown {
        /// User or group.
        kind: &'static str,
        /// As it was given.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The default user is not there.
    #[error(
        "there is no user {DEFAULT_USER} for --userns-remap=default: make it with `useradd --system --user-group \
         {DEFAULT_USER}`, and add a line such as `{DEFAULT_USER}:100000:65536` to /etc/subuid and /etc/subgid"
    )]
    NoDefault,
    /// A user without a range.
    #[error("no ranges of ids for user {user:?} in {}: add a line such as `{user}:100000:65536`", .path.display())]
    NoRanges {
        /// Whose.
        user: String,
        /// Where.
        path: PathBuf,
    },
    /// A range that is none.
    #[error("invalid range of ids {line:?} in {}", .path.display())]
    Range {
        /// As it is written.
        line: String,
        /// Where.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The map of `default`, `user`, `user:group`, `uid` or `uid:gid`. As dockerd 28 does: ranges of both kinds are the
/// user's, and the group has only to exist. `None` for root, who cannot be mapped to himself.
///
/// # Errors
/// An unknown user or group, or a user without ranges.
pub fn resolve(text: &str, files: &AccountFiles) -> Result<Option<IdMap>, RemapError> {
    let mut parts = text.split(':');
    let (first, group, more) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if more.is_some() || first.is_empty() || group == Some("") {
        return Err(RemapError::Form(text.to_owned()));
    }
    let wanted = if first == DEFAULT { DEFAULT_USER } else { first };
    let user = match find(&files.passwd, "user", wanted) {
        Err(RemapError::Unknown { .. }) if first == DEFAULT => return Err(RemapError::NoDefault),
        found => found?,
    };
    find(&files.group, "group", group.unwrap_or(wanted))?;
    if user.id == 0 {
        return Ok(None);
    }
    let map = IdMap { uids: ranges(&files.subuid, &user)?, gids: ranges(&files.subgid, &user)? };
    Ok(Some(map))
}

struct Account {
    name: String,
    id: u32,
}

fn read(path: &Path) -> Result<String, RemapError> {
    std::fs::read_to_string(path).map_err(|source| RemapError::Read { path: path.to_owned(), source })
}

/// A user or group by its number if it is one, else by its name.
fn find(path: &Path, kind: &'static str, wanted: &str) -> Result<Account, RemapError> {
    let number: Option<u32> = wanted.parse().ok();
    let text = read(path)?;
    let accounts = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Account { name: name.to_owned(), id: id.parse().ok()? })
    });
    let is_it = |account: &Account| number.map_or(account.name == wanted, |number| account.id == number);
    let unknown = || RemapError::Unknown { kind, name: wanted.to_owned(), path: path.to_owned() };
    accounts.into_iter().find(is_it).ok_or_else(unknown)
}

/// A user's ranges one after the other, by name; by number when there are none.
fn ranges(path: &Path, user: &Account) -> Result<Vec<IdRange>, RemapError> {
    let text = match read(path) {
        Err(RemapError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => String::new(),
        text => text?,
    };
    let number = user.id.to_string();
    for owner in [user.name.as_str(), number.as_str()] {
        let mut found = Vec::new();
        let mut inside = 0_u32;
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            let Some((_, range)) = line.split_once(':').filter(|(name, _)| *name == owner) else { continue };
            let wrong = || RemapError::Range { line: line.to_owned(), path: path.to_owned() };
            let numbers =
                range.split_once(':').and_then(|(start, count)| Some((start.parse().ok()?, count.parse().ok()?)));
            let (outside, count): (u32, u32) = numbers.ok_or_else(wrong)?;
            // Root of the host in a container's range would undo what the range is for.
            if count == 0 || outside == 0 || outside.checked_add(count).is_none() {
                return Err(wrong());
            }
            found.push(IdRange { inside, outside, count });
            inside = inside.checked_add(count).ok_or_else(wrong)?;
        }
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Err(RemapError::NoRanges { user: user.name.clone(), path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(subuid: &str) -> (tempfile::TempDir, AccountFiles) {
        let folder = tempfile::tempdir().unwrap();
        let files = AccountFiles::below(folder.path());
        std::fs::write(&files.passwd, "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1:::\n").unwrap();
        std::fs::write(&files.group, "root:x:0:\nann:x:1000:\nstaff:x:50:\n").unwrap();
        std::fs::write(&files.subuid, subuid).unwrap();
        std::fs::write(&files.subgid, "ann:300000:65536\n").unwrap();
        (folder, files)
    }

    #[test]
    fn users_are_found_by_name_and_number_and_ranges_follow_each_other() {
        let (_folder, files) = files("# ranges\nbob:1:1\nann:100000:1000\nann:200000:64536\n");
        for text in ["ann", "ann:staff", "1000", "1000:50", "ann:1000"] {
            let map = resolve(text, &files).unwrap().unwrap();
            let second = IdRange { inside: 1000, outside: 200_000, count: 64536 };
            assert_eq!((map.uids[1], map.root()), (second, (100_000, 300_000)), "{text}");
        }
        assert_eq!(resolve("root", &files).unwrap(), None);
    }

    #[test]
    fn ranges_may_be_given_to_a_number() {
        let (_folder, files) = files("1000:100000:65536\n");
        assert_eq!(resolve("ann", &files).unwrap().unwrap().root(), (100_000, 300_000));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let (_folder, files) = files("ann:0:65536\n");
        let refused = |text: &str| resolve(text, &files).unwrap_err().to_string();
        assert!(refused("a:b:c").contains("invalid user/group specification"));
        assert!(refused("").contains("invalid user/group specification"));
        assert!(refused("eve").contains("user \"eve\" has no entry"));
        assert!(refused("ann:eve").contains("group \"eve\" has no entry"));
        // As dockerd: the group is one of the user's name.
        assert!(refused("bob").contains("group \"bob\" has no entry"));
        assert!(refused("bob:staff").contains("no ranges of ids for user \"bob\""));
        assert!(refused("ann").contains("invalid range of ids \"ann:0:65536\""));
        assert!(refused("default").contains("useradd --system --user-group dockremap"));
    }
}
