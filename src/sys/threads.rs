//! The threads of this process.

use std::time::Duration;

use crate::clock::Instant;

/// Most threads whose names are listed.
const MAX_NAMES: usize = 8;

/// How long a thread that is ending may still be listed after it was joined (100 ms): the kernel removes it later.
const LINGER: Duration = Duration::from_millis(100);

/// Other threads than the calling one.
#[derive(Debug)]
pub(crate) struct OtherThreads {
    /// How many there are; `None` if the system only tells that there are some.
    pub(crate) count: Option<usize>,
    /// Their short names, as far as the system tells them.
    pub(crate) names: Vec<String>,
}

/// Returns the other threads of this process; `None` if there are none. Threads that are ending are waited for.
///
/// Without `/proc` their number is unknown. Whether there are any is still known, because the kernel refuses to unshare
/// the thread group of a process with several threads, and does nothing in a process with one.
///
/// # References
///
/// - [proc_pid_task(5)](https://man7.org/linux/man-pages/man5/proc_pid_task.5.html)
/// - [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html), `CLONE_THREAD`
pub(crate) fn others() -> Option<OtherThreads> {
    let until = Instant::now() + LINGER;
    loop {
        let others = others_now()?;
        if Instant::now() >= until {
            return Some(others);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn others_now() -> Option<OtherThreads> {
    let Ok(entries) = std::fs::read_dir("/proc/self/task") else {
        return is_accompanied().then(|| OtherThreads { count: None, names: Vec::new() });
    };
    let own = rustix::thread::gettid().as_raw_nonzero().to_string();
    let others: Vec<_> = entries.flatten().filter(|entry| entry.file_name() != *own).collect();
    let name = |entry: &std::fs::DirEntry| std::fs::read_to_string(entry.path().join("comm")).ok();
    let names = others.iter().filter_map(name).take(MAX_NAMES).map(|name| name.trim_end().to_owned());
    (!others.is_empty()).then(|| OtherThreads { count: Some(others.len()), names: names.collect() })
}

/// Whether this process has several threads, as far as the kernel tells it without `/proc`.
fn is_accompanied() -> bool {
    // SAFETY: unshare with CLONE_THREAD alone demands nothing: it does nothing in a process with one thread, and fails in
    // any other.
    let unshared = unsafe { libc::unshare(libc::CLONE_THREAD) };
    unshared != 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

impl std::fmt::Display for OtherThreads {
    /// Prints a phrase: `2 other threads (metrics, flusher)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.count {
            None => f.write_str("other threads")?,
            Some(1) => f.write_str("1 other thread")?,
            Some(count) => write!(f, "{count} other threads")?,
        }
        if self.names.is_empty() {
            return Ok(());
        }
        let more = if self.count > Some(self.names.len()) { ", …" } else { "" };
        write!(f, " ({}{more})", self.names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_that_there_are_threads_without_proc_as_well() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("company".to_owned()).spawn(move || wait.recv());
        assert!(is_accompanied());
        let others = others().expect("the thread");
        assert!(others.count >= Some(1) && others.to_string().contains("company"), "{others}");
        drop(done);
        assert!(thread.expect("a thread").join().is_ok());
    }

    #[test]
    fn threads_are_counted_and_named() {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let table = [
            (None, names(&[]), "other threads"),
            (Some(1), names(&["metrics"]), "1 other thread (metrics)"),
            (Some(3), names(&["a", "b"]), "3 other threads (a, b, …)"),
        ];
        for (count, names, expected) in table {
            assert_eq!(OtherThreads { count, names }.to_string(), expected);
        }
    }
}
