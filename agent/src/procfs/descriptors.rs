//! The walk over /proc/PID/fd: who holds which pipe, socket, epoll instance, terminal or locked file.
//!
//! Scope: links are read and looked at, never opened: opening one of a pipe would add an end to it. Paths are looked
//! at with statx(2) and AT_STATX_DONT_SYNC, which asks no file server. Regular files are left out unless a lock of the
//! table is on them.
//!
//! Degradation policy: descriptors that close meanwhile are left out. The rows of a process whose pid has changed hands
//! meanwhile are dropped and counted. Beyond 4096 descriptors of one process only the access mode is read, not the
//! flags; and the walk ends after a time budget, with the processes that it did not reach counted.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rung_diagnosis::observation::{DescriptorObservation, FdObject, FileId, PipeObservation, SocketId};
use rustc_hash::{FxHashMap, FxHashSet};
use rustix::fs::{AtFlags, FileType, RawDir, StatxFlags, readlinkat_raw, statat, statx};

use super::fdinfo::{self, Flags};
use super::files::{Reader, decimal, is_refused, open_base, open_directory};
use super::rows::StatRow;
use super::tally::Tally;
use super::tasks::Process;
use super::vantage::{Vantage, namespace};
use crate::locks::device;

/// Descriptors of one process whose flags are read.
pub(super) const FLAGS_MAX: u32 = 4096;
/// Time for the whole walk.
pub(super) const BUDGET: Duration = Duration::from_millis(1500);

/// A socket that is known by its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KnownSocket {
    Unix(SocketId),
    Inet(SocketId),
}

/// What one walk needs and fills.
#[derive(Debug)]
pub(super) struct DescriptorWalk<'a> {
    pub(super) proc: BorrowedFd<'a>,
    pub(super) vantage: &'a Vantage,
    pub(super) sockets: &'a FxHashMap<u64, KnownSocket>,
    pub(super) locked: &'a FxHashSet<FileId>,
    pub(super) deadline: Instant,
    pub(super) tally: &'a mut Tally,
    pub(super) descriptors: Vec<DescriptorObservation>,
    pub(super) pipes: FxHashSet<FileId>,
    /// Standard streams that lead nowhere, by the task of their table; see [`rung_diagnosis::observation::TaskObservation`].
    pub(super) null_streams: FxHashMap<u32, u8>,
}

