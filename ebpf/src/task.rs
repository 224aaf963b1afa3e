//! The task iterator: one [`TaskRecord`] for every thread, and with it the descriptors of its table, if it is a small one.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_copy_from_user_task, bpf_probe_read_kernel, bpf_task_pt_regs};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use rung_ebpf_common::{
    ABSENT, COMM_LEN, Field, PIECE_BYTES, SMALL_TABLE, TASK_KIND, TaskRecord, task_bits,
};

use crate::descriptor::{self, Holder, is_null};
use crate::kernel::{
    IterMeta, load, machine, offset, probe, read, read_at, read_plus, read_via, reader_level, upid_at, write,
};

/// `struct bpf_iter__task`.
#[repr(C)]
struct TaskContext {
    meta: *const IterMeta,
    task: *mut c_void,
}

/// A record, and the memory that follows it.
#[repr(C)]
struct TaskRow {
    record: TaskRecord,
    user: [u8; 2 * PIECE_BYTES],
    known: KnownWord,
}

/// Whose futex word the first piece of memory still holds. The threads of a pool wait on one word, and are visited one
/// after another: reading it for each would about double its cost.
#[repr(C)]
struct KnownWord {
    /// `bpf_iter_meta.session_id`: what an earlier walk read is old.
    session: u64,
    mm: u64,
    address: u64,
}

/// Bytes of a futex word and what glibc keeps beside it.
const FUTEX_BYTES: u32 = 20;

/// A record is too large for the stack of a BPF program.
#[map]
static TASK_SCRATCH: PerCpuArray<TaskRow> = PerCpuArray::with_max_entries(1, 0);

/// `struct k_sigaction` times `_NSIG`, of which the handlers are looked at.
#[repr(C)]
struct Actions {
    action: [[u64; ACTION_WORDS]; SIGNALS],
}

const ACTION_WORDS: usize = 4;
const SIGNALS: usize = 64;

#[map]
static ACTIONS_SCRATCH: PerCpuArray<Actions> = PerCpuArray::with_max_entries(1, 0);

/// TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE (include/linux/sched.h).
const ASLEEP: u32 = 3;
const PF_KTHREAD: u32 = 0x0020_0000;
/// `enum pid_type` (include/linux/pid_types.h).
const PIDTYPE_TGID: u32 = 1;
const PIDTYPE_PGID: u32 = 2;
const PIDTYPE_SID: u32 = 3;
/// Bytes of user memory read in one piece.
const PIECE: u32 = PIECE_BYTES as u32;

/// With the memory of blocked threads; needs `bpf_copy_from_user_task` (5.18).
#[unsafe(link_section = "iter.s/task")]
#[unsafe(no_mangle)]
fn iter_task(context: *mut c_void) -> i32 {
    visit(context.cast(), true)
}

/// Without it.
#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
fn iter_task_plain(context: *mut c_void) -> i32 {
    visit(context.cast(), false)
}

#[inline(always)]
fn visit(context: *const TaskContext, memory: bool) -> i32 {
    let (meta, task) = unsafe { ((*context).meta, (*context).task) };
    if task.is_null() {
        return 0;
    }
    let Some(row) = TASK_SCRATCH.get_ptr_mut(0) else { return 0 };
    let row = unsafe { &mut *row };
    fill(row, task, memory, unsafe { (*meta).session_id });
    let files = table(&mut row.record, task as u64);
    let nulls = row.record.null_streams;
    write(meta, &row.record);
    for index in 0..2 {
        if row.record.user_len[index] != 0 {
            write(meta, unsafe { &*row.user.as_ptr().add(index * PIECE_BYTES).cast::<[u8; PIECE_BYTES]>() });
        }
    }
    if files != 0 {
        let holder = Holder { meta, files, tid: row.record.tid, start_ns: row.record.start_ns };
        descriptors(&holder, nulls);
    }
    0
}

/// The small table of descriptors to be visited with this thread, or 0: threads that share one are visited once.
#[inline(always)]
fn table(record: &mut TaskRecord, task: u64) -> u64 {
    record.null_streams = 0;
    let files: u64 = read(task, Field::TaskFiles);
    if files == 0 {
        return 0;
    }
    if record.tid != record.tgid {
        let leader: u64 = read(task, Field::TaskGroupLeader);
        if read::<u64>(leader, Field::TaskFiles) == files {
            return 0;
        }
    }
    let table: u64 = read(files, Field::FilesFdtable);
    if read::<u32>(table, Field::FdtableSlots) > SMALL_TABLE {
        record.bits |= task_bits::LARGE_TABLE;
        let array: u64 = read(table, Field::FdtableArray);
        for fd in 0..STREAMS {
            let inode: u64 = probe(read_at(array, fd * 8), Field::FileInode);
            let null = is_null(probe(inode, Field::InodeMode), probe(inode, Field::InodeRdev));
            record.null_streams |= (null as u32) << fd;
        }
        return 0;
    }
    for fd in 0..STREAMS {
        let file: u64 = read_plus(files, Field::FilesArray, fd * 8);
        if file != 0 {
            let inode: u64 = read(file, Field::FileInode);
            let null = is_null(read(inode, Field::InodeMode), read(inode, Field::InodeRdev));
            record.null_streams |= (null as u32) << fd;
        }
    }
    files
}

