//! Content from file to file.

use std::fs::File;
use std::io;

use rustix::io::Errno;

/// Copies the content of a file: shares its blocks where the file system can, keeps holes, never goes through us
/// where the kernel can copy by itself.
///
/// # Errors
/// The kernel's.
pub fn copy_content(from: &File, to: &File, size: u64) -> io::Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(to, size)?;
    let mut offset = 0;
    while offset < size {
        let start = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL) => offset,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start)).unwrap_or(size);
        copy_range(from, to, start, end)?;
        offset = end;
    }
    Ok(())
}

fn copy_range(from: &File, to: &File, start: u64, end: u64) -> io::Result<()> {
    use std::os::unix::fs::FileExt;

    let (mut read_at, mut write_at) = (start, start);
    let mut buffer = Vec::new();
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), left) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                buffer.resize(1 << 17, 0);
                let length = from.read_at(&mut buffer[..left.min(1 << 17)], read_at)?;
                if length == 0 {
                    return Ok(());
                }
                to.write_all_at(&buffer[..length], write_at)?;
                read_at += length as u64;
                write_at += length as u64;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
