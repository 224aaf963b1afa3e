//! What a blocked futex call says of the lock behind it.
//!
//! glibc keeps the owner's tid in a `pthread_mutex_t` at word + 8 (`struct __pthread_mutex_s`,
//! sysdeps/nptl/bits/struct_mutex.h), robust and PI mutexes in the word itself (include/uapi/linux/futex.h), and
//! pthread_join(3) waits for the word that holds the tid of the thread to end. Every reading is checked against the
//! threads that exist, since other libraries put other things at the same places.

use crate::index::Index;
use crate::observation::{FutexCall, FutexOp, FutexWords, TaskObservation};

use super::WaitKind;

const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;
/// The value of a contended lock without owner in the word: glibc's lll_lock, Rust's std::sync::Mutex, Go's runtime.
const CONTENDED: u32 = 2;
/// Bits of `__kind`: type 0 to 3, robust, PI, protect, shared, elision flags (nptl/pthreadP.h).
const MUTEX_KIND_MASK: u32 = 0x3ff;
/// Largest possible pid (PID_MAX_LIMIT, include/linux/threads.h).
const PID_LIMIT: u32 = 4 * 1024 * 1024;

/// Tells what a thread in a futex call waits for.
pub(super) fn classify(index: &Index<'_>, task: &TaskObservation, call: &FutexCall) -> WaitKind {
    let unknown = || {
        if call.private {
            let lock_like =
                call.expected == CONTENDED && call.words.is_some_and(|words| words.0[0] == CONTENDED);
            WaitKind::Futex {
                address: call.address,
                lock_like,
            }
        } else {
            WaitKind::SharedFutex {
                address: call.address,
            }
        }
    };
    let Some(words) = call.words else { return unknown() };
    let word = words.0[0];
    match call.op {
        FutexOp::LockPi => mutex(index, task, call, word & FUTEX_TID_MASK, true).unwrap_or_else(unknown),
        FutexOp::Wait | FutexOp::WaitBitset => {
            if call.expected & FUTEX_WAITERS != 0 && word & FUTEX_WAITERS != 0 {
                return mutex(index, task, call, word & FUTEX_TID_MASK, false).unwrap_or_else(unknown);
            }
            if call.op == FutexOp::Wait && call.expected == CONTENDED && word == CONTENDED {
                let plausible = is_glibc_mutex(words, index.threads(task.tgid).len());
                return mutex(index, task, call, words.0[2], plausible).unwrap_or_else(unknown);
            }
            if !call.private && call.expected == word && word != task.ns_tid {
                let target = index.thread_by_own_id(task.tgid, word);
                if let Some(target) = target.filter(|target| target.tid != task.tid) {
                    return WaitKind::Join { thread: target.tid };
                }
            }
            unknown()
        }
        FutexOp::Other => unknown(),
    }
}

/// Whether five words look like a locked `pthread_mutex_t`.
fn is_glibc_mutex(words: FutexWords, threads: usize) -> bool {
    let [_, _, owner, users, kind] = words.0;
    // __nusers counts the threads between lock and unlock, those in pthread_cond_wait(3) included.
    (1..PID_LIMIT).contains(&owner)
        && users >= 1
        && users as usize <= threads + 1
        && kind & !MUTEX_KIND_MASK == 0
}

/// A mutex with this owner, if such a thread exists; or, where the layout is beyond doubt, if none does any more.
fn mutex(
    index: &Index<'_>,
    task: &TaskObservation,
    call: &FutexCall,
    owner: u32,
    beyond_doubt: bool,
) -> Option<WaitKind> {
    if owner == 0 {
        return None;
    }
    let own = index.thread_by_own_id(task.tgid, owner);
    let thread = if call.private {
        own
    } else {
        own.or_else(|| in_namespace(index, task.pid_ns, owner))
    };
    match thread {
        Some(thread) => Some(WaitKind::Mutex {
            address: call.address,
            owner: thread.tid,
            owner_lives: is_there(thread),
        }),
        // A shared mutex may belong to a process that is not seen.
        None if beyond_doubt && call.private => Some(WaitKind::Mutex {
            address: call.address,
            owner,
            owner_lives: false,
        }),
        None => None,
    }
}

fn is_there(thread: &TaskObservation) -> bool {
    use crate::observation::TaskState::{Dead, Zombie};
    !matches!(thread.state, Dead | Zombie)
}

fn in_namespace<'a>(index: &Index<'a>, pid_ns: u32, tid: u32) -> Option<&'a TaskObservation> {
    index
        .picture
        .tasks
        .iter()
        .find(|task| task.ns_tid == tid && task.pid_ns == pid_ns)
}
