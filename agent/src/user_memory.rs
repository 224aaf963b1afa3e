//! Reading a few bytes of another thread's memory, without stopping it.
//!
//! Scope: one call of process_vm_readv(2). It needs the permission of ptrace(2) (PTRACE_MODE_ATTACH_REALCREDS: the
//! same user with nothing dropped, and Yama's consent; or CAP_SYS_PTRACE), but neither attaches nor stops.
//!
//! Degradation policy: a read that is refused is counted apart from one that finds nothing mapped, so that the
//! caller can say which of the two it was; both leave the buffer's content undefined.

use std::io;

use crate::syscalls::UserMemory;

/// The memory of one thread, by its id in the reader's PID namespace.
#[derive(Debug)]
pub struct ThreadMemory {
    tid: u32,
    /// Reads that were tried.
    pub attempts: u32,
    /// Reads that were refused for want of permission.
    pub refused: u32,
}

impl ThreadMemory {
    /// Prepares to read the memory of a thread.
    pub fn new(tid: u32) -> Self {
        ThreadMemory {
            tid,
            attempts: 0,
            refused: 0,
        }
    }
}

impl UserMemory for ThreadMemory {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> bool {
        self.attempts += 1;
        match process_vm_read(self.tid, address, buffer) {
            Ok(read) => read == buffer.len(),
            Err(error) => {
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EPERM | libc::EACCES | libc::ENOSYS)
                ) {
                    self.refused += 1;
                }
                false
            }
        }
    }
}

/// Copies from another thread's memory; returns how many bytes were mapped.
#[expect(unsafe_code, reason = "rustix has no process_vm_readv(2)")]
fn process_vm_read(tid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let tid = libc::pid_t::try_from(tid).map_err(io::Error::other)?;
    let address = usize::try_from(address).map_err(io::Error::other)?;
    let local = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address),
        iov_len: buffer.len(),
    };
    // SAFETY: `local` is one range that `buffer` borrows exclusively for the whole call; the kernel writes at most
    // iov_len bytes there. `remote` is an address in the other process and is never dereferenced here; the kernel
    // checks it and fails with EFAULT. Both counts are 1, the number of structures behind the pointers.
    let read = unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_own_memory_and_not_the_unmapped() {
        let words = [1_u32, 2, 3, 4, 5];
        let mut memory = ThreadMemory::new(std::process::id());
        let mut buffer = [0; 20];
        assert!(memory.read(words.as_ptr().addr() as u64, &mut buffer));
        assert_eq!(buffer[4..8], 2_u32.to_ne_bytes());
        for address in [0, 8, u64::MAX, u64::MAX - 3, 1 << 63] {
            assert!(!memory.read(address, &mut buffer), "{address:#x}");
        }
        assert_eq!((memory.attempts, memory.refused), (6, 0));
        assert!(!ThreadMemory::new(u32::MAX).read(0, &mut buffer));
    }
}
