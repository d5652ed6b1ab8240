use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::clock::ManualClock;
use crate::test_ca::TestCa;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(NOW))
}

#[test]
fn survives_a_restart_and_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let certificates = directory.path().join("cluster/certificates");
    assert!(NodeIdentity::load(&certificates, clock()).unwrap().is_none());
    let ca = TestCa::new(NOW);
    let made = NodeIdentity::create(&certificates, clock(), ca.issue(5, NodeRole::Manager)).unwrap();
    let loaded = NodeIdentity::load(&certificates, clock()).unwrap().expect("stored");
    assert_eq!(loaded.current().subject, made.current().subject);
    assert_eq!(loaded.role(), NodeRole::Manager);
    assert_eq!(loaded.cluster_id(), ca.cluster);
    for name in [NODE_FILE, ROOT_FILE] {
        let mode = std::fs::metadata(certificates.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn replacement_is_stored_and_announced() {
    let directory = tempfile::tempdir().unwrap();
    let ca = TestCa::new(NOW);
    let identity = NodeIdentity::create(directory.path(), clock(), ca.issue(5, NodeRole::Worker)).unwrap();
    let generations = identity.generations();
    identity.replace(ca.issue(5, NodeRole::Manager)).unwrap();
    assert!(generations.has_changed().unwrap());
    assert_eq!(identity.role(), NodeRole::Manager);
    let loaded = NodeIdentity::load(directory.path(), clock()).unwrap().expect("stored");
    assert_eq!(loaded.role(), NodeRole::Manager);
}

#[test]
fn another_nodes_certificate_is_refused() {
    let ca = TestCa::new(NOW);
    let identity = NodeIdentity::in_memory(clock(), ca.issue(5, NodeRole::Worker)).unwrap();
    assert!(matches!(identity.replace(ca.issue(6, NodeRole::Worker)), Err(IdentityError::Subject { .. })));
    assert_eq!(identity.node_id(), NodeId::from_bits(5));
}

#[test]
fn a_key_that_does_not_match_is_refused() {
    let ca = TestCa::new(NOW);
    let mixed = Material { key_pem: ca.issue(5, NodeRole::Worker).key_pem, ..ca.issue(5, NodeRole::Worker) };
    assert!(matches!(NodeIdentity::in_memory(clock(), mixed), Err(IdentityError::Tls(_))));
}

#[test]
fn renewal_is_due_between_half_and_four_fifths_of_the_life() {
    let ca = TestCa::new(NOW);
    let identity = NodeIdentity::in_memory(clock(), ca.issue(5, NodeRole::Worker)).unwrap();
    let life = Duration::from_secs(3600);
    for seed in 0..50 {
        let delay = identity.renewal_delay(&Entropy::from_seed(seed));
        assert!(delay >= life.mul_f64(0.49) && delay <= life.mul_f64(0.81), "{delay:?}");
    }
}

#[test]
fn erased_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let ca = TestCa::new(NOW);
    NodeIdentity::create(directory.path(), clock(), ca.issue(5, NodeRole::Worker)).unwrap();
    NodeIdentity::erase(directory.path()).unwrap();
    NodeIdentity::erase(directory.path()).unwrap();
    assert!(NodeIdentity::load(directory.path(), clock()).unwrap().is_none());
}
