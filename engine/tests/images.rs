//! Images, layers, snapshots and volumes on a real file system: as root, because of owners, devices and mounts.

#![expect(clippy::unwrap_used, reason = "tests fail so")]

mod images {
    mod clients;
    mod crash;
    mod documents;
    mod hostile;
    mod layers;
    mod snapshots;
    mod store;
    mod support;
    mod volumes;
}
