//! Notices that a fault of this process is an overflow of its stack, and leaves the rest to whatever handles faults.
//!
//! The system reports an overflow as SIGSEGV, like any other access to memory that is not there. The standard library's
//! handler, which tells them apart, is missing in a private server: that is diverted ahead of `main`.

use std::ffi::c_void;
use std::ops::Range;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::process::own_number;
use super::shared_memory::SharedMemory;

/// How far below the lowest page of the stack the fault of an overflow can be, and how far from it the stack pointer: a
/// frame of C code may skip pages.
const LARGE_FRAME: usize = 1 << 20;

/// Least size of the stack on which the handler runs.
const HANDLER_STACK: usize = 16 << 10;

/// What handled SIGSEGV before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// The lowest address that the stack can reach.
static LOWEST: AtomicUsize = AtomicUsize::new(0);

/// Keeps the mapping of the flag.
static MEMORY: OnceLock<Arc<SharedMemory>> = OnceLock::new();

/// Where an overflow is recorded; null in a process that records none.
static FLAG: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());

/// The process whose overflows are recorded, and not those of its forks.
static OWNER: AtomicI32 = AtomicI32::new(0);

/// Installs the handler for this thread's stack, in front of what handles SIGSEGV now. All processes that this thread
/// forks inherit it. Where the system refuses, overflows are faults like others.
///
/// # References
///
/// - [sigaltstack(2)](https://man7.org/linux/man-pages/man2/sigaltstack.2.html)
pub(crate) fn watch() {
    let Some(lowest) = lowest_address() else { return };
    LOWEST.store(lowest, Ordering::Relaxed);
    if !has_handler_stack() {
        return;
    }
    // SAFETY: zeroed demands that zero bytes are a valid sigaction; it is integers, a set and null pointers.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: sigaction demands room for the old action, which is on this frame, and lets the new one be null.
    if unsafe { libc::sigaction(libc::SIGSEGV, std::ptr::null(), &raw mut previous) } != 0 {
        return;
    }
    // The handler may run as soon as it is installed.
    if PREVIOUS.set(previous).is_err() {
        return;
    }
    let mut action = previous;
    action.sa_sigaction = on_fault as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: sigaction demands a valid action and lets the old one be null; the handler only calls async-signal-safe
    // functions. Should the system refuse, the old one stays.
    unsafe { libc::sigaction(libc::SIGSEGV, &raw const action, null_mut()) };
}

/// Has the handler set the number at this offset to 1 when the stack of this process overflows.
pub(crate) fn record_in(memory: Arc<SharedMemory>, at: usize) {
    let memory = MEMORY.get_or_init(|| memory);
    OWNER.store(own_number(), Ordering::Relaxed);
    FLAG.store(std::ptr::from_ref(memory.atomic_u32(at)).cast_mut(), Ordering::Release);
}

/// Returns the lowest address that this thread's stack can reach.
fn lowest_address() -> Option<usize> {
    // SAFETY: zeroed demands that zero bytes are a valid pthread_attr_t; it is an array of integers.
    let mut attributes: libc::pthread_attr_t = unsafe { std::mem::zeroed() };
    // SAFETY: pthread_getattr_np demands a thread that lives, which this one does, and room for its attributes.
    if unsafe { libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes) } != 0 {
        return None;
    }
    let (mut start, mut length) = (null_mut(), 0);
    // SAFETY: pthread_attr_getstack demands initialised attributes and room for both values; both are on this frame.
    let found =
        unsafe { libc::pthread_attr_getstack(&raw const attributes, &raw mut start, &raw mut length) };
    // SAFETY: pthread_attr_destroy demands initialised attributes that are not used any more.
    unsafe { libc::pthread_attr_destroy(&raw mut attributes) };
    (found == 0).then(|| start.addr())
}

/// Provides a stack for the handler unless this thread has one; returns whether there is one.
fn has_handler_stack() -> bool {
    // SAFETY: zeroed demands that zero bytes are a valid stack_t; it is integers and a pointer.
    let mut present: libc::stack_t = unsafe { std::mem::zeroed() };
    // SAFETY: sigaltstack demands room for the old stack, which is on this frame, and lets the new one be null.
    if unsafe { libc::sigaltstack(std::ptr::null(), &raw mut present) } != 0 {
        return false;
    }
    if present.ss_flags & libc::SS_DISABLE == 0 {
        return true;
    }
    // SAFETY: getauxval demands nothing; it returns 0 for a value that the system does not know.
    let needed = unsafe { libc::getauxval(AT_MINSIGSTKSZ) } as usize;
    let length = HANDLER_STACK + needed;
    // It is in use until the process ends.
    let memory = Box::leak(Box::<[u8]>::new_uninit_slice(length));
    let stack = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: length };
    // SAFETY: sigaltstack demands memory that is used for nothing else as long as it is the stack; it was made for that
    // and is never freed.
    unsafe { libc::sigaltstack(&raw const stack, null_mut()) == 0 }
}

