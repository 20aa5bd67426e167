//! The calls that this thread is in, as addresses, and the programs and libraries that contain them.

use std::ffi::{CStr, OsStr, OsString, c_int, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use crate::failure::{MAX_FRAMES, MAX_OBJECT_PATH, RawBacktrace, RawFrame, RawObject};

/// Most bytes of a build id, which has 20 with the usual hash.
const MAX_BUILD_ID: usize = 64;

/// The addresses of calls, innermost first. It allocates nothing.
pub(crate) struct Stack {
    addresses: [usize; MAX_FRAMES],
    count: usize,
}

/// A context of the unwinder.
#[repr(C)]
struct UnwindContext {
    _private: [u8; 0],
}

type OnFrame = extern "C" fn(*mut UnwindContext, *mut c_void) -> c_int;

/// The unwinder goes on to the next frame.
const NEXT_FRAME: c_int = 0;

/// The unwinder stops (`_URC_END_OF_STACK`).
const STOP: c_int = 5;

// The standard library links the unwinder into every program, also into those whose panics abort.
unsafe extern "C" {
    fn _Unwind_Backtrace(on_frame: OnFrame, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIPInfo(context: *mut UnwindContext, is_before: *mut c_int) -> usize;
}

impl Stack {
    /// Captures the calls of this thread.
    #[inline(never)]
    pub(crate) fn capture() -> Self {
        let mut stack = Stack { addresses: [0; MAX_FRAMES], count: 0 };
        // SAFETY: _Unwind_Backtrace demands a callback that does not unwind and understands the argument; `on_frame` only
        // writes to the array on this frame, which is the argument.
        unsafe { _Unwind_Backtrace(on_frame, (&raw mut stack).cast()) };
        stack
    }

    /// The addresses of the calls: each is within the instruction that calls the next inner function.
    pub(crate) fn addresses(&self) -> &[usize] {
        &self.addresses[..self.count]
    }

    /// Returns the calls as places in the objects that are loaded here.
    pub(crate) fn places(&self) -> RawBacktrace {
        let objects =
            code_objects(|segment| self.addresses().iter().any(|address| segment.contains(address)));
        let frames = self.addresses().iter().map(|&address| {
            let at = objects.iter().position(|object| object.contains(address));
            let base = at.map_or(0, |at| objects[at].base);
            RawFrame { object: at.map(|at| at as u32), offset: address.wrapping_sub(base) as u64 }
        });
        let frames = frames.collect();
        let objects = objects.into_iter().map(|object| object.identity).collect();
        RawBacktrace { frames, objects, ..RawBacktrace::default() }
    }
}

extern "C" fn on_frame(context: *mut UnwindContext, argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the stack that `capture` passed and that it does not touch meanwhile.
    let stack = unsafe { &mut *argument.cast::<Stack>() };
    let mut is_before = 0;
    // SAFETY: _Unwind_GetIPInfo demands the context of this callback and a valid flag, which is on this frame.
    let address = unsafe { _Unwind_GetIPInfo(context, &raw mut is_before) };
    let Some(place) = stack.addresses.get_mut(stack.count).filter(|_| address != 0) else { return STOP };
    // Elsewhere it is the address of the instruction behind the call, which may belong to another function.
    *place = if is_before == 0 { address - 1 } else { address };
    stack.count += 1;
    NEXT_FRAME
}

/// A program or library in the memory of this process.
pub(crate) struct CodeObject {
    pub(crate) identity: RawObject,
    /// What is added to the addresses in its file.
    base: usize,
    segments: Vec<Range<usize>>,
}

impl CodeObject {
    fn contains(&self, address: usize) -> bool {
        self.segments.iter().any(|segment| segment.contains(&address))
    }

    /// Returns the address here of a place in the object; `None` if the object has no such place.
    #[cfg(feature = "actors")]
    pub(crate) fn address_of(&self, offset: u64) -> Option<usize> {
        let address = self.base.wrapping_add(usize::try_from(offset).ok()?);
        Some(address).filter(|&address| self.contains(address))
    }

    /// Returns whether this is the same file: its build id says so, or without one its path and its headers.
    #[cfg(feature = "actors")]
    pub(crate) fn is(&self, other: &RawObject) -> bool {
        let own = &self.identity;
        match (own.build_id.as_slice(), other.build_id.as_slice()) {
            ([], []) => own.path == other.path && own.layout == other.layout && !own.path.is_empty(),
            (own, other) => own == other,
        }
    }
}

/// Lists the loaded objects that have a wanted segment.
///
/// # References
///
/// - [dl_iterate_phdr(3)](https://man7.org/linux/man-pages/man3/dl_iterate_phdr.3.html)
pub(crate) fn code_objects(is_wanted: impl Fn(&Range<usize>) -> bool) -> Vec<CodeObject> {
    let mut search = Search { is_wanted: &is_wanted, found: Vec::new() };
    // SAFETY: dl_iterate_phdr demands a callback that does not unwind and a pointer that it understands; `visit` gets the
    // search that lives on this frame, only reads memory and appends to the list.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast::<c_void>()) };
    search.found
}

struct Search<'a> {
    is_wanted: &'a dyn Fn(&Range<usize>) -> bool,
    found: Vec<CodeObject>,
}

unsafe extern "C" fn visit(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    search: *mut c_void,
) -> libc::c_int {
    // SAFETY: the caller, dl_iterate_phdr, passes a valid object for the length of this call.
    let object = unsafe { &*object };
    // SAFETY: it is the pointer to the search on the frame of `code_objects`.
    let search = unsafe { &mut *search.cast::<Search<'_>>() };
    let base = object.dlpi_addr as usize;
    // SAFETY: from_raw_parts demands `dlpi_phnum` headers at `dlpi_phdr`; the loader fills both in together.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    let range = |header: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        start..start.wrapping_add(header.p_memsz as usize)
    };
    let loaded = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD).map(range);
    if !loaded().any(|segment| (search.is_wanted)(&segment)) {
        return 0;
    }
    let is_loaded = |part: &Range<usize>| {
        loaded().any(|segment| segment.contains(&part.start) && part.end <= segment.end)
    };
    let notes = headers.iter().filter(|header| header.p_type == libc::PT_NOTE).map(range).filter(is_loaded);
    let build_id = notes.filter_map(|notes| build_id(&notes)).next().unwrap_or_default();
    let identity = RawObject { path: path_of(object.dlpi_name), build_id, layout: layout(headers) };
    search.found.push(CodeObject { identity, base, segments: loaded().collect() });
    0
}

