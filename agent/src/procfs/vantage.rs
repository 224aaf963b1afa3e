//! Where the reader stands: which /proc it looks at, from which namespaces, and what the kernel offers there.
//!
//! Degradation policy: what cannot be found out takes the value that claims least.

use std::os::fd::BorrowedFd;

use rustix::fs::{fstat, fstatfs, major, minor, readlinkat_raw};

use super::files::Reader;
use super::rows::StatusRow;
use crate::locks::device;

/// PROC_SUPER_MAGIC, include/uapi/linux/magic.h
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// PROC_PID_INIT_INO and PROC_NET_INIT_INO's namespace: fixed inode numbers of the first namespaces
/// (include/linux/proc_ns.h).
const PID_INIT_INODE: u32 = 0xEFFF_FFFC;

/// What does not change while the source lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Vantage {
    /// A real procfs whose pids are the reader's own: system calls may be given them, and the kernel's sockets are
    /// those of its processes. False for a fake tree, and for the /proc of an outer PID namespace.
    pub(super) native: bool,
    /// Inodes of the reader's own namespaces, 0 if unknown.
    pub(super) pid_ns: u32,
    pub(super) net_ns: u32,
    /// The kernel shows system calls (CONFIG_HAVE_ARCH_TRACEHOOK) and the scheduler's accounts (CONFIG_SCHED_DEBUG).
    pub(super) shows_calls: bool,
    pub(super) shows_sched: bool,
    /// The `hidepid=` option of the mount, if it hides anything.
    pub(super) hidepid: Option<String>,
    /// Yama's ptrace_scope, 0 if there is none.
    pub(super) yama: u32,
    pub(super) root_user: bool,
    /// Device number of pipefs.
    pub(super) pipe_device: u32,
}

impl Vantage {
    pub(super) fn look(proc: BorrowedFd<'_>, root: &str, reader: &mut Reader) -> Vantage {
        let is_procfs = fstatfs(proc).is_ok_and(|stat| stat.f_type as u64 == PROC_SUPER_MAGIC);
        // Seen from an outer namespace's /proc, the own process has an id for each namespace on the way in.
        let inside = reader
            .record(proc, "self/status")
            .ok()
            .and_then(StatusRow::parse)
            .is_some_and(|row| row.ns_level == 0 && row.tgid == std::process::id());
        let yama = reader.record(proc, "sys/kernel/yama/ptrace_scope").ok();
        let yama = yama.and_then(|text| super::files::decimal(text.trim_ascii()));
        Vantage {
            native: is_procfs && inside,
            pid_ns: namespace(proc, "self/ns/pid").unwrap_or(0),
            net_ns: namespace(proc, "self/ns/net").unwrap_or(0),
            shows_calls: !is_procfs || reader.record(proc, "self/syscall").is_ok(),
            shows_sched: !is_procfs || reader.record(proc, "self/sched").is_ok(),
            hidepid: reader
                .whole(proc, "self/mountinfo")
                .ok()
                .and_then(|text| hidepid(text, root)),
            yama: yama.unwrap_or(0),
            root_user: rustix::process::geteuid().is_root(),
            pipe_device: pipe_device().unwrap_or(0),
        }
    }

    /// In the host's first PID namespace, as far as known.
    pub(super) fn sees_all_namespaces(&self) -> bool {
        self.pid_ns == 0 || self.pid_ns == PID_INIT_INODE
    }
}

/// The inode of a namespace: the link reads `pid:[4026531836]`.
pub(super) fn namespace(dir: BorrowedFd<'_>, path: &str) -> Option<u32> {
    let mut buffer = [0; 64];
    let length = readlinkat_raw(dir, path, &mut buffer[..]).ok()?;
    let text = str::from_utf8(buffer.get(..length)?).ok()?;
    let (_, inode) = text.strip_suffix(']')?.split_once(":[")?;
    inode.parse().ok()
}

/// The option of the mount at `root`, if it hides processes of others (proc(5)).
fn hidepid(mountinfo: &[u8], root: &str) -> Option<String> {
    let text = String::from_utf8_lossy(mountinfo);
    // The last mount at a place is the one that is seen.
    let line = text.lines().rfind(|line| line.split(' ').nth(4) == Some(root))?;
    let (_, options) = line.rsplit_once(' ')?;
    let value = options
        .split(',')
        .find_map(|option| option.strip_prefix("hidepid="))?;
    (!matches!(value, "0" | "off")).then(|| value.to_owned())
}

/// All pipes are inodes of one device; one of our own tells which.
fn pipe_device() -> Option<u32> {
    let (reader, _writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
    let stat = fstat(reader).ok()?;
    Some(device(major(stat.st_dev), minor(stat.st_dev)))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn options_of_the_last_mount_at_the_place() {
        let text = b"22 1 0:20 / /proc rw,relatime shared:5 - proc proc rw,hidepid=2\n\
            23 1 0:21 / /x/proc rw - proc proc rw,hidepid=invisible,gid=3\n";
        assert_eq!(hidepid(text, "/proc").as_deref(), Some("2"));
        assert_eq!(hidepid(text, "/x/proc").as_deref(), Some("invisible"));
        assert_eq!(hidepid(text, "/y"), None);
        assert_eq!(
            hidepid(b"22 1 0:20 / /proc rw - proc proc rw,hidepid=off\n", "/proc"),
            None
        );
    }

    #[test]
    fn the_own_proc_is_native_and_a_directory_is_not() {
        let mut reader = Reader::new();
        let proc = std::fs::File::open("/proc").unwrap();
        let vantage = Vantage::look(proc.as_fd(), "/proc", &mut reader);
        assert!(vantage.native && vantage.shows_calls);
        assert!(vantage.pid_ns != 0 && vantage.net_ns != 0 && vantage.pipe_device != 0);
        let other = std::fs::File::open("/").unwrap();
        assert!(!Vantage::look(other.as_fd(), "/", &mut reader).native);
    }
}
