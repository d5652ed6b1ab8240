//! The files that a runtime reads: `config.json`, and for the built-in runtime the compiled system call filter.

use std::path::Path;

use oci_spec::runtime::Spec;

use crate::shim::client::{ShimError, write_file, write_json};
use crate::shim::config::{RuntimeKind, SECCOMP_FILE, SPEC_FILE, ShimConfig};
use crate::shim::protocol::{FailureKind, RuntimeFailure};

/// Writes them into `dir`.
///
/// The built-in runtime installs the filter as compiled code, so its `config.json` goes without `linux.seccomp`: compiling
/// the default profile takes 10 ms, which the daemon pays once and not each container.
///
/// # Errors
/// When the specification has a filter and its program is missing, or a file cannot be written.
pub(crate) fn write(dir: &Path, config: &ShimConfig, spec: &Spec, seccomp: Option<&[u8]>) -> Result<(), ShimError> {
    let path = dir.join(SPEC_FILE);
    if config.runtime != RuntimeKind::Builtin {
        return write_json(&path, spec);
    }
    let filtered = spec.linux().as_ref().is_some_and(|linux| linux.seccomp().is_some());
    match (filtered, seccomp) {
        (true, Some(program)) => {
            write_file(&dir.join(SECCOMP_FILE), program)?;
            let mut spec = spec.clone();
            if let Some(linux) = spec.linux_mut() {
                linux.set_seccomp(None);
            }
            write_json(&path, &spec)
        }
        (false, None) => write_json(&path, spec),
        (true, None) => Err(refuse("the specification has a seccomp profile, but it was not compiled")),
        (false, Some(_)) => Err(refuse("a seccomp program was given for a specification that has no profile")),
    }
}

fn refuse(message: &str) -> ShimError {
    ShimError::Runtime(RuntimeFailure::new(FailureKind::CannotApply, message))
}
