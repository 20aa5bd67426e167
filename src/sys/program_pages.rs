//! The pages of the program and its libraries that a forked process does not have yet.
//!
//! A fork copies no page tables of code and constants, so their first use in the new process costs a fault for every
//! sixteen pages.

use std::ffi::c_void;

use super::faults;
use super::faults::Call;

/// Most bytes that are mapped of all objects together (16 MiB). What a worker runs first lies in less.
const MOST: usize = 16 << 20;

const PAGE: usize = 4096;

/// Maps code and constants of the program and its libraries into this process, which shares them with others. Kernels
/// before 5.14 cannot, and then they are mapped as they are used.
///
/// # References
///
/// - [dl_iterate_phdr(3)](https://man7.org/linux/man-pages/man3/dl_iterate_phdr.3.html)
/// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_POPULATE_READ`
pub(crate) fn map_all() {
    let mut left = MOST;
    // SAFETY: dl_iterate_phdr demands a callback that does not unwind and a pointer it understands; `visit` gets the
    // number that lives on this frame.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut left).cast::<c_void>()) };
}

/// Maps the segments of one object that are not written to.
unsafe extern "C" fn visit(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    left: *mut c_void,
) -> libc::c_int {
    // SAFETY: the caller, dl_iterate_phdr, passes a valid object for the length of this call.
    let object = unsafe { &*object };
    // SAFETY: `left` is the pointer that map_all passed, to a value on its frame.
    let left = unsafe { &mut *left.cast::<usize>() };
    // SAFETY: from_raw_parts demands `dlpi_phnum` headers at `dlpi_phdr`; the loader fills both in together.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    let constant =
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    for header in constant {
        let base = usize::try_from(object.dlpi_addr).unwrap_or(0);
        let start = base.wrapping_add(usize::try_from(header.p_vaddr).unwrap_or(0)) / PAGE * PAGE;
        let length = usize::try_from(header.p_filesz).unwrap_or(0).min(*left).next_multiple_of(PAGE);
        *left = left.saturating_sub(length);
        let mapped = faults::point(Call::Madvise).is_ok() && length > 0 && {
            // SAFETY: madvise demands nothing of the range but that it begins at a page, and this advice changes no
            // content. Where nothing is mapped it fails.
            unsafe {
                libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_POPULATE_READ) == 0
            }
        };
        if !mapped {
            return 1;
        }
    }
    libc::c_int::from(*left == 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn code_and_constants_stay_as_they_are() {
        super::map_all();
        assert_eq!(std::hint::black_box("constant").len(), 8);
    }
}
