//! What a container changed, as the archive of a layer.

use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use shoal_engine_sys::fs::{self, Directory};

use super::diff::{Changed, DELETED};
use crate::container::archive::pack::{Kept, Packer};
use crate::remap::IdMap;

/// Writes it. A name that is gone becomes a whiteout. A file whose own name begins like one is packed as it is, as dockerd
/// does: in the image it means what such names mean there.
pub(super) fn pack(
    upper: &Directory,
    changes: &[Changed],
    map: Option<IdMap>,
    output: &mut impl Write,
) -> io::Result<()> {
    let mut packer = Packer::new(output, Kept::All, map);
    for change in changes {
        let path = change.path.strip_prefix("/").unwrap_or(&change.path);
        if change.kind == DELETED {
            packer.marker(&whiteout(path))?;
            continue;
        }
        let handle = match upper.open_any(path, false) {
            // The container runs, and it is gone by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        let metadata = fs::metadata(&handle)?;
        let name = path.as_os_str().as_bytes();
        if metadata.is_dir() {
            packer.directory(&Directory::of(&handle)?, &[name, b"/"].concat())?;
        } else if !metadata.is_whiteout() {
            packer.other(&handle, &metadata, name.to_vec())?;
        }
    }
    packer.finish()
}

fn whiteout(path: &Path) -> Vec<u8> {
    let name = path.file_name().unwrap_or_default().as_bytes();
    match path.parent().map(|parent| parent.as_os_str().as_bytes()).filter(|parent| !parent.is_empty()) {
        Some(parent) => [parent, b"/.wh.", name].concat(),
        None => [b".wh.", name].concat(),
    }
}
