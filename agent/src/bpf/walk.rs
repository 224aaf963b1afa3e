//! Reading an iterator to its end: over the whole host, or over the threads of one process.
//!
//! aya attaches iterators without parameters only, so the walk over one process makes its link by bpf(2) itself.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use aya::Ebpf;
use aya::programs::{Iter, ProgramError};
use zerocopy::IntoBytes;

use super::IterError;

/// Bytes read at a time; the kernel's buffer for an iterator holds as much (kernel/bpf/bpf_iter.c).
const READ_BYTES: usize = 32 * 1024;

/// Runs an iterator over the whole host and appends what it writes to `into`.
pub(super) fn host(ebpf: &mut Ebpf, name: &'static str, into: &mut Stream) -> Result<(), IterError> {
    let failed = |source| IterError {
        iterator: name,
        source,
    };
    let mut open = || -> Result<fs::File, ProgramError> {
        let program = iterator(ebpf, name).map_err(ProgramError::IOError)?;
        let link = program.attach()?;
        Ok(program.take_link(link)?.into_file().map_err(io::Error::other)?)
    };
    let mut file = open().map_err(|error| failed(io::Error::other(error)))?;
    read_to_end(&mut file, into).map_err(failed)
}

/// Runs an iterator over the threads of one process (kernel 6.1 and later), by its id in the reader's PID namespace.
/// Nothing is appended if the process is gone.
pub(super) fn process(
    ebpf: &mut Ebpf,
    name: &'static str,
    pid: u32,
    into: &mut Stream,
) -> Result<(), IterError> {
    let failed = |source| IterError {
        iterator: name,
        source,
    };
    let mut open = || -> io::Result<fs::File> {
        let program = iterator(ebpf, name)?.fd().map_err(io::Error::other)?;
        link_to_process(program.as_fd().as_raw_fd(), pid)
    };
    let mut file = match open() {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    read_to_end(&mut file, into).map_err(failed)
}

fn iterator<'a>(ebpf: &'a mut Ebpf, name: &str) -> io::Result<&'a mut Iter> {
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| io::Error::other("not in the object"))?;
    program.try_into().map_err(io::Error::other)
}

/// What iterators wrote, on words of 8 bytes: records can be looked at where they lie.
#[derive(Default)]
pub(super) struct Stream {
    words: Vec<u64>,
    /// Bytes in use.
    len: usize,
}

impl Stream {
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.len]
    }

    /// Room for one more read.
    fn room(&mut self) -> &mut [u8] {
        let words = (self.len + READ_BYTES).div_ceil(8);
        if self.words.len() < words {
            // Room is never given back, so that only the first picture pays for it.
            self.words.resize(words.next_power_of_two(), 0);
        }
        &mut self.words.as_mut_bytes()[self.len..]
    }
}

fn read_to_end(file: &mut fs::File, into: &mut Stream) -> io::Result<()> {
    loop {
        match file.read(into.room()) {
            Ok(0) => return Ok(()),
            Ok(read) => into.len += read,
            // The kernel stops a very long walk with EAGAIN after a million objects; it goes on at the next read.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The arguments of BPF_LINK_CREATE for an iterator (`union bpf_attr`, include/uapi/linux/bpf.h).
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// `struct task` of `union bpf_iter_link_info`.
#[repr(C)]
struct TaskParameters {
    tid: u32,
    pid: u32,
    pid_fd: u32,
    padding: u32,
}

/// The arguments of BPF_ITER_CREATE.
#[repr(C)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

fn link_to_process(program: i32, pid: u32) -> io::Result<fs::File> {
    const BPF_LINK_CREATE: i32 = 28;
    const BPF_ITER_CREATE: i32 = 33;
    const BPF_TRACE_ITER: u32 = 28;
    let task = TaskParameters {
        tid: 0,
        pid,
        pid_fd: 0,
        padding: 0,
    };
    let link = bpf(
        BPF_LINK_CREATE,
        &LinkCreate {
            prog_fd: program.cast_unsigned(),
            target_fd: 0,
            attach_type: BPF_TRACE_ITER,
            flags: 0,
            iter_info: (&raw const task) as u64,
            iter_info_len: size_of::<TaskParameters>() as u32,
            padding: 0,
        },
    )?;
    let link_fd = link.as_raw_fd().cast_unsigned();
    Ok(bpf(BPF_ITER_CREATE, &IterCreate { link_fd, flags: 0 })?.into())
}

/// A command of bpf(2) that makes a descriptor.
#[expect(unsafe_code, reason = "aya has no attach with parameters for iterators")]
fn bpf<T>(command: i32, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `attributes`, which lives and is initialised, padding
    // included; memory that it points to lives as long as the caller's frame, and the kernel only reads it.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(outcome as i32) })
}