/// Standard input, output and error.
const STREAMS: u32 = 3;

/// The descriptors of a small table but for the streams of which it is known that they lead nowhere.
#[inline(always)]
fn descriptors(holder: &Holder, nulls: u32) {
    let files = holder.files;
    let table: u64 = read(files, Field::FilesFdtable);
    let open: u64 = read_at::<u64>(read(table, Field::FdtableOpen), 0) & !(nulls as u64);
    if open == 0 {
        return;
    }
    let closes_on_exec: u64 = read_at(read(table, Field::FdtableCloexec), 0);
    for fd in 0..SMALL_TABLE {
        if open >> fd == 0 {
            break;
        }
        if open >> fd & 1 == 0 {
            continue;
        }
        let file: u64 = read_plus(files, Field::FilesArray, fd * 8);
        if file != 0 {
            descriptor::visit(holder, file, fd, (closes_on_exec >> fd) as u32 & 1);
        }
    }
}

#[inline(always)]
fn fill(row: &mut TaskRow, pointer: *mut c_void, memory: bool, session: u64) {
    let record = &mut row.record;
    let task = pointer as u64;
    record.kind = TASK_KIND;
    let state: u32 = read(task, Field::TaskState);
    record.state = state;
    record.voluntary = read(task, Field::TaskVoluntary);
    record.involuntary = read(task, Field::TaskInvoluntary);
    record.exit_state = read(task, Field::TaskExitState);
    record.exit_code = read(task, Field::TaskExitCode);
    record.flags = read(task, Field::TaskFlags);
    record.start_ns = read(task, Field::TaskStartBoottime);
    record.run_ns = read(task, Field::TaskSumExec);
    record.exec_start_ns = read(task, Field::TaskExecStart);
    record.run_delay_ns = read(task, Field::TaskRunDelay);
    record.last_arrival_ns = read(task, Field::TaskLastArrival);
    record.comm = probe::<[u8; COMM_LEN]>(task, Field::TaskComm);
    record.mm = read(task, Field::TaskMm);
    record.bits = 0;
    record.caught = 0;
    record.ignored = 0;
    record.call = -1;
    record.user_len = [0; 2];
    let outlived = identify(record, task);
    if record.flags & PF_KTHREAD == 0 && record.exit_state == 0 {
        registers(record, pointer);
        if memory && machine!(read_memory) != 0 && state & ASLEEP != 0 {
            user_memory(record, &mut row.user, &mut row.known, pointer, session);
        }
    }
    if signals_matter(record, outlived) {
        dispositions(record, task);
    }
    let again: u32 = read(task, Field::TaskState);
    let voluntary: u64 = read(task, Field::TaskVoluntary);
    let involuntary: u64 = read(task, Field::TaskInvoluntary);
    if again != state || voluntary != record.voluntary || involuntary != record.involuntary {
        record.bits |= task_bits::MOVED;
    }
}

