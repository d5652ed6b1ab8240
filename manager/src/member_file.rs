//! Which member of the consensus group this manager is: what a restart needs before it can open the log.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shoal_kit::identity::{IdentityError, write_private};
use shoal_proto::codec;
use shoal_proto::id::{ClusterId, NodeId};

const NAME: &str = "member";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MemberFile {
    /// This manager's raft id.
    pub(crate) raft_id: u64,
    /// The node that joined with it.
    pub(crate) node_id: NodeId,
    /// The cluster it belongs to.
    pub(crate) cluster_id: ClusterId,
}

/// Why the file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MemberFileError {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is malformed", path.display())]
    Malformed {
        path: PathBuf,
        #[source]
        source: codec::DecodeError,
    },
    #[error("store this manager's membership")]
    Write(#[source] IdentityError),
}

impl MemberFile {
    /// Reads it; `None` when this node is in no consensus group.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, MemberFileError> {
        let path = directory.join(NAME);
        match std::fs::read(&path) {
            Ok(bytes) => match codec::decode(&bytes) {
                Ok(file) => Ok(Some(file)),
                Err(source) => Err(MemberFileError::Malformed { path, source }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(MemberFileError::Read { path, source }),
        }
    }

    pub(crate) fn store(&self, directory: &Path) -> Result<(), MemberFileError> {
        write_private(&directory.join(NAME), &codec::encode(self)).map_err(MemberFileError::Write)
    }
}
