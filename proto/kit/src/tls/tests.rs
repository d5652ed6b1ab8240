use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use shoal_proto::id::NodeId;
use shoal_proto::spec::NodeRole;
use shoal_proto::time::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::channel::connect_by_digest;
use super::*;
use crate::clock::ManualClock;
use crate::identity::NodeIdentity;
use crate::join_token::certificate_digest;
use crate::test_ca::TestCa;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn node(ca: &TestCa, id: u128, role: NodeRole) -> Arc<NodeIdentity> {
    Arc::new(NodeIdentity::in_memory(Arc::new(ManualClock::at(NOW)), ca.issue(id, role)).unwrap())
}

/// Accepts, says who called by one byte, closes.
fn serve(identity: &Arc<NodeIdentity>, options: ListenerOptions) -> (SocketAddr, CancellationToken) {
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), Arc::clone(identity), options).unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut incoming = listener.incoming(stop.clone());
    tokio::spawn(async move {
        while let Some(Ok(mut stream)) = incoming.next().await {
            let info = tonic::transport::server::Connected::connect_info(&stream);
            tokio::spawn(async move {
                let role = info.subject.map_or(b'-', |subject| subject.role.as_str().as_bytes()[0]);
                let _ = stream.write_all(&[role]).await;
                let _ = stream.read_u8().await;
            });
        }
    });
    (addr, stop)
}

async fn who_am_i(identity: &NodeIdentity, addr: SocketAddr) -> Result<u8, DialError> {
    let mut stream = dial(identity, &addr.to_string(), &DialOptions::default()).await?;
    Ok(stream.read_u8().await.unwrap())
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let ca = TestCa::new(NOW);
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Manager), ListenerOptions::default());
    assert_eq!(who_am_i(&node(&ca, 2, NodeRole::Worker), addr).await.unwrap(), b'w');
    assert_eq!(who_am_i(&node(&ca, 3, NodeRole::Manager), addr).await.unwrap(), b'm');
}

#[tokio::test]
async fn a_worker_cannot_pose_as_a_manager() {
    let ca = TestCa::new(NOW);
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Worker), ListenerOptions::default());
    let refused = who_am_i(&node(&ca, 2, NodeRole::Worker), addr).await;
    assert!(matches!(refused, Err(DialError::Untrusted { source: TrustError::NotAManager, .. })), "{refused:?}");
}

#[tokio::test]
async fn another_clusters_manager_is_refused() {
    let (ours, theirs) = (TestCa::new(NOW), TestCa::new(NOW));
    let (addr, _stop) = serve(&node(&theirs, 1, NodeRole::Manager), ListenerOptions::default());
    let refused = who_am_i(&node(&ours, 2, NodeRole::Worker), addr).await;
    assert!(matches!(refused, Err(DialError::Untrusted { source: TrustError::Untrusted { .. }, .. })), "{refused:?}");
}

#[tokio::test]
async fn the_node_at_the_address_must_be_the_one_meant() {
    let ca = TestCa::new(NOW);
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Manager), ListenerOptions::default());
    let options = DialOptions { node: Some(NodeId::from_bits(9)), ..DialOptions::default() };
    let refused = dial(&node(&ca, 2, NodeRole::Manager), &addr.to_string(), &options).await;
    assert!(matches!(refused, Err(DialError::Untrusted { source: TrustError::OtherNode { .. }, .. })));
}

#[tokio::test]
async fn a_joiner_believes_only_the_root_in_its_token() {
    let ca = TestCa::new(NOW);
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Manager), ListenerOptions::default());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    let timeout = Duration::from_secs(5);
    let right = dial_right(&ca, Arc::clone(&clock), addr, timeout).await;
    assert!(right.is_ok(), "{right:?}");
    let wrong = connect_by_digest([3; 32], clock, &addr.to_string(), timeout).await;
    assert!(matches!(wrong, Err(DialError::Untrusted { source: TrustError::TokenOfOtherCluster, .. })), "{wrong:?}");
}

async fn dial_right(ca: &TestCa, clock: Arc<dyn Clock>, addr: SocketAddr, timeout: Duration) -> Result<u8, DialError> {
    let digest = certificate_digest(&ca.root_der);
    let mut stream = super::channel::dial_by_digest(digest, clock, &addr.to_string(), timeout).await?;
    Ok(stream.read_u8().await.unwrap())
}

#[tokio::test]
async fn an_expired_manager_is_refused() {
    let ca = TestCa::new(NOW);
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Manager), ListenerOptions::default());
    let later: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW.after(Duration::from_secs(7200))));
    let late = NodeIdentity::in_memory(later, ca.issue(2, NodeRole::Worker)).unwrap();
    let refused = who_am_i(&late, addr).await;
    assert!(matches!(refused, Err(DialError::Untrusted { .. })), "{refused:?}");
}

#[tokio::test]
async fn a_renewal_changes_what_new_connections_see() {
    let ca = TestCa::new(NOW);
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Manager), ListenerOptions::default());
    let identity = node(&ca, 2, NodeRole::Worker);
    assert_eq!(who_am_i(&identity, addr).await.unwrap(), b'w');
    identity.replace(ca.issue(2, NodeRole::Manager)).unwrap();
    assert_eq!(who_am_i(&identity, addr).await.unwrap(), b'm');
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let ca = TestCa::new(NOW);
    let options = ListenerOptions { max_connections: 1, ..ListenerOptions::default() };
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Manager), options);
    let identity = node(&ca, 2, NodeRole::Worker);
    let mut first = dial(&identity, &addr.to_string(), &DialOptions::default()).await.unwrap();
    assert_eq!(first.read_u8().await.unwrap(), b'w');
    assert!(dial(&identity, &addr.to_string(), &DialOptions::default()).await.is_err());
}

#[tokio::test]
async fn a_silent_caller_is_dropped() {
    let ca = TestCa::new(NOW);
    let options = ListenerOptions { handshake_timeout: Duration::from_millis(50), ..ListenerOptions::default() };
    let (addr, _stop) = serve(&node(&ca, 1, NodeRole::Manager), options);
    let mut silent = tokio::net::TcpStream::connect(addr).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), silent.read_u8()).await.expect("closed in time");
    assert!(read.is_err());
}
