//! Cluster settings, join tokens and the unlock key.

use shoal_proto::control::ControlRequest;
use shoal_proto::error::Failure;
use shoal_proto::id::{IdSource, TaskId};
use shoal_proto::object::Cluster;

use super::{Planned, Reply, check_version, one};
use crate::change::Change;
use crate::store::Store;
use crate::validate;

pub(super) fn update(store: &Store, request: &ControlRequest, ids: &mut dyn IdSource) -> Result<Planned, Failure> {
    let ControlRequest::UpdateCluster { version, spec, rotate_worker_token, rotate_manager_token, rotate_unlock_key } =
        request
    else {
        return Err(Failure::invalid("not a change of the cluster"));
    };
    let cluster = store.cluster().ok_or_else(|| Failure::unavailable("the cluster was not made yet"))?;
    check_version(&cluster.meta, *version)?;
    validate::cluster(spec)?;
    let mut updated = Cluster::clone(cluster);
    updated.spec = (**spec).clone();
    if *rotate_worker_token {
        updated.root_ca.worker_token = rotated(&cluster.root_ca.worker_token, ids);
    }
    if *rotate_manager_token {
        updated.root_ca.manager_token = rotated(&cluster.root_ca.manager_token, ids);
    }
    if !spec.auto_lock_managers {
        updated.unlock_key.clear();
    } else if *rotate_unlock_key || cluster.unlock_key.is_empty() {
        updated.unlock_key = unlock_key(ids);
    }
    let id = cluster.id;
    Ok(one(Change::update(updated), Reply::Cluster(id)))
}

/// The same token with another secret: the fingerprint of the trust root before it stays.
fn rotated(token: &str, ids: &mut dyn IdSource) -> String {
    let fingerprint = token.rsplit_once('-').map_or("", |(fingerprint, _)| fingerprint);
    // 128 bits in 25 base-36 digits: the form that ids have, too.
    format!("{fingerprint}-{}", TaskId::generate(ids))
}

/// `SWMKEY-1-` and 32 bytes in unpadded base64, as Swarm writes it.
fn unlock_key(ids: &mut dyn IdSource) -> String {
    let mut key = [0u8; 32];
    for half in key.chunks_mut(16) {
        half.copy_from_slice(&ids.next_bits().to_be_bytes());
    }
    format!("SWMKEY-1-{}", base64(&key))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let group = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[((group >> (18 - 6 * digit)) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_proto::id::SequentialIds;

    #[test]
    fn base64_is_as_everywhere() {
        for (plain, encoded) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(unlock_key(&mut SequentialIds::default()).len(), 9 + 43);
    }

    #[test]
    fn a_rotated_token_keeps_the_fingerprint() {
        let old = format!("SWMTKN-1-{}-{}", "a".repeat(50), "b".repeat(25));
        let new = rotated(&old, &mut SequentialIds::default());
        assert_eq!(new.len(), old.len());
        assert_eq!(new[..59], old[..59]);
        assert_ne!(new, old);
    }
}
