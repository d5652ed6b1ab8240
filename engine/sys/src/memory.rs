//! The memory of this process.

#![expect(unsafe_code, reason = "system calls that no safe wrapper covers")]

use std::ffi::{c_int, c_void};
use std::io;

/// Gives back the pages of the program and its libraries that hold code and constants. Those that are needed again are
/// mapped again from the page cache, which for a process that mostly sleeps are few of them.
///
/// # Errors
/// When the kernel refuses it for one of the objects; the others were given back.
pub fn release_program() -> io::Result<()> {
    let mut result = Ok(());
    // SAFETY: the callback is called before this returns, with the pointer given here, and does not unwind.
    unsafe { libc::dl_iterate_phdr(Some(release_object), (&raw mut result).cast()) };
    result
}

/// One object of the program: what its file says is never written to, so that no page of it can differ from the file.
unsafe extern "C" fn release_object(info: *mut libc::dl_phdr_info, _size: usize, result: *mut c_void) -> c_int {
    // SAFETY: `dl_iterate_phdr` gives a valid object, and the pointer that it was called with.
    let (info, result) = unsafe { (&*info, &mut *result.cast::<io::Result<()>>()) };
    // SAFETY: a name is a C string, or missing.
    let is_virtual = !info.dlpi_name.is_null()
        && unsafe { std::ffi::CStr::from_ptr(info.dlpi_name) }.to_bytes().starts_with(b"linux-");
    if is_virtual {
        return 0;
    }
    // SAFETY: there are so many headers.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        if let Err(error) = release(info.dlpi_addr, header) {
            *result = Err(error);
        }
    }
    0
}

fn release(base: u64, segment: &libc::Elf64_Phdr) -> io::Result<()> {
    let page = rustix::param::page_size() as u64;
    let begin = (base + segment.p_vaddr) / page * page;
    let length = base + segment.p_vaddr + segment.p_memsz - begin;
    // SAFETY: these pages are of a private mapping of a file, unchanged since (relocations go to writable segments only):
    // the next access finds the same bytes.
    match unsafe { libc::madvise(begin as *mut c_void, length as usize, libc::MADV_DONTNEED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A constant in a segment that is never written to.
    static TABLE: [u8; 1 << 16] = [7; 1 << 16];

    fn resident_of_files() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_runs_on_with_fewer_pages() {
        let touched: u64 = TABLE.iter().step_by(4096).map(|byte| u64::from(std::hint::black_box(*byte))).sum();
        let before = resident_of_files();
        release_program().unwrap();
        let after = resident_of_files();
        assert!(after < before, "{after} KiB, before {before} KiB");
        assert_eq!(touched, TABLE.iter().step_by(4096).map(|byte| u64::from(std::hint::black_box(*byte))).sum());
    }
}
