//! shoal-manager-core