/// Ids of the thread and of its relatives, in the reader's namespace and in its own. Returns whether it seems to have
/// outlived its parent.
#[inline(always)]
fn identify(record: &mut TaskRecord, task: u64) -> bool {
    let signal: u64 = read(task, Field::TaskSignal);
    let pid: u64 = read(task, Field::TaskThreadPid);
    let group: u64 = read_plus(signal, Field::SignalPids, PIDTYPE_TGID * 8);
    let process_group: u64 = read_plus(signal, Field::SignalPids, PIDTYPE_PGID * 8);
    let session: u64 = read_plus(signal, Field::SignalPids, PIDTYPE_SID * 8);
    let parent: u64 = read(task, Field::TaskRealParent);
    let reader_level = reader_level();
    if reader_level == 0 {
        record.tid = read(task, Field::TaskPid);
        record.tgid = read(task, Field::TaskTgid);
        record.parent = read(parent, Field::TaskTgid);
    } else {
        record.tid = number_at(pid, reader_level);
        record.tgid = number_at(group, reader_level);
        record.parent = process_at(parent, reader_level);
    }
    record.pgid = number_at(process_group, reader_level);
    record.sid = number_at(session, reader_level);
    record.tracer = 0;
    let traced: u32 = read(task, Field::TaskPtrace);
    if traced != 0 {
        let tracer: u64 = read(task, Field::TaskParent);
        record.tracer = process_at(tracer, reader_level);
    }
    record.threads = read(signal, Field::SignalThreads);
    let tty: u64 = read(signal, Field::SignalTty);
    if tty != 0 {
        record.bits |= task_bits::TERMINAL;
    }
    record.cgroup_id = 0;
    let css_set: u64 = read(task, Field::TaskCgroups);
    if css_set != 0 {
        let cgroup: u64 = read(css_set, Field::CssSetDefault);
        record.cgroup_id = read_via(cgroup, Field::CgroupNode, Field::KernfsId);
    }
    innermost(record, pid, group);
    // A child is given the number of programs that the one who forked it had executed, which only grows (copy_process()
    // in kernel/fork.c, begin_new_exec() in fs/exec.c).
    if read::<u64>(task, Field::TaskParentExecId) > read::<u64>(parent, Field::TaskSelfExecId) {
        record.bits |= task_bits::ADOPTED;
    }
    // It may have outlived its parent: it shares no session with the one that adopted it.
    let adopter: u64 = read(parent, Field::TaskSignal);
    let adopter_session: u64 = read_plus(adopter, Field::SignalPids, PIDTYPE_SID * 8);
    adopter_session != session && record.sid != record.tgid
}

/// Whether somebody will ask for the process's signals: they tell who is woken from outside, and who ignores SIGHUP.
/// They are the same for all its threads, and are read with the leader.
#[inline(always)]
fn signals_matter(record: &TaskRecord, outlived: bool) -> bool {
    if record.tid != record.tgid || record.flags & PF_KTHREAD != 0 {
        return false;
    }
    let call = record.call as i32;
    outlived
        || record.threads > 1
        || call >= 0
            && (call == machine!(futex)
                || call == machine!(poll)
                || call == machine!(ppoll)
                || call == machine!(select)
                || call == machine!(pselect6)
                || call == machine!(epoll_wait)
                || call == machine!(epoll_pwait)
                || call == machine!(epoll_pwait2))
}

#[inline(always)]
fn innermost(record: &mut TaskRecord, pid: u64, group: u64) {
    record.ns_tid = 0;
    record.ns_tgid = 0;
    record.pid_ns = 0;
    record.pid_ns_level = 0;
    if pid == 0 {
        return;
    }
    let level: u32 = read(pid, Field::PidLevel);
    record.pid_ns_level = level;
    if level == 0 {
        record.ns_tid = read_plus(pid, Field::PidNumbers, offset(Field::UpidNr));
        let namespace: u64 = read_plus(pid, Field::PidNumbers, offset(Field::UpidNs));
        record.pid_ns = read(namespace, Field::PidNamespaceInum);
    } else {
        let upid = upid_at(pid, level);
        record.ns_tid = probe(upid, Field::UpidNr);
        record.pid_ns = probe(probe(upid, Field::UpidNs), Field::PidNamespaceInum);
    }
    if group != 0 {
        record.ns_tgid = number_at(group, level);
    }
}

/// The number of a `struct pid` at a level; 0 for processes that the level does not see.
#[inline(always)]
fn number_at(pid: u64, level: u32) -> u32 {
    if pid == 0 {
        return 0;
    }
    if level == 0 {
        return read_plus(pid, Field::PidNumbers, offset(Field::UpidNr));
    }
    let own: u32 = read(pid, Field::PidLevel);
    if own < level {
        return 0;
    }
    probe(upid_at(pid, level), Field::UpidNr)
}

#[inline(always)]
fn process_at(task: u64, level: u32) -> u32 {
    let signal: u64 = read(task, Field::TaskSignal);
    let group: u64 = read_plus(signal, Field::SignalPids, PIDTYPE_TGID * 8);
    number_at(group, level)
}

/// The system call the thread is in: number and arguments as saved on entry.
#[inline(always)]
fn registers(record: &mut TaskRecord, task: *mut c_void) {
    let number_at = machine!(call_number);
    if number_at == ABSENT {
        return;
    }
    let regs = unsafe { bpf_task_pt_regs(task.cast()) } as u64;
    if regs == 0 {
        return;
    }
    record.call = if machine!(call_number_size) == 8 {
        load::<i64>(regs, number_at)
    } else {
        load::<i32>(regs, number_at) as i64
    };
    record.args[0] = load(regs, machine!(arguments[0]));
    record.args[1] = load(regs, machine!(arguments[1]));
    record.args[2] = load(regs, machine!(arguments[2]));
    record.args[3] = load(regs, machine!(arguments[3]));
    record.args[4] = load(regs, machine!(arguments[4]));
    record.args[5] = load(regs, machine!(arguments[5]));
    record.bits |= task_bits::IN_CALL;
    let word = machine!(compat_word);
    if word != ABSENT && load::<u32>(task as u64, word) & machine!(compat_mask) != 0 {
        record.bits |= task_bits::COMPAT;
    }
}

