//! What goes over the API, shaped exactly as Docker shapes it: names, order, nulls and absences.
//!
//! ## Design notes
//! Go treats a JSON null as the zero value of any field; so does every struct made by [`model!`]. Where Docker gives
//! back null for what was never set and `[]` for what was set to nothing, the field is an `Option`.

use serde::{Deserialize, Deserializer};

pub mod container;
pub mod event;
pub mod exec;
pub mod filters;
#[cfg(test)]
mod golden;
pub mod host_config;
pub mod image;
pub mod inspect;
pub mod internal;
pub mod network;
pub mod stats;
pub mod system;
pub mod volume;

pub use container::{
    BindOptions, ContainerConfig, ContainersPruneReport, CreateRequest, CreateResponse, DeviceMapping, DeviceRequest,
    Empty, EndpointIpamConfig, EndpointSettings, HealthConfig, ImageOptions, LogConfig, Mount, MountDriver,
    NetworkingConfig, PortBinding, PortMap, RestartPolicy, StringSet, ThrottleDevice, TmpfsOptions, Top, Ulimit,
    UpdateResponse, VolumeOptions, WaitError, WaitResponse, WeightDevice,
};
pub use event::{Actor, Event};
pub use exec::{ExecCreate, ExecInspect, ExecProcessConfig, ExecStart};
pub use filters::Filters;
pub use host_config::{HostConfig, UpdateRequest};
pub use image::{
    ImageConfig, ImageDeleteItem, ImageHistoryItem, ImageInspect, ImageListOptions, ImageMetadata, ImageSummary,
    ImagesPruneReport, ProgressDetail, ProgressError, ProgressMessage, RootFs,
};
pub use inspect::{
    ContainerInspect, ContainerState, ContainerSummary, GraphDriver, Health, HealthLogEntry, MountPoint,
    NetworkSettings, Port, SummaryHostConfig, SummaryNetworkSettings,
};
pub use internal::{ClusterAttachment, InternalFile, InternalOptions};
pub use stats::{
    BlkioEntry, BlkioStats, CpuStats, CpuUsage, MemoryStats, NetworkStats, PidsStats, Stats, ThrottlingData,
};
pub use system::{EngineInfo, EngineVersion, RuntimeInfo};
pub use volume::{Volume, VolumeCreate, VolumeList, VolumeUsage, VolumesPruneReport};

/// A struct in Docker's shape: fields in Pascal case, all optional in requests, null meaning zero.
macro_rules! model {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $kind:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "PascalCase", default)]
        pub struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "crate::model::null_as_default")] pub $field: $kind,)*
        }
    };
}
pub(crate) use model;

/// Takes null for the zero value.
///
/// # Errors
/// When the value is neither null nor of the type.
pub fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(crate) fn is_zero_u16(number: &u16) -> bool {
    *number == 0
}