impl DescriptorWalk<'_> {
    /// The pipes that were met, each once.
    pub(super) fn pipes(&self) -> Vec<PipeObservation> {
        let mut pipes: Vec<_> = self
            .pipes
            .iter()
            .map(|id| PipeObservation { id: *id, fill: None })
            .collect();
        pipes.sort_by_key(|pipe| pipe.id);
        pipes
    }

    /// Reads the descriptors of one process.
    pub(super) fn process(&mut self, process: Process, entries: &mut Vec<u8>, reader: &mut Reader) {
        if Instant::now() >= self.deadline {
            self.tally.tables_unreached += 1;
            return;
        }
        let base = if process.table_of == process.tgid {
            process.tgid.to_string()
        } else {
            format!("{}/task/{}", process.tgid, process.table_of)
        };
        let Ok(base) = open_base(self.proc, &base) else {
            return;
        };
        let table = match open_directory(base.as_fd(), "fd") {
            Ok(table) => table,
            Err(error) => {
                self.tally.tables_refused += u32::from(is_refused(error));
                return;
            }
        };
        let first = self.descriptors.len();
        let mut sockets = false;
        let mut visited = 0;
        entries.clear();
        let mut rows = RawDir::new(table.as_fd(), entries.spare_capacity_mut());
        while let Some(Ok(row)) = rows.next() {
            let Some(fd) = decimal(row.file_name().to_bytes()) else {
                continue;
            };
            visited += 1;
            if visited % 1024 == 0 && Instant::now() >= self.deadline {
                self.tally.tables_unreached += 1;
                break;
            }
            let flags_wanted = visited <= FLAGS_MAX;
            let Some(found) = self.descriptor(
                process.tgid,
                fd,
                base.as_fd(),
                table.as_fd(),
                flags_wanted,
                reader,
            ) else {
                continue;
            };
            if let FdObject::Pipe(id) = found.object {
                self.pipes.insert(id);
            }
            sockets |= matches!(found.object, FdObject::OtherSocket);
            self.descriptors.push(found);
        }
        self.tally.descriptors += u64::from(visited);
        self.tally.tables_without_flags += u32::from(visited > FLAGS_MAX);
        if self.descriptors.len() == first {
            return;
        }
        let still_the_same = reader
            .record(self.proc, &format!("{}/stat", process.tgid))
            .ok()
            .and_then(StatRow::parse)
            .is_some_and(|row| row.start_ns() == process.start_ns);
        if !still_the_same {
            self.descriptors.truncate(first);
            self.tally.torn += 1;
        } else if sockets
            && let Some(net_ns) = namespace(base.as_fd(), "ns/net")
            && self.vantage.net_ns != 0
            && net_ns != self.vantage.net_ns
        {
            self.tally.foreign_networks += 1;
        }
    }

    fn descriptor(
        &mut self,
        tid: u32,
        fd: u32,
        base: BorrowedFd<'_>,
        table: BorrowedFd<'_>,
        flags_wanted: bool,
        reader: &mut Reader,
    ) -> Option<DescriptorObservation> {
        let number = DecimalName::new(fd);
        let mut link = [0; 64];
        // Longer targets are paths, cut short; that they begin with a slash is enough.
        let length = readlinkat_raw(table, number.text(), &mut link[..]).ok()?;
        let (object, wants_flags) = match self.target(table, number.text(), link.get(..length)?)? {
            Target::Object(object, wants_flags) => (object, wants_flags),
            Target::Null => {
                if fd < 3 {
                    *self.null_streams.entry(tid).or_default() |= 1 << fd;
                }
                return None;
            }
        };
        let mut flags = Flags {
            readable: true,
            writable: true,
            ..Flags::default()
        };
        let mut object = object;
        if wants_flags && (flags_wanted || matches!(object, FdObject::Epoll { .. })) {
            let info = reader.record(base, number.info()).ok()?;
            flags = fdinfo::flags(info)?;
            if let FdObject::Epoll { watched, incomplete } = &mut object {
                (*watched, *incomplete) = fdinfo::watched(info);
            }
        } else if matches!(object, FdObject::Pipe(_)) {
            // The mode of the link itself says how the file is open: r for reading, w for writing (proc(5)).
            let mode = statat(table, number.text(), AtFlags::SYMLINK_NOFOLLOW)
                .ok()?
                .st_mode;
            flags.readable = mode & 0o400 != 0;
            flags.writable = mode & 0o200 != 0;
        }
        Some(DescriptorObservation {
            tid,
            fd: i32::try_from(fd).ok()?,
            file: 0,
            readable: flags.readable,
            writable: flags.writable,
            nonblocking: flags.nonblocking,
            close_on_exec: flags.close_on_exec,
            object,
        })
    }

    /// What a link points to; `None` for what nobody waits for.
    fn target(&self, table: BorrowedFd<'_>, name: &str, link: &[u8]) -> Option<Target> {
        if let Some(inode) = inode(link, b"pipe:[") {
            let device = self.vantage.pipe_device;
            return Some(Target::Object(FdObject::Pipe(FileId { device, inode }), true));
        }
        if let Some(inode) = inode(link, b"socket:[") {
            return Some(match self.sockets.get(&inode) {
                Some(KnownSocket::Unix(id)) => Target::Object(FdObject::Unix(*id), true),
                Some(KnownSocket::Inet(id)) => Target::Object(FdObject::Inet(*id), true),
                None => Target::Object(FdObject::OtherSocket, false),
            });
        }
        match link {
            b"anon_inode:[eventpoll]" => {
                let (watched, incomplete) = (Vec::new(), true);
                return Some(Target::Object(FdObject::Epoll { watched, incomplete }, true));
            }
            b"/dev/null" | b"/dev/zero" => return Some(Target::Null),
            b"/dev/tty" | b"/dev/console" => return Some(Target::Object(FdObject::Terminal, false)),
            _ if link.starts_with(b"/dev/pts/") => return Some(Target::Object(FdObject::Terminal, false)),
            _ if !link.starts_with(b"/") => return Some(Target::Object(FdObject::Other, false)),
            _ => {}
        }
        let wanted = StatxFlags::TYPE | StatxFlags::INO;
        let file = statx(table, name, AtFlags::STATX_DONT_SYNC, wanted).ok()?;
        let id = FileId {
            device: device(file.stx_dev_major, file.stx_dev_minor),
            inode: file.stx_ino,
        };
        match FileType::from_raw_mode(file.stx_mode.into()) {
            FileType::Fifo => Some(Target::Object(FdObject::Pipe(id), true)),
            FileType::CharacterDevice => Some(character_device(file.stx_rdev_major, file.stx_rdev_minor)),
            _ if self.locked.contains(&id) => Some(Target::Object(FdObject::LockedFile(id), false)),
            _ => None,
        }
    }
}

/// Major numbers of Documentation/admin-guide/devices.txt.
fn character_device(major: u32, minor: u32) -> Target {
    match (major, minor) {
        (1, 3 | 5) => Target::Null,
        // tty and serial ports, /dev/tty and /dev/console, ptys, USB serial, ARM serial, hvc.
        (4 | 5 | 136..=143 | 166 | 188 | 204 | 229, _) => Target::Object(FdObject::Terminal, false),
        _ => Target::Object(FdObject::Other, false),
    }
}

/// What a descriptor leads to.
enum Target {
    /// Something to wait on, and whether the descriptor's flags matter.
    Object(FdObject, bool),
    /// /dev/null or /dev/zero.
    Null,
}

/// `pipe:[4711]`
fn inode(link: &[u8], prefix: &[u8]) -> Option<u64> {
    let digits = link.strip_prefix(prefix)?.strip_suffix(b"]")?;
    str::from_utf8(digits).ok()?.parse().ok()
}

/// The name of a descriptor's entry, without allocation.
struct DecimalName {
    buffer: [u8; 20],
    length: usize,
}

impl DecimalName {
    fn new(fd: u32) -> Self {
        use std::io::Write;
        let mut buffer = *b"fdinfo/\0\0\0\0\0\0\0\0\0\0\0\0\0";
        // A u32 has at most 10 digits, and there is room for 13.
        let _ = write!(&mut buffer[7..], "{fd}");
        let length = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
        DecimalName { buffer, length }
    }

    /// `fdinfo/N`
    fn info(&self) -> &str {
        str::from_utf8(&self.buffer[..self.length]).unwrap_or_default()
    }

    /// `N`
    fn text(&self) -> &str {
        self.info().strip_prefix("fdinfo/").unwrap_or_default()
    }
}

/// A buffer for directory entries.
pub(super) fn entries_buffer() -> Vec<u8> {
    Vec::with_capacity(64 << 10)
}
