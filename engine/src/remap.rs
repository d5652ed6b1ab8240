//! `--userns-remap`: which ids of the host stand for those in containers.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use serde::{Deserialize, Serialize};
use shoal_engine_sys::user_namespace::{Maps, UserNamespace};

mod subordinate;

pub use subordinate::{AccountFiles, RemapError, resolve};

/// What the kernel shows in place of an id that has no counterpart.
const NOBODY: u32 = 65534;

/// Ids that follow each other, inside and outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first in a container.
    pub inside: u32,
    /// The first on the host.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl IdRange {
    fn to_host(ranges: &[Self], id: u32) -> Option<u32> {
        let inside = |range: &Self| id.checked_sub(range.inside).filter(|offset| *offset < range.count);
        ranges.iter().find_map(|range| range.outside.checked_add(inside(range)?))
    }

    fn to_container(ranges: &[Self], id: u32) -> Option<u32> {
        let outside = |range: &Self| id.checked_sub(range.outside).filter(|offset| *offset < range.count);
        ranges.iter().find_map(|range| range.inside.checked_add(outside(range)?))
    }

    fn text(ranges: &[Self]) -> String {
        ranges.iter().map(|range| format!("{} {} {}\n", range.inside, range.outside, range.count)).collect()
    }
}

/// The ids of a user namespace. Both lists have an id for root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Of users.
    pub uids: Vec<IdRange>,
    /// Of groups.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// User and group of the host that are root in containers.
    pub fn root(&self) -> (u32, u32) {
        self.owner_on_host((0, 0)).unwrap_or((NOBODY, NOBODY))
    }

    /// User and group of the host that are these in a container; `None` when one of them has no counterpart.
    pub fn owner_on_host(&self, (uid, gid): (u32, u32)) -> Option<(u32, u32)> {
        Some((IdRange::to_host(&self.uids, uid)?, IdRange::to_host(&self.gids, gid)?))
    }

    /// User and group in a container that are these on the host; nobody where there is none, as the container sees it.
    pub fn owner_inside(&self, (uid, gid): (u32, u32)) -> (u32, u32) {
        let inside = |ranges: &[IdRange], id| IdRange::to_container(ranges, id).unwrap_or(NOBODY);
        (inside(&self.uids, uid), inside(&self.gids, gid))
    }

    /// Does something with the map in the kernel's words.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn with_text<T>(&self, work: impl FnOnce(Maps<'_>) -> std::io::Result<T>) -> std::io::Result<T> {
        let (uids, gids) = (IdRange::text(&self.uids), IdRange::text(&self.gids));
        work(Maps { uids: &uids, gids: &gids })
    }

    /// As a specification has it: users, and groups.
    ///
    /// # Errors
    /// When the OCI types do not take a range.
    pub fn to_oci(&self) -> Result<(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>), oci_spec::OciSpecError> {
        let one = |range: &IdRange| {
            LinuxIdMappingBuilder::default().container_id(range.inside).host_id(range.outside).size(range.count).build()
        };
        let all = |ranges: &[IdRange]| ranges.iter().map(one).collect::<Result<Vec<_>, _>>();
        Ok((all(&self.uids)?, all(&self.gids)?))
    }

    /// Name of the folder in the data root that is this map's, as dockerd has it.
    pub fn folder(&self) -> String {
        let (uid, gid) = self.root();
        format!("{uid}.{gid}")
    }

    /// Lets the remapped root go through a folder, but not look into it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn let_through(&self, folder: &Path) -> std::io::Result<()> {
        use std::os::unix::fs::{PermissionsExt, chown};
        chown(folder, Some(0), Some(self.root().1))?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o710))
    }
}

/// The user namespace that an engine maps mounts with for which no container has one: kept, since it asks for the same again
/// and again.
#[derive(Debug, Default)]
pub(crate) struct MountNamespace {
    known: Mutex<Option<(IdMap, Arc<UserNamespace>)>>,
}

impl MountNamespace {
    /// One with this map.
    pub(crate) fn of(&self, map: &IdMap) -> std::io::Result<Arc<UserNamespace>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = known.as_ref().filter(|(known, _)| known == map) {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(map.with_text(UserNamespace::create)?);
        *known = Some((map.clone(), Arc::clone(&made)));
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_both_ways() {
        let range = |inside, outside, count| IdRange { inside, outside, count };
        let map =
            IdMap { uids: vec![range(0, 100_000, 10), range(10, 500_000, 5)], gids: vec![range(0, 200_000, 65536)] };
        assert_eq!(map.root(), (100_000, 200_000));
        assert_eq!(map.owner_on_host((12, 3)), Some((500_002, 200_003)));
        assert_eq!(map.owner_on_host((15, 3)), None);
        assert_eq!(map.owner_on_host((0, 65536)), None);
        assert_eq!(map.owner_inside((500_004, 200_000)), (14, 0));
        assert_eq!(map.owner_inside((0, 0)), (NOBODY, NOBODY));
        assert_eq!(map.with_text(|text| Ok(text.uids.to_owned())).unwrap(), "0 100000 10\n10 500000 5\n");
        assert_eq!(map.folder(), "100000.200000");
    }
}
