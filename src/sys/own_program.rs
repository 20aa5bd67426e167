//! How this program is executed once more, and whether it can be.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::loaded_objects;

/// The executable of this process, even if its file was replaced or removed since it started.
const EXECUTABLE: &str = "/proc/self/exe";

/// The command that executes this program once more.
#[derive(Clone, Debug)]
pub(crate) struct OwnProgram {
    /// The name that the process gets, its argument 0.
    name: OsString,
    /// What precedes the program's own arguments. It is empty unless another program executes this one: a dynamic linker
    /// that was started by name, or an emulator.
    interpreted: Vec<OsString>,
    /// Whether a process of it turned out to be another program. The output of the next ones is not shown: it would say
    /// the same again and again.
    is_foreign: Arc<AtomicBool>,
}

/// Why a process cannot execute its program once more.
#[derive(Debug)]
pub(crate) enum CannotRestart {
    /// The executable cannot be found.
    Unknown(std::io::Error),
    /// The executable does not load this code.
    Foreign {
        /// What would be executed.
        executable: PathBuf,
        /// The file with this code.
        code: PathBuf,
    },
}

impl OwnProgram {
    /// Finds how to execute the program that `code`, the address of one of its functions, belongs to.
    ///
    /// # Errors
    ///
    /// [`CannotRestart`]; nothing was executed.
    ///
    /// # References
    ///
    /// - [proc_pid_exe(5)](https://man7.org/linux/man-pages/man5/proc_pid_exe.5.html)
    /// - [ld.so(8)](https://man7.org/linux/man-pages/man8/ld.so.8.html)
    pub(crate) fn find(code: usize) -> Result<Self, CannotRestart> {
        let executable = std::fs::metadata(EXECUTABLE).map_err(CannotRestart::Unknown)?;
        let path = std::fs::read_link(EXECUTABLE).map_err(CannotRestart::Unknown)?;
        let name = std::env::args_os().next().unwrap_or_else(|| OsString::from("forkpool"));
        let direct = OwnProgram { name, interpreted: Vec::new(), is_foreign: Arc::default() };
        let objects = loaded_objects::list();
        let Some(at) = objects.iter().position(|object| object.contains(code)) else { return Ok(direct) };
        if !loaded_objects::comes_with_the_program(&objects, at) {
            let code = PathBuf::from(&objects[at].path);
            return Err(CannotRestart::Foreign { executable: path, code });
        }
        let maps = std::fs::read("/proc/self/maps").unwrap_or_default();
        let program = objects[0].address().and_then(|address| Mapping::at(&maps, address));
        match program {
            Some(program) if !program.is_of(&executable, &path) => {
                let given = given_arguments();
                interpreted(&given, &std::env::args_os().collect::<Vec<_>>(), &program.path)
                    .ok_or(CannotRestart::Foreign { executable: path, code: program.path })
            }
            _ => Ok(direct),
        }
    }