/// Returns the path of an object, cut to its limit. The loader leaves that of the program empty.
fn path_of(name: *const libc::c_char) -> String {
    let name = match name.is_null() {
        true => OsStr::new(""),
        // SAFETY: from_ptr demands a text that ends with a zero and is not written to meanwhile; the loader made it.
        false => OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()),
    };
    let program = || std::fs::read_link("/proc/self/exe").map(OsString::from).unwrap_or_default();
    let path = if name.is_empty() { program() } else { name.to_owned() };
    let kept = path.as_bytes().len().min(MAX_OBJECT_PATH);
    String::from_utf8_lossy(&path.as_bytes()[..kept]).into_owned()
}

/// Reads the build id from the notes of an object.
///
/// # References
///
/// - [elf(5)](https://man7.org/linux/man-pages/man5/elf.5.html), notes
fn build_id(notes: &Range<usize>) -> Option<Vec<u8>> {
    const NT_GNU_BUILD_ID: u32 = 3;
    let start = std::ptr::with_exposed_provenance::<u8>(notes.start);
    // SAFETY: from_raw_parts demands that many readable bytes that are not written to; `visit` has checked that they are
    // in a loaded segment, and notes are constant.
    let mut rest = unsafe { std::slice::from_raw_parts(start, notes.len()) };
    while let Some((header, behind)) = rest.split_at_checked(12) {
        let number = |at: usize| Some(u32::from_ne_bytes(header.get(at..at + 4)?.try_into().ok()?));
        let (name_length, length, kind) = (number(0)? as usize, number(4)? as usize, number(8)?);
        let (name, behind) = behind.split_at_checked(name_length.checked_next_multiple_of(4)?)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return behind.get(..length.min(MAX_BUILD_ID)).map(<[u8]>::to_vec);
        }
        rest = behind.get(length.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// Returns a hash of what the headers say of the segments (FNV-1a).
fn layout(headers: &[libc::Elf64_Phdr]) -> u64 {
    let numbers = headers.iter().flat_map(|header| {
        [u64::from(header.p_type), header.p_vaddr, header.p_memsz, header.p_filesz, u64::from(header.p_flags)]
    });
    let bytes = numbers.flat_map(u64::to_ne_bytes);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    /// G9
    #[test]
    fn calls_are_places_in_this_program_and_can_be_found_again() {
        let stack = Stack::capture();
        assert!(stack.addresses().len() > 3);
        let places = stack.places();
        assert_eq!(places.frames.len(), stack.addresses().len());
        let objects = code_objects(|_| true);
        for (frame, &address) in places.frames.iter().zip(stack.addresses()) {
            let (object, offset) = places.place(*frame).expect("all code is in an object");
            let found = objects.iter().find(|loaded| loaded.is(object)).expect("the same object");
            assert_eq!(found.address_of(offset), Some(address));
        }
        let program = std::env::current_exe().expect("a path");
        assert_eq!(places.objects[0].path, program.to_string_lossy());
    }

    /// G8
    #[test]
    fn another_file_is_never_taken_for_the_same() {
        let object = |build_id: &[u8], path: &str, layout| CodeObject {
            identity: RawObject { path: path.to_owned(), build_id: build_id.to_vec(), layout },
            base: 0x1000,
            segments: vec![0x1000..0x1800, 0x1800..0x2000],
        };
        let own = object(&[1, 2], "/bin/app", 7);
        let table: [(&[u8], &str, u64, bool); 4] = [
            (&[1, 2], "/bin/moved", 7, true),
            (&[1, 3], "/bin/app", 7, false),
            (&[], "/bin/app", 7, false),
            (&[1], "/bin/app", 7, false),
        ];
        for (build_id, path, layout, same) in table {
            assert_eq!(own.is(&object(build_id, path, layout).identity), same, "{build_id:?} {path}");
        }
        let without = object(&[], "/bin/app", 7);
        for (path, layout, same) in [("/bin/app", 7, true), ("/bin/app", 8, false), ("/bin/other", 7, false)]
        {
            assert_eq!(without.is(&object(&[], path, layout).identity), same, "{path} {layout}");
        }
        assert_eq!(own.address_of(0xfff), Some(0x1fff));
        assert_eq!((own.address_of(0x1000), own.address_of(u64::MAX)), (None, None));
    }
}
