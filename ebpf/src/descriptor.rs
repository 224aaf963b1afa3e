//! One record for every descriptor that somebody can wait on.
//!
//! Small tables are visited with their task; the task_file iterator, which costs more for each descriptor, visits the
//! large ones. Each table is visited once: by its thread group leader, or by the thread that has a table of its own.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_seq_write, bpf_sock_from_file};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use rung_ebpf_common::{
    EpollBody, FdHeader, FdKind, Field, InetBody, PipeBody, SMALL_TABLE, UnixBody, fd_bits,
};

use crate::epoll;
use crate::kernel::{IterMeta, machine, offset, probe, read, read_at, read_plus, reader_level, upid_at};
use crate::socket;

/// `struct bpf_iter__task_file`; the context's members are 8-byte aligned.
#[repr(C)]
struct TaskFileContext {
    meta: *const IterMeta,
    task: *mut c_void,
    fd: u32,
    padding: u32,
    file: *mut c_void,
}

/// What follows a header; all bodies are whole words.
#[repr(C)]
pub union Body {
    pipe: PipeBody,
    pub unix: UnixBody,
    pub inet: InetBody,
    epoll: EpollBody,
    /// As much as a length of one byte can name.
    words: [u64; 256],
}

/// The record that is being made.
#[repr(C)]
struct Row {
    header: FdHeader,
    body: Body,
    found: Found,
}

/// What the rest of a record is made from: addresses that typed pointers led to, as plain numbers.
#[repr(C)]
struct Found {
    inode: u64,
    private: u64,
    /// `i_mode & S_IFMT`.
    format: u64,
}

#[map]
static ROW_SCRATCH: PerCpuArray<Row> = PerCpuArray::with_max_entries(1, 0);

const S_IFMT: u16 = 0o170000;
const S_IFIFO: u16 = 0o010000;
const S_IFCHR: u16 = 0o020000;
const S_IFSOCK: u16 = 0o140000;
const O_NONBLOCK: u32 = 0o4000;
/// include/uapi/linux/magic.h.
const ANON_INODE_FS_MAGIC: u64 = 0x0904_1934;
/// Whose descriptors are visited, and where their records go.
pub struct Holder {
    pub meta: *const IterMeta,
    /// Its `files_struct`, or 0 if the iterator keeps the file from being closed meanwhile.
    pub files: u64,
    pub tid: u32,
    pub start_ns: u64,
}

#[unsafe(link_section = "iter/task_file")]
#[unsafe(no_mangle)]
fn iter_task_file(context: *mut c_void) -> i32 {
    let context: *const TaskFileContext = context.cast();
    let (meta, task, file, fd) =
        unsafe { ((*context).meta, (*context).task as u64, (*context).file as u64, (*context).fd) };
    if task == 0 || file == 0 {
        return 0;
    }
    let files: u64 = read(task, Field::TaskFiles);
    let table: u64 = read(files, Field::FilesFdtable);
    if read::<u32>(table, Field::FdtableSlots) <= SMALL_TABLE {
        return 0;
    }
    let bitmap: u64 = read(table, Field::FdtableCloexec);
    let closes_on_exec: u64 = read_at(bitmap, (fd / 64) * 8);
    let start_ns = read(task, Field::TaskStartBoottime);
    let holder = Holder { meta, files: 0, tid: thread_id(task), start_ns };
    let closes_on_exec = (closes_on_exec >> (fd % 64)) as u32 & 1;
    if machine!(direct) != 0 {
        let socket = unsafe { bpf_sock_from_file(file as *mut _) } as u64;
        if socket != 0 {
            visit_socket(&holder, file, socket, fd, closes_on_exec);
            return 0;
        }
    }
    visit(&holder, file, fd, closes_on_exec);
    0
}

/// Writes a record of a socket that the verifier can follow by type.
#[inline(always)]
fn visit_socket(holder: &Holder, file: u64, socket: u64, fd: u32, closes_on_exec: u32) {
    let Some(row) = ROW_SCRATCH.get_ptr_mut(0) else { return };
    let row = unsafe { &mut *row };
    let sock: u64 = read(socket, Field::SocketSock);
    if sock == 0 {
        return;
    }
    let inode: u64 = read(file, Field::FileInode);
    head(&mut row.header, holder, file, inode, fd, closes_on_exec);
    let kind = socket::typed(&mut row.body, sock);
    row.header.kind = kind as u32;
    let bytes = core::hint::black_box(size_of::<FdHeader>() + kind.body_len()) as u32;
    let bytes = if bytes > MAX_BYTES { MAX_BYTES } else { bytes };
    unsafe { bpf_seq_write((*holder.meta).seq.cast(), (&raw mut *row).cast(), bytes) };
}

/// No record of a socket is longer.
const MAX_BYTES: u32 = (size_of::<FdHeader>() + size_of::<UnixBody>() + size_of::<InetBody>()) as u32;

/// Completes the header but for its kind.
#[inline(always)]
fn head(header: &mut FdHeader, holder: &Holder, file: u64, inode: u64, fd: u32, closes_on_exec: u32) {
    const _: () = assert!(O_NONBLOCK >> 8 == fd_bits::NONBLOCK && 1 << 2 == fd_bits::CLOSE_ON_EXEC);
    let access = read::<u32>(file, Field::FileMode) & (fd_bits::READABLE | fd_bits::WRITABLE);
    let nonblocking = (read::<u32>(file, Field::FileFlags) & O_NONBLOCK) >> 8;
    let superblock: u64 = read(inode, Field::InodeSuperblock);
    header.tid = holder.tid;
    header.fd = fd;
    header.bits = access | nonblocking | closes_on_exec << 2;
    header.file = file;
    header.start_ns = holder.start_ns;
    header.inode = read(inode, Field::InodeNumber);
    header.device = read(superblock, Field::SuperblockDev);
    header.reserved = 0;
}

