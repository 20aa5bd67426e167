//! Runs the rest of the program's start-up code, which the fork server skips by leaving it early.

use std::ffi::c_void;

type Initializer = extern "C" fn(i32, *const *const libc::c_char, *const *const libc::c_char);

/// Runs the start-up functions that the loader would have called after `ours`.
///
/// The fork server diverts inside one entry of `.init_array` and never returns to the loader, but native code
/// that the workers call may rely on later entries, for example static constructors of C++ libraries.
///
/// # References
///
/// - [System V ABI, initialization and termination functions](https://www.sco.com/developers/gabi/latest/ch5.dynamic.html#init_fini)
pub(crate) fn run_initializers_after(ours: *const ()) {
    let mut pending = PendingInitializers { ours, list: None };
    // SAFETY: dl_iterate_phdr demands a callback that does not unwind and a pointer it understands; `visit`
    // gets the `PendingInitializers` that lives on this frame.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut pending).cast::<c_void>()) };
    for &initializer in pending.list.unwrap_or_default() {
        let none: [*const libc::c_char; 1] = [std::ptr::null()];
        initializer(0, none.as_ptr(), none.as_ptr());
    }
}

/// The initializers that follow `ours` in the program's `.init_array`.
struct PendingInitializers {
    ours: *const (),
    list: Option<&'static [Initializer]>,
}

/// Examines the first object, which is the program itself, and stops there.
unsafe extern "C" fn visit(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    pending: *mut c_void,
) -> libc::c_int {
    // SAFETY: the caller, dl_iterate_phdr, passes a valid object for the length of this call.
    let object = unsafe { &*object };
    // SAFETY: `pending` is the pointer that run_initializers_after passed, to a value on its frame.
    let pending = unsafe { &mut *pending.cast::<PendingInitializers>() };
    pending.list = initializers(object).and_then(|all| {
        let at = all.iter().position(|&entry| entry as *const () == pending.ours)?;
        all.get(at + 1..)
    });
    1
}

/// The `.init_array` of a loaded object, found through its dynamic section.
fn initializers(object: &libc::dl_phdr_info) -> Option<&'static [Initializer]> {
    // SAFETY: from_raw_parts demands `dlpi_phnum` headers at `dlpi_phdr`; the loader fills both in together.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC)?;
    let base = usize::try_from(object.dlpi_addr).ok()?;
    let address = base + usize::try_from(dynamic.p_vaddr).ok()?;
    let length = usize::try_from(dynamic.p_memsz).ok()? / size_of::<[usize; 2]>();
    let entries = std::ptr::with_exposed_provenance::<[usize; 2]>(address);
    // SAFETY: from_raw_parts demands `length` entries (a tag and a value each) at `entries`; the program header
    // says so and the loader has mapped the segment.
    let entries = unsafe { std::slice::from_raw_parts(entries, length) };
    let value = |tag: usize| entries.iter().find(|entry| entry[0] == tag).map(|entry| entry[1]);
    const DT_INIT_ARRAY: usize = 25;
    const DT_INIT_ARRAYSZ: usize = 27;
    let start = base + value(DT_INIT_ARRAY)?;
    let count = value(DT_INIT_ARRAYSZ)? / size_of::<Initializer>();
    let start = std::ptr::with_exposed_provenance::<Initializer>(start);
    // SAFETY: from_raw_parts demands `count` function pointers at `start`; the dynamic section says so, and the
    // loader has relocated them before it called the first.
    Some(unsafe { std::slice::from_raw_parts(start, count) })
}
