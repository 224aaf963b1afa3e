//! Small files and directories below /proc, read with few system calls and no allocation per file.
//!
//! Degradation policy: errors are the kernel's own ([`Errno`]); [`is_gone`] and [`is_refused`] sort them.

use std::fmt::Write;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RawDir, openat};
use rustix::io::{Errno, Result};

/// Reusable buffers.
#[derive(Debug)]
pub(crate) struct Reader {
    content: Vec<u8>,
    entries: Vec<u8>,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Reader {
            content: vec![0; 16 << 10],
            entries: Vec::with_capacity(64 << 10),
        }
    }

    /// The content of a file that the kernel makes in one piece (`single_open`), as those of one thread are.
    pub(crate) fn record(&mut self, dir: BorrowedFd<'_>, path: &str) -> Result<&[u8]> {
        let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut length = rustix::io::read(&file, &mut self.content[..])?;
        while length == self.content.len() {
            self.content.resize(length * 2, 0);
            length += rustix::io::read(&file, &mut self.content[length..])?;
        }
        Ok(&self.content[..length])
    }

    /// The content of a file of many records, such as /proc/locks.
    pub(crate) fn whole(&mut self, dir: BorrowedFd<'_>, path: &str) -> Result<&[u8]> {
        let file = openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut length = 0;
        loop {
            if length == self.content.len() {
                self.content.resize(length * 2, 0);
            }
            match rustix::io::read(&file, &mut self.content[length..])? {
                0 => return Ok(&self.content[..length]),
                read => length += read,
            }
        }
    }

    /// The entries of a directory that are numbers, into `numbers`.
    pub(crate) fn numbers(&mut self, dir: BorrowedFd<'_>, path: &str, numbers: &mut Vec<u32>) -> Result<()> {
        numbers.clear();
        let dir = open_directory(dir, path)?;
        self.entries.clear();
        let mut entries = RawDir::new(dir, self.entries.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) => numbers.extend(decimal(entry.file_name().to_bytes())),
                // The process ended while its directory was being read: what has been read stands.
                Err(error) if is_gone(error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens a directory to list it.
pub(crate) fn open_directory(dir: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, path, flags, Mode::empty())
}

/// Opens a directory as a base for paths. A directory of /proc/PID stays that process's: once it has ended, every
/// use fails, whoever has its pid then.
pub(crate) fn open_base(dir: BorrowedFd<'_>, path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(dir, path, flags, Mode::empty())
}

/// The process or thread has ended.
pub(crate) fn is_gone(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::SRCH)
}

/// Permission is missing.
pub(crate) fn is_refused(error: Errno) -> bool {
    matches!(error, Errno::PERM | Errno::ACCESS)
}

/// A number in decimal digits and nothing else.
pub(crate) fn decimal(bytes: &[u8]) -> Option<u32> {
    str::from_utf8(bytes)
        .ok()
        .filter(|text| text.as_bytes().iter().all(u8::is_ascii_digit))?
        .parse()
        .ok()
}

/// Paths of the files of one thread, below the directory of its process, in one reused buffer.
#[derive(Debug, Default)]
pub(crate) struct ThreadPath {
    path: String,
    prefix: usize,
}

impl ThreadPath {
    /// `None`: the process's own files, which are those of its leader.
    pub(crate) fn point_at(&mut self, tid: Option<u32>) {
        self.path.clear();
        if let Some(tid) = tid {
            // Writing to a String cannot fail.
            let _ = write!(self.path, "task/{tid}/");
        }
        self.prefix = self.path.len();
    }

    pub(crate) fn file(&mut self, name: &str) -> &str {
        self.path.truncate(self.prefix);
        self.path.push_str(name);
        &self.path
    }
}
