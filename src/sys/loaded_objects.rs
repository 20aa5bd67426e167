//! The program and the shared libraries of this process, as its dynamic linker lists them.

use std::ffi::{CStr, OsStr, OsString, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A program or library in the memory of this process.
#[derive(Debug, Default)]
pub(super) struct LoadedObject {
    /// The path under which it was loaded; empty for the program itself.
    pub(super) path: OsString,
    /// The addresses of its segments.
    segments: Vec<Range<usize>>,
    /// The name by which others need it.
    own_name: Option<OsString>,
    /// The names of the libraries that it needs.
    needed: Vec<OsString>,
}

impl LoadedObject {
    pub(super) fn contains(&self, address: usize) -> bool {
        self.segments.iter().any(|segment| segment.contains(&address))
    }

    /// An address of the object.
    pub(super) fn address(&self) -> Option<usize> {
        self.segments.first().map(|segment| segment.start)
    }

    fn is_named(&self, name: &OsStr) -> bool {
        let file_name = Path::new(&self.path).file_name();
        self.own_name.as_deref() == Some(name)
            || self.path == name
            || file_name == Path::new(name).file_name()
    }
}

/// Lists the objects; the program itself comes first.
///
/// # References
///
/// - [dl_iterate_phdr(3)](https://man7.org/linux/man-pages/man3/dl_iterate_phdr.3.html)
pub(super) fn list() -> Vec<LoadedObject> {
    let mut objects: Vec<LoadedObject> = Vec::new();
    // SAFETY: dl_iterate_phdr demands a callback that does not unwind and a pointer it understands; `visit` gets the
    // list that lives on this frame, and it only reads memory and appends to that list.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut objects).cast::<c_void>()) };
    objects
}

/// Returns whether a process that executes the program again loads this object as well: the program needs it, directly
/// or through other libraries, or the environment asks for it. A library that was opened while the program ran is not
/// loaded again.
pub(super) fn comes_with_the_program(objects: &[LoadedObject], at: usize) -> bool {
    let preloaded = std::env::var_os("LD_PRELOAD").unwrap_or_default();
    let separators = |byte: &u8| matches!(byte, b':' | b' ');
    let mut names: Vec<&OsStr> = preloaded
        .as_bytes()
        .split(separators)
        .map(OsStr::from_bytes)
        .filter(|name| !name.is_empty())
        .collect();
    let mut is_loaded = vec![false; objects.len()];
    let mut found = objects.first().map(|_| 0);
    while let Some(next) = found {
        is_loaded[next] = true;
        names.extend(objects[next].needed.iter().map(OsString::as_os_str));
        found = (0..objects.len())
            .find(|&other| !is_loaded[other] && names.iter().any(|name| objects[other].is_named(name)));
    }
    is_loaded.get(at).copied().unwrap_or(false)
}

unsafe extern "C" fn visit(
    object: *mut libc::dl_phdr_info,
    _: libc::size_t,
    list: *mut c_void,
) -> libc::c_int {
    // SAFETY: the caller, dl_iterate_phdr, passes a valid object for the length of this call.
    let object = unsafe { &*object };
    // SAFETY: `list` is the pointer that `list` passed, to a value on its frame.
    let list = unsafe { &mut *list.cast::<Vec<LoadedObject>>() };
    list.push(describe(object));
    0
}

fn describe(object: &libc::dl_phdr_info) -> LoadedObject {
    let Ok(base) = usize::try_from(object.dlpi_addr) else { return LoadedObject::default() };
    // SAFETY: from_raw_parts demands `dlpi_phnum` headers at `dlpi_phdr`; the loader fills both in together.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    let range = |header: &libc::Elf64_Phdr| -> Option<Range<usize>> {
        let start = base.wrapping_add(usize::try_from(header.p_vaddr).ok()?);
        Some(start..start.wrapping_add(usize::try_from(header.p_memsz).ok()?))
    };
    let segments: Vec<_> =
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD).filter_map(range).collect();
    let dynamic = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC).and_then(range);
    let mut described = LoadedObject { path: text(object.dlpi_name), segments, ..LoadedObject::default() };
    if let Some(dynamic) = dynamic.filter(|dynamic| described.contains(dynamic.start)) {
        describe_dynamic(&mut described, base, &dynamic);
    }
    described
}

/// Reads the names in the dynamic section.
///
/// # References
///
/// - [System V ABI, dynamic section](https://www.sco.com/developers/gabi/latest/ch5.dynamic.html#dynamic_section)
fn describe_dynamic(object: &mut LoadedObject, base: usize, dynamic: &Range<usize>) {
    const DT_NEEDED: usize = 1;
    const DT_STRTAB: usize = 5;
    const DT_SONAME: usize = 14;
    let entries = std::ptr::with_exposed_provenance::<[usize; 2]>(dynamic.start);
    // SAFETY: from_raw_parts demands that many entries, a tag and a value each; the program header says so, the loader has
    // mapped the segment, and it is never unmapped while the loader lists the object.
    let entries = unsafe { std::slice::from_raw_parts(entries, dynamic.len() / size_of::<[usize; 2]>()) };
    // Entries behind the null entry are not in use.
    let used = entries.iter().take_while(|entry| entry[0] != 0);
    let values = |tag: usize| used.clone().filter(move |entry| entry[0] == tag).map(|entry| entry[1]);
    let Some(table) = values(DT_STRTAB).next() else { return };
    // Some loaders replace the offset by the address.
    let table = if object.contains(table) { table } else { base.wrapping_add(table) };
    let name = |offset: usize| -> Option<OsString> {
        let address = table.checked_add(offset).filter(|&address| object.contains(address))?;
        Some(text(std::ptr::with_exposed_provenance(address)))
    };
    let needed = values(DT_NEEDED).filter_map(name).collect();
    let own_name = values(DT_SONAME).next().and_then(name);
    (object.needed, object.own_name) = (needed, own_name);
}

fn text(start: *const libc::c_char) -> OsString {
    if start.is_null() {
        return OsString::new();
    }
    // SAFETY: from_ptr demands a text that ends with a zero and is not written to meanwhile. It is a name that the
    // loader made, or one of a loaded object's string table, which ends with a zero.
    let text = unsafe { CStr::from_ptr(start) };
    OsStr::from_bytes(text.to_bytes()).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_comes_first_and_the_c_library_with_it() {
        let objects = list();
        let own = the_program_comes_first_and_the_c_library_with_it as fn() as usize;
        assert!(objects[0].contains(own), "{objects:?}");
        // A program without shared libraries has nothing more.
        for (at, object) in objects.iter().enumerate().skip(1) {
            let is_library = Path::new(&object.path).is_absolute();
            assert!(!is_library || comes_with_the_program(&objects, at), "{object:?}");
        }
    }

    #[test]
    fn a_library_that_nobody_needs_does_not_come_with_the_program() {
        let object = |path: &str, needed: &[&str]| LoadedObject {
            path: path.into(),
            needed: needed.iter().map(|name| name.into()).collect(),
            ..LoadedObject::default()
        };
        let objects = [
            object("", &["liba.so.1"]),
            object("/lib/libb.so", &[]),
            object("/lib/liba.so.1", &["libb.so"]),
            object("/home/opened.so", &["libb.so"]),
        ];
        let found: Vec<bool> = (0..4).map(|at| comes_with_the_program(&objects, at)).collect();
        assert_eq!(found, [true, true, true, false]);
    }
}