/// The memory that a blocked call points to: futex word, poll set, address to connect to.
#[inline(always)]
fn user_memory(
    record: &mut TaskRecord,
    user: &mut [u8; 2 * PIECE_BYTES],
    known: &mut KnownWord,
    task: *mut c_void,
    session: u64,
) {
    if record.bits & task_bits::COMPAT != 0 {
        return;
    }
    let call = record.call as i32;
    if call < 0 {
        return;
    }
    if call == machine!(futex) {
        let address = record.args[0];
        if known.session == session && known.mm == record.mm && known.address == address {
            record.user_address[0] = address;
            record.user_len[0] = FUTEX_BYTES;
        } else {
            piece(record, user, 0, task, address, FUTEX_BYTES);
            *known = KnownWord { session, mm: record.mm, address };
            if record.user_len[0] == 0 {
                known.session = 0;
            }
        }
        return;
    }
    // What follows overwrites the word.
    known.session = 0;
    if call == machine!(poll) || call == machine!(ppoll) {
        // struct pollfd has 8 bytes; more than 16 of them are not looked at.
        let count = record.args[1];
        let bytes = if count > 8 { PIECE } else { count as u32 * 8 };
        piece(record, user, 0, task, record.args[0], bytes);
        if count > 8 {
            let rest = count - 8;
            let bytes = if rest > 8 { PIECE } else { rest as u32 * 8 };
            piece(record, user, 1, task, record.args[0] + PIECE as u64, bytes);
        }
    } else if call == machine!(select) || call == machine!(pselect6) {
        let bytes = ((record.args[0] as u32 & 0xffff) + 63) / 64 * 8;
        let bytes = if bytes > PIECE { PIECE } else { bytes };
        piece(record, user, 0, task, record.args[1], bytes);
        piece(record, user, 1, task, record.args[2], bytes);
    } else if call == machine!(connect) {
        let length = record.args[2] as u32;
        piece(record, user, 0, task, record.args[1], if length > PIECE { PIECE } else { length });
        if length > PIECE {
            let rest = length - PIECE;
            piece(record, user, 1, task, record.args[1] + PIECE as u64, if rest > PIECE { PIECE } else { rest });
        }
    } else if call == machine!(clone3) {
        piece(record, user, 0, task, record.args[0], 8);
    }
}

#[inline(always)]
fn piece(
    record: &mut TaskRecord,
    user: &mut [u8; 2 * PIECE_BYTES],
    index: usize,
    task: *mut c_void,
    address: u64,
    bytes: u32,
) {
    // Nothing the compiler knows of `bytes` reaches the verifier: bound it where both can see it.
    let bytes = core::hint::black_box(bytes) & (2 * PIECE - 1);
    if address == 0 || bytes == 0 || bytes > PIECE {
        return;
    }
    let to = unsafe { user.as_mut_ptr().add(index * PIECE_BYTES) };
    let failed =
        unsafe { bpf_copy_from_user_task(to.cast(), bytes, address as *const c_void, task.cast(), 0) };
    if failed == 0 {
        record.user_address[index] = address;
        record.user_len[index] = bytes;
    }
}

/// Which signals have a handler, and which are ignored.
#[inline(always)]
fn dispositions(record: &mut TaskRecord, task: u64) {
    let Some(actions) = ACTIONS_SCRATCH.get_ptr_mut(0) else { return };
    let sighand: u64 = read(task, Field::TaskSighand);
    if sighand == 0 {
        return;
    }
    let from = sighand + offset(Field::SighandAction) as u64;
    let failed = unsafe {
        bpf_probe_read_kernel(actions.cast(), size_of::<Actions>() as u32, from as *const c_void)
    };
    if failed != 0 {
        return;
    }
    let actions = unsafe { &*actions };
    let (mut caught, mut ignored) = (0u64, 0u64);
    for signal in 0..SIGNALS {
        let handler = actions.action[signal][0];
        if handler == 1 {
            ignored |= 1 << signal;
        } else if handler != 0 {
            caught |= 1 << signal;
        }
    }
    record.caught = caught;
    record.ignored = ignored;
    record.bits |= task_bits::SIGNALS;
}
