//! shoal-tests