/// Writes a record of a descriptor, if somebody can wait on it. For a small table the verifier walks through here once a
/// slot: so little is done here, and the rest in a function that it checks by itself.
#[inline(always)]
pub fn visit(holder: &Holder, file: u64, fd: u32, closes_on_exec: u32) {
    let inode: u64 = read(file, Field::FileInode);
    let format = read::<u16>(inode, Field::InodeMode) & S_IFMT;
    if format != S_IFIFO && format != S_IFSOCK && format != S_IFCHR {
        // Most files are regular ones, on which nobody waits but for a lock.
        let locks: u64 = read(inode, Field::InodeLockContext);
        let superblock: u64 = read(inode, Field::InodeSuperblock);
        if locks == 0 && read::<u64>(superblock, Field::SuperblockMagic) != ANON_INODE_FS_MAGIC {
            return;
        }
    }
    let Some(row) = ROW_SCRATCH.get_ptr_mut(0) else { return };
    let row = unsafe { &mut *row };
    head(&mut row.header, holder, file, inode, fd, closes_on_exec);
    row.found.inode = inode;
    row.found.private = read(file, Field::FilePrivate);
    row.found.format = format as u64;
    // Nothing the compiler knows of the length reaches the verifier: bound it where both can see it.
    let words = core::hint::black_box(describe() as u32) & 0xff;
    // Closed meanwhile, and its memory perhaps another file's: what was read may be of neither.
    let closed = holder.files != 0 && read_plus::<u64>(holder.files, Field::FilesArray, fd * 8) != file;
    if words != 0 && !closed {
        unsafe { bpf_seq_write((*holder.meta).seq.cast(), (&raw mut *row).cast(), words * 8) };
    }
}

/// Completes the record in the scratch: how many words of it are to be written, 0 if nobody waits on the file.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn describe() -> u64 {
    let Some(row) = ROW_SCRATCH.get_ptr_mut(0) else { return 0 };
    let row = unsafe { &mut *row };
    let found = &row.found;
    let kind = match found.format as u16 {
        S_IFIFO => {
            row.body.pipe = pipe(probe(found.inode, Field::InodePipe));
            Some(FdKind::Pipe)
        }
        S_IFSOCK => socket::copied(&mut row.body, found.private),
        S_IFCHR => character_device(probe(found.inode, Field::InodeRdev)),
        _ if probe::<u64>(found.inode, Field::InodeLockContext) != 0 => Some(FdKind::LockedFile),
        _ if epoll::is_epoll(probe(row.header.file, Field::FileDentry)) => {
            epoll::watches(unsafe { &mut row.body.epoll }, found.private);
            Some(FdKind::Epoll)
        }
        _ => None,
    };
    let Some(kind) = kind else { return 0 };
    row.header.kind = kind as u32;
    ((size_of::<FdHeader>() + kind.body_len()) / 8) as u64
}

#[inline(always)]
fn thread_id(task: u64) -> u32 {
    let level = reader_level();
    if level == 0 {
        return read(task, Field::TaskPid);
    }
    probe(upid_at(read(task, Field::TaskThreadPid), level), Field::UpidNr)
}

#[inline(always)]
fn pipe(pipe: u64) -> PipeBody {
    // The fields lie close together: one call brings them all.
    let near: [u8; NEAR_BYTES] = probe(pipe, Field::PipeHead);
    PipeBody {
        head: of_near(&near, pipe, Field::PipeHead),
        tail: of_near(&near, pipe, Field::PipeTail),
        ring_size: of_near(&near, pipe, Field::PipeRingSize),
        max_usage: of_near(&near, pipe, Field::PipeMaxUsage),
        readers: of_near(&near, pipe, Field::PipeReaders),
        writers: of_near(&near, pipe, Field::PipeWriters),
    }
}

/// Bytes of a pipe that are read together, from its head on.
const NEAR_BYTES: usize = 64;

#[inline(always)]
fn of_near(near: &[u8; NEAR_BYTES], pipe: u64, field: Field) -> u32 {
    let at = offset(field).wrapping_sub(offset(Field::PipeHead)) as usize;
    if at <= NEAR_BYTES - size_of::<u32>() {
        unsafe { near.as_ptr().add(at).cast::<u32>().read_unaligned() }
    } else {
        probe(pipe, field)
    }
}

/// Terminals: majors 4 (tty), 5 (console, /dev/tty, ptmx), 136 to 143 (pseudo-terminals)
/// (Documentation/admin-guide/devices.txt). A `dev_t` in the kernel is major << 20 | minor.
#[inline(always)]
fn character_device(device: u32) -> Option<FdKind> {
    matches!(device >> 20, 4 | 5 | 136..=143).then_some(FdKind::Terminal)
}

/// /dev/null and /dev/zero.
#[inline(always)]
pub fn is_null(mode: u16, device: u32) -> bool {
    mode & S_IFMT == S_IFCHR && (device == 1 << 20 | 3 || device == 1 << 20 | 5)
}
