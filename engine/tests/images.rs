//! Images, layers, snapshots and volumes on a real file system: as root, because of owners, devices and mounts.

#![cfg(target_os = "linux")]

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
