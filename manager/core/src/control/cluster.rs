//! Cluster settings, join tokens and the unlock key.

use shoal_proto::control::ControlRequest;
use shoal_proto::error::{ErrorKind, Failure};
use shoal_proto::id::{IdSource, TaskId};
use shoal_proto::object::Cluster;
use shoal_proto::spec::ClusterSpec;

use super::{Planned, Reply, check_version, one};
use crate::change::Change;
use crate::store::Store;
use crate::validate;

pub(super) fn update(store: &Store, request: &ControlRequest, ids: &mut dyn IdSource) -> Result<Planned, Failure> {
    let ControlRequest::UpdateCluster { version, spec, rotate_worker_token, rotate_manager_token, .. } = request else {
        return Err(Failure::invalid("not a change of the cluster"));
    };
    let cluster = store.cluster().ok_or_else(|| Failure::unavailable("the cluster was not made yet"))?;
    check_version(&cluster.meta, *version)?;
    validate::cluster(spec)?;
    refuse_autolock(spec)?;
    let mut updated = Cluster::clone(cluster);
    updated.spec = (**spec).clone();
    if *rotate_worker_token {
        updated.root_ca.worker_token = rotated(&cluster.root_ca.worker_token, ids);
    }
    if *rotate_manager_token {
        updated.root_ca.manager_token = rotated(&cluster.root_ca.manager_token, ids);
    }
    updated.unlock_key.clear();
    let id = cluster.id;
    Ok(one(Change::update(updated), Reply::Cluster(id)))
}

/// The same token with another secret: the fingerprint of the trust root before it stays.
fn rotated(token: &str, ids: &mut dyn IdSource) -> String {
    let fingerprint = token.rsplit_once('-').map_or("", |(fingerprint, _)| fingerprint);
    // 128 bits in 25 base-36 digits: the form that ids have, too.
    format!("{fingerprint}-{}", TaskId::generate(ids))
}

/// A manager that says it is locked, and starts without a key all the same, is worse than one that says it cannot be.
///
/// # Errors
/// When managers are to be locked.
pub fn refuse_autolock(spec: &ClusterSpec) -> Result<(), Failure> {
    if spec.auto_lock_managers {
        return Err(Failure::new(
            ErrorKind::NotImplemented,
            "autolock is not available: managers cannot be locked yet; leave --autolock out",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::id::SequentialIds;

    #[test]
    fn a_rotated_token_keeps_the_fingerprint() {
        let old = format!("SWMTKN-1-{}-{}", "a".repeat(50), "b".repeat(25));
        let new = rotated(&old, &mut SequentialIds::default());
        assert_eq!(new.len(), old.len());
        assert_eq!(new[..59], old[..59]);
        assert_ne!(new, old);
    }
}
