//! Who a container's process runs as: `user[:group]` resolved by the container's own `/etc/passwd` and `/etc/group`.
//!
//! The files are opened below the root file system (`RESOLVE_IN_ROOT`), so a link in an image cannot make the daemon read
//! the host's.

use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};
use shoal_engine_sys::fs::Directory;

/// The largest `/etc/passwd` or `/etc/group` that is read.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Ids above this do not fit the kernel's signed uses (CVE-2024-40635).
const MAX_ID: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Further groups.
    pub additional_gids: Vec<u32>,
    /// Its home directory, for `HOME`.
    pub home: String,
}

impl Default for ContainerUser {
    fn default() -> Self {
        Self { uid: 0, gid: 0, additional_gids: Vec::new(), home: "/root".to_owned() }
    }
}

/// Why a user could not be resolved. The texts are runc's, which users know.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The name is not in `/etc/passwd`.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// The name is not in `/etc/group`.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// The number does not fit.
    #[error("uids and gids must be in range 0-2147483647")]
    OutOfRange,
    /// A file could not be read.
    #[error("cannot read {file} of the container")]
    Read {
        /// Which.
        file: &'static str,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct GroupEntry {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid`; empty is root. `group_add` are further groups by name or number.
///
/// # Errors
/// When a name is not in the container's files, or a number is out of range.
pub fn resolve(rootfs: &Directory, user: &str, group_add: &[String]) -> Result<ContainerUser, UserError> {
    let passwd = parse_passwd(&read(rootfs, "etc/passwd")?);
    let groups = parse_groups(&read(rootfs, "etc/group")?);
    resolve_in(&passwd, &groups, user, group_add)
}

/// The same below a path.
///
/// # Errors
/// As [`resolve`], and when the directory cannot be opened.
pub fn resolve_at(rootfs: &Path, user: &str, group_add: &[String]) -> Result<ContainerUser, UserError> {
    let directory = Directory::open(rootfs).map_err(|source| UserError::Read { file: "/", source })?;
    resolve(&directory, user, group_add)
}

fn resolve_in(
    passwd: &[PasswdEntry],
    groups: &[GroupEntry],
    user: &str,
    group_add: &[String],
) -> Result<ContainerUser, UserError> {
    let (user, group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name wins over a number, as runc does.
    let entry = passwd.iter().find(|entry| entry.name == user);
    let number = parse_id(user)?;
    let entry = entry.or_else(|| passwd.iter().find(|entry| Some(entry.uid) == number));
    let mut resolved = match (entry, number) {
        (Some(entry), _) => {
            ContainerUser { uid: entry.uid, gid: entry.gid, additional_gids: Vec::new(), home: entry.home.clone() }
        }
        (None, Some(uid)) => ContainerUser { uid, gid: 0, additional_gids: Vec::new(), home: "/".to_owned() },
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    match group {
        Some(group) => resolved.gid = group_id(groups, group)?,
        // Without an explicit group the user has its memberships.
        None => {
            let name = entry.map_or("", |entry| entry.name.as_str());
            let member = |group: &&GroupEntry| group.members.iter().any(|member| member == name);
            resolved.additional_gids = groups.iter().filter(member).map(|group| group.gid).collect();
        }
    }
    for group in group_add {
        resolved.additional_gids.push(group_id(groups, group)?);
    }
    if resolved.uid > MAX_ID || resolved.gid > MAX_ID {
        return Err(UserError::OutOfRange);
    }
    // As runc and dockerd: the primary group is among the supplementary ones (CVE-2022-36109).
    resolved.additional_gids.push(resolved.gid);
    resolved.additional_gids.sort_unstable();
    resolved.additional_gids.dedup();
    if resolved.home.is_empty() {
        resolved.home = "/".to_owned();
    }
    Ok(resolved)
}

fn group_id(groups: &[GroupEntry], group: &str) -> Result<u32, UserError> {
    match groups.iter().find(|entry| entry.name == group) {
        Some(entry) if entry.gid <= MAX_ID => Ok(entry.gid),
        Some(_) => Err(UserError::OutOfRange),
        None => parse_id(group)?.ok_or_else(|| UserError::NoGroup(group.to_owned())),
    }
}

/// `None` when it is not a number; an error when it is one that is out of range.
fn parse_id(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(id) if id <= MAX_ID => Ok(Some(id)),
        _ => Err(UserError::OutOfRange),
    }
}

/// An absent file is an empty one: images made from nothing have none.
fn read(rootfs: &Directory, file: &'static str) -> Result<String, UserError> {
    let opened = match rootfs.open_file(Path::new(file)) {
        Ok(opened) => opened,
        Err(error) if matches!(error.raw_os_error(), Some(2 | 20)) => return Ok(String::new()),
        Err(source) => return Err(UserError::Read { file, source }),
    };
    let mut bytes = Vec::new();
    opened.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|source| UserError::Read { file, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse_passwd(text: &str) -> Vec<PasswdEntry> {
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(PasswdEntry {
            name: (*fields.first()?).to_owned(),
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).copied().unwrap_or_default().to_owned(),
        })
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).filter_map(entry).collect()
}

fn parse_groups(text: &str) -> Vec<GroupEntry> {
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let members = fields.get(3).copied().unwrap_or_default();
        Some(GroupEntry {
            name: (*fields.first()?).to_owned(),
            gid: fields.get(2)?.parse().ok()?,
            members: members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect(),
        })
    };
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no\nweb:x:33:34::/srv:/bin/sh\nhuge:x:4294967295:0::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:web,other\naudio:x:29:\n";

    fn resolved(user: &str, add: &[&str]) -> Result<ContainerUser, UserError> {
        let add: Vec<String> = add.iter().map(|group| (*group).to_owned()).collect();
        resolve_in(&parse_passwd(PASSWD), &parse_groups(GROUP), user, &add)
    }

    fn ids(user: &str, add: &[&str]) -> (u32, u32, Vec<u32>, String) {
        let user = resolved(user, add).unwrap();
        (user.uid, user.gid, user.additional_gids, user.home)
    }

    #[test]
    fn names_and_numbers_become_ids() {
        assert_eq!(ids("", &[]), (0, 0, vec![0], "/root".to_owned()));
        assert_eq!(ids("web", &[]), (33, 34, vec![34, 40], "/srv".to_owned()));
        assert_eq!(ids("33", &[]), (33, 34, vec![34, 40], "/srv".to_owned()));
        assert_eq!(ids("web:audio", &[]), (33, 29, vec![29], "/srv".to_owned()));
        assert_eq!(ids("1000:1001", &["logs", "7"]), (1000, 1001, vec![7, 40, 1001], "/".to_owned()));
        assert_eq!(ids("1000", &[]), (1000, 0, vec![0], "/".to_owned()));
    }

    #[test]
    fn what_is_not_there_is_named() {
        assert_eq!(
            resolved("nobody", &[]).unwrap_err().to_string(),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            resolved("web:nogroup", &[]).unwrap_err().to_string(),
            "unable to find group nogroup: no matching entries in group file"
        );
    }

    #[test]
    fn ids_that_overflow_are_refused() {
        for user in ["2147483648", "4294967296", "-1", "0:4294967295", "huge", "99999999999999999999"] {
            assert!(matches!(resolved(user, &[]), Err(UserError::OutOfRange)), "{user}");
        }
        assert!(matches!(resolved("0", &["2147483648"]), Err(UserError::OutOfRange)));
    }
}
