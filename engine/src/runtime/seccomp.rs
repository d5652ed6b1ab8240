//! System call filters: profiles as Docker writes them, resolved for a container's capabilities and compiled.
//!
//! ## Design notes
//! - The daemon compiles, not the container's init: with libseccomp the default profile takes 10 ms a container. The
//!   program goes to the shim as bytes, and equal profiles share one.
//! - We compile ourselves: a search tree over ranges of numbers, which the kernel also verifies faster than libseccomp's
//!   chain of comparisons. libseccomp only tells the numbers of names; unit tests compare the two programs on every
//!   system call of every architecture.
//! - System calls newer than the newest that the profile could have known answer `ENOSYS`, as runc does, so that a C library
//!   falls back instead of failing.

mod bpf;
mod resolve;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;

/// The default profile: Docker's, with `AF_ALG` sockets denied besides `AF_VSOCK` ones.
const DEFAULT_PROFILE: &str = include_str!("seccomp-default.json");

/// A profile in Docker's format.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMapEntry>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<SyscallRule>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMapEntry {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SyscallRule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Not JSON, or not a profile.
    #[error("decoding seccomp profile failed: {0}")]
    Decode(String),
    /// A word in it is unknown.
    #[error("unknown {what} {value:?}")]
    Unknown {
        /// What kind of word.
        what: &'static str,
        /// The word.
        value: String,
    },
    /// `architectures` and `archMap` exclude each other.
    #[error(
        "'architectures' and 'archMap' were specified in the seccomp profile, use either 'architectures' or 'archMap'"
    )]
    ArchitecturesTwice,
    /// Something that this engine does not offer.
    #[error("{0} is not supported in a seccomp profile")]
    Unsupported(&'static str),
    /// The program is longer than the kernel takes.
    #[error("the seccomp profile needs {0} instructions, the kernel takes 4096")]
    TooLong(usize),
    /// The resolved profile does not fit the OCI types.
    #[error("cannot express the seccomp profile as OCI")]
    Oci(#[from] oci_spec::OciSpecError),
}

/// A profile for one container, in both forms.
#[derive(Debug, Clone)]
pub struct Filter {
    /// For an OCI runtime binary.
    pub oci: LinuxSeccomp,
    /// For the kernel: classic BPF, eight bytes an instruction.
    pub program: Arc<[u8]>,
}

impl Profile {
    /// Parses a profile in Docker's JSON.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(json: &str) -> Result<Self, SeccompError> {
        serde_json::from_str(json).map_err(|error| SeccompError::Decode(error.to_string()))
    }

    /// The default profile.
    ///
    /// # Errors
    /// Never: tests read it.
    pub fn docker_default() -> Result<Self, SeccompError> {
        Self::parse(DEFAULT_PROFILE)
    }
}

impl Filter {
    /// Resolves a profile for these capabilities on this machine, and compiles it.
    ///
    /// # Errors
    /// When the profile says what cannot be enforced.
    pub fn compile(profile: &Profile, capabilities: &[String]) -> Result<Self, SeccompError> {
        let oci = resolve::resolve(profile, capabilities)?;
        let program = bpf::compile(&oci)?.into();
        Ok(Self { oci, program })
    }
}

/// The default profile for these capabilities. Compiled once per set of capabilities.
///
/// # Errors
/// Never for the embedded profile: tests compile it.
pub fn default_filter(capabilities: &[String]) -> Result<Arc<Filter>, SeccompError> {
    static CACHE: OnceLock<Mutex<HashMap<Vec<String>, Arc<Filter>>>> = OnceLock::new();
    /// Sets of capabilities that are remembered; a daemon sees a handful.
    const MAX_CACHED: usize = 64;
    let cache = CACHE.get_or_init(Mutex::default);
    if let Some(filter) = cache.lock().unwrap_or_else(PoisonError::into_inner).get(capabilities) {
        return Ok(Arc::clone(filter));
    }
    let filter = Arc::new(Filter::compile(&Profile::docker_default()?, capabilities)?);
    let mut cache = cache.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() >= MAX_CACHED {
        cache.clear();
    }
    cache.insert(capabilities.to_vec(), Arc::clone(&filter));
    Ok(filter)
}
