//! shoal-engine-sys