    /// What is executed, in words for a message.
    pub(crate) fn describe(&self) -> String {
        let executable = std::fs::read_link(EXECUTABLE).unwrap_or_else(|_| PathBuf::from(EXECUTABLE));
        let words = self.interpreted.iter().map(|word| word.to_string_lossy());
        std::iter::once(executable.to_string_lossy()).chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Records that a process of this program did not become a fork server.
    pub(super) fn mark_foreign(&self) {
        self.is_foreign.store(true, Ordering::Relaxed);
    }

    /// Prepares the execution of the program.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(EXECUTABLE);
        command.arg0(&self.name).args(&self.interpreted);
        if self.is_foreign.load(Ordering::Relaxed) {
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        command
    }
}

/// Returns how an interpreter executes the program at `path`. Its arguments are all that were `given` to this process
/// before those that the program itself has `seen`; `None` if these do not end alike.
fn interpreted(given: &[OsString], seen: &[OsString], path: &std::path::Path) -> Option<OwnProgram> {
    let own = given.len().checked_sub(seen.len()).filter(|&own| own > 0)?;
    let is_there = path.exists() && given.ends_with(seen.get(1..)?);
    let (name, options) = given.get(..own)?.split_first()?;
    let interpreted = options.iter().cloned().chain([path.into()]).collect();
    is_there.then(|| OwnProgram { name: name.clone(), interpreted, is_foreign: Arc::default() })
}

/// All arguments of this process, an interpreter's included.
fn given_arguments() -> Vec<OsString> {
    let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
    let line = line.strip_suffix(b"\0").unwrap_or(&line);
    line.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect()
}

/// A file that is mapped into memory.
#[derive(Debug, PartialEq)]
struct Mapping {
    /// The device, as major and minor number.
    device: (u32, u32),
    inode: u64,
    path: PathBuf,
}

impl Mapping {
    /// Finds the file that is mapped at an address in the text of `/proc/self/maps`.
    ///
    /// # References
    ///
    /// - [proc_pid_maps(5)](https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html)
    fn at(maps: &[u8], address: usize) -> Option<Self> {
        let line = maps.split(|&byte| byte == b'\n').find(|line| {
            let range = text(line.split(|&byte| byte == b' ').next());
            let (start, end) = range.split_once('-').unwrap_or_default();
            let number = |text| usize::from_str_radix(text, 16).ok();
            matches!((number(start), number(end)), (Some(start), Some(end)) if (start..end).contains(&address))
        })?;
        let path = line.iter().position(|&byte| byte == b'/')?;
        let (fields, path) = line.split_at(path);
        let fields = text(Some(fields));
        let mut fields = fields.split_whitespace().skip(3);
        let (major, minor) = fields.next()?.split_once(':')?;
        let number = |text| u32::from_str_radix(text, 16).ok();
        let path = PathBuf::from(OsStr::from_bytes(path));
        Some(Mapping { device: (number(major)?, number(minor)?), inode: fields.next()?.parse().ok()?, path })
    }

    /// Whether this is the file of the executable. Some file systems show a mapping with another device than the file;
    /// there the path decides.
    fn is_of(&self, executable: &std::fs::Metadata, path: &std::path::Path) -> bool {
        let device = executable.dev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        self.path == path || (self.device == device && self.inode == executable.ino())
    }
}

fn text(bytes: Option<&[u8]>) -> &str {
    bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_program_is_executed_directly() {
        let own = an_ordinary_program_is_executed_directly as fn() as usize;
        let found = OwnProgram::find(own).expect("this program");
        assert!(found.interpreted.is_empty(), "{found:?}");
    }

    #[test]
    fn a_mapping_is_found_by_its_address() {
        let maps =
            b"1000-2000 r--p 00000000 fe:01 17   /opt/an app (deleted)\n2000-3000 rw-p 00000000 00:00 0 \n";
        let program = Mapping { device: (0xfe, 1), inode: 17, path: "/opt/an app (deleted)".into() };
        assert_eq!(Mapping::at(maps, 0x1fff), Some(program));
        assert_eq!(Mapping::at(maps, 0x2000), None, "it is no file");
        assert_eq!(Mapping::at(maps, 0x4000), None);
    }

    #[test]
    fn the_options_of_an_interpreter_are_given_to_it_again() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let program = std::path::Path::new("/proc/self/exe");
        let given = words(&["ld.so", "--library-path", "/lib", "./app", "run"]);
        let found = interpreted(&given, &words(&["./app", "run"]), program).expect("an interpreter");
        assert_eq!(found.name, "ld.so");
        assert_eq!(found.interpreted, words(&["--library-path", "/lib", "/proc/self/exe"]));
        for (seen, path) in [
            (&["./app", "walk"][..], program),
            (&["ld.so", "--library-path", "/lib", "./app", "run"], program),
            (&["./app", "run"], std::path::Path::new("/no/such/file")),
        ] {
            assert!(interpreted(&given, &words(seen), path).is_none(), "{seen:?} at {path:?}");
        }
    }
}