/// The least size of a signal stack, in the auxiliary vector.
const AT_MINSIGSTKSZ: libc::c_ulong = 51;

/// Records an overflow, and has the fault happen again under what handled faults before. Async-signal-safe: it stores
/// a number, and calls getpid, sigaction and raise.
extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel passes a valid siginfo_t for the length of the handler (SA_SIGINFO).
    let code = unsafe { (*info).si_code };
    // SAFETY: as above; for SIGSEGV the address is set.
    let address = unsafe { (*info).si_addr() }.addr();
    let is_fault = code > 0;
    if is_fault && is_overflow(address, stack_pointer(context), LOWEST.load(Ordering::Relaxed)) {
        record();
    }
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: sigaction demands a valid action, which the system has filled in, and lets the old one be null.
        unsafe { libc::sigaction(signal, previous, null_mut()) };
    }
    if !is_fault {
        // It was sent, so it does not happen again by itself. It is blocked until this handler returns.
        // SAFETY: raise demands a valid signal, which is the one being handled.
        unsafe { libc::raise(signal) };
    }
}

fn record() {
    let flag = FLAG.load(Ordering::Acquire);
    if !flag.is_null() && own_number() == OWNER.load(Ordering::Relaxed) {
        // SAFETY: the pointer was made from a reference into memory that `MEMORY` keeps mapped.
        unsafe { &*flag }.store(1, Ordering::Release);
    }
}

/// Returns whether a fault is an overflow: both the address and the stack pointer are at the end of the stack.
fn is_overflow(address: usize, stack_pointer: Option<usize>, lowest: usize) -> bool {
    let end: Range<usize> = lowest.saturating_sub(LARGE_FRAME)..lowest.saturating_add(HANDLER_STACK);
    let near = lowest.saturating_sub(LARGE_FRAME)..lowest.saturating_add(LARGE_FRAME);
    lowest != 0 && end.contains(&address) && stack_pointer.is_none_or(|pointer| near.contains(&pointer))
}

/// Returns the stack pointer at the fault, on machines where it is known how.
fn stack_pointer(context: *mut c_void) -> Option<usize> {
    let context = context.cast::<libc::ucontext_t>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel passes a valid ucontext_t for the length of the handler (SA_SIGINFO).
    let pointer = Some(unsafe { (*context).uc_mcontext.gregs[libc::REG_RSP as usize] } as usize);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel passes a valid ucontext_t for the length of the handler (SA_SIGINFO).
    let pointer = Some(unsafe { (*context).uc_mcontext.sp } as usize);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let pointer = {
        let _ = context;
        None
    };
    pointer
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G8
    #[test]
    fn only_a_fault_at_the_end_of_the_stack_is_an_overflow() {
        let lowest = 0x7f00_0000_0000;
        let table = [
            (lowest - 8, Some(lowest - 8), true),
            (lowest + 8, Some(lowest + 16), true),
            (lowest - LARGE_FRAME / 2, Some(lowest + 64), true),
            (lowest - 8, None, true),
            (0, Some(lowest + 64), false),
            (0, None, false),
            (lowest - 8, Some(lowest + 4 * LARGE_FRAME), false),
            (lowest - 2 * LARGE_FRAME, Some(lowest), false),
            (lowest + LARGE_FRAME, Some(lowest), false),
        ];
        for (address, pointer, overflow) in table {
            assert_eq!(is_overflow(address, pointer, lowest), overflow, "{address:#x} {pointer:x?}");
        }
        assert!(!is_overflow(8, Some(8), 0), "the stack is unknown");
    }

    /// G8
    #[test]
    fn the_stack_of_this_thread_reaches_below_this_frame() {
        let here = 0_u8;
        assert!(lowest_address().is_some_and(|lowest| lowest < (&raw const here).addr()));
    }
}
