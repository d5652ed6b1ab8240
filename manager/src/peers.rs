//! Connections to the other managers: few, shared, checked for who is at the other end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal_kit::identity::NodeIdentity;
use shoal_kit::tls::{self, DialError, DialOptions};
use shoal_proto::id::NodeId;
use shoal_proto::wire::manager_peer_client::ManagerPeerClient;
use tonic::transport::Channel;

/// Bodies on the peer port: raft entries of large batches, configs of 1000 KiB.
pub(crate) const MESSAGE_LIMIT: usize = 64 << 20;

/// What a connection is used for. Heartbeats and votes must not wait behind entries, nor entries behind snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Log entries.
    Entries,
    /// Heartbeats and votes.
    Urgent,
    /// Snapshots.
    Bulk,
    /// Forwarded requests, questions, logs.
    Requests,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    node: NodeId,
    addr: SocketAddr,
    lane: Lane,
}

/// A pool of channels. Each connects when it is first used and reconnects by itself. All are replaced when this node's
/// certificate is, because an open connection keeps the old one.
#[derive(Debug)]
pub(crate) struct Peers {
    identity: Arc<NodeIdentity>,
    channels: Mutex<(u64, HashMap<Key, Channel>)>,
    connect_timeout: Duration,
}

impl Peers {
    pub(crate) fn new(identity: Arc<NodeIdentity>, connect_timeout: Duration) -> Self {
        Self { identity, channels: Mutex::default(), connect_timeout }
    }

    /// A client for the manager that is this node and listens there.
    pub(crate) fn client(
        &self,
        node: NodeId,
        addr: SocketAddr,
        lane: Lane,
    ) -> Result<ManagerPeerClient<Channel>, DialError> {
        let generation = *self.identity.generations().borrow();
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.0 != generation {
            channels.0 = generation;
            channels.1.clear();
        }
        let key = Key { node, addr, lane };
        let channel = match channels.1.get(&key) {
            Some(channel) => channel.clone(),
            None => {
                let options = DialOptions {
                    node: Some(node),
                    connect_timeout: self.connect_timeout,
                    keepalive_interval: Duration::from_secs(2),
                    keepalive_timeout: Duration::from_secs(2),
                };
                let channel = tls::lazy_channel(&self.identity, &addr.to_string(), options)?;
                channels.1.insert(key, channel.clone());
                channel
            }
        };
        drop(channels);
        Ok(client_over(channel))
    }

    /// Forgets the connections of a member that is gone.
    pub(crate) fn forget(&self, node: NodeId) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).1.retain(|key, _| key.node != node);
    }
}

/// A client for the peer service over this channel.
pub(crate) fn client_over(channel: Channel) -> ManagerPeerClient<Channel> {
    ManagerPeerClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT).max_encoding_message_size(MESSAGE_LIMIT)
}
