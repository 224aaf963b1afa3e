//! The task iterator: one [`TaskRecord`] for every thread, and with it the descriptors of its table, if it is a small one.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use rung_ebpf_common::{Field, PIECE_BYTES, SMALL_TABLE, TaskRecord, task_bits};

use crate::descriptor::{self, Holder, is_null};
use crate::kernel::{
    IterMeta, machine, offset, probe, read, read_at, read_plus, read_via, reader_level, upid_at, write,
};
use crate::memory::{self, TaskRow};
use crate::reach::{PIDTYPE_SID, PIDTYPE_TGID, Reach, STREAMS};

/// `struct bpf_iter__task`.
#[repr(C)]
struct TaskContext {
    meta: *const IterMeta,
    task: *mut c_void,
}

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
    let Some(row) = TASK_SCRATCH.get_ptr_mut(0) else {
        return 0;
    };
    let row = unsafe { &mut *row };
    let reach = fill(row, task, memory, unsafe { (*meta).session_id });
    let files = table(&mut row.record, task as u64, &reach);
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
fn table(record: &mut TaskRecord, task: u64, reach: &Reach) -> u64 {
    record.null_streams = 0;
    let files = reach.files;
    if files == 0 {
        return 0;
    }
    if record.tid != record.tgid {
        let leader: u64 = read(task, Field::TaskGroupLeader);
        if read::<u64>(leader, Field::TaskFiles) == files {
            return 0;
        }
    }
    let table = reach.fdtable;
    if read::<u32>(table, Field::FdtableSlots) > SMALL_TABLE {
        record.bits |= task_bits::LARGE_TABLE;
        let array: u64 = read(table, Field::FdtableArray);
        for fd in 0..STREAMS {
            let inode: u64 = probe(read_at(array, fd as u32 * 8), Field::FileInode);
            let null = is_null(probe(inode, Field::InodeMode), probe(inode, Field::InodeRdev));
            record.null_streams |= (null as u32) << fd;
        }
        return 0;
    }
    for fd in 0..STREAMS {
        let file = reach.streams[fd];
        if file != 0 {
            let inode: u64 = read(file, Field::FileInode);
            let null = is_null(read(inode, Field::InodeMode), read(inode, Field::InodeRdev));
            record.null_streams |= (null as u32) << fd;
        }
    }
    files
}

/// The descriptors of a small table but for the streams of which it is known that they lead nowhere.
#[inline(always)]
fn descriptors(holder: &Holder, nulls: u32) {
    let files = holder.files;
    // The verifier would tell every set of bits from every other.
    let open = core::hint::black_box(read::<u64>(files, Field::FilesOpen)) & !(nulls as u64);
    if open == 0 {
        return;
    }
    let closes_on_exec: u64 = core::hint::black_box(read(files, Field::FilesCloexec));
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
fn fill(row: &mut TaskRow, pointer: *mut c_void, reads_memory: bool, session: u64) -> Reach {
    let record = &mut row.record;
    let task = pointer as u64;
    let reach = Reach::of(record, pointer);
    let outlived = identify(record, task, &reach);
    if record.flags & PF_KTHREAD != 0 || record.exit_state != 0 {
        record.call = -1;
        record.bits &= !(task_bits::IN_CALL | task_bits::COMPAT);
    } else if reads_memory && machine!(read_memory) != 0 && record.state & ASLEEP != 0 {
        memory::read(row, pointer, session);
    }
    let record = &mut row.record;
    if signals_matter(record, outlived) {
        dispositions(record, task);
    }
    let state: u32 = read(task, Field::TaskState);
    let voluntary: u64 = read(task, Field::TaskVoluntary);
    let involuntary: u64 = read(task, Field::TaskInvoluntary);
    if state != record.state || voluntary != record.voluntary || involuntary != record.involuntary {
        record.bits |= task_bits::MOVED;
    }
    reach
}

/// Ids of the thread and of its relatives, in the reader's namespace and in its own. Returns whether it seems to have
/// outlived its parent.
#[inline(always)]
fn identify(record: &mut TaskRecord, task: u64, reach: &Reach) -> bool {
    let Reach { signal, pid, group, process_group, session, parent, .. } = *reach;
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
    let tty: u64 = read(signal, Field::SignalTty);
    if tty != 0 {
        record.bits |= task_bits::TERMINAL;
    }
    record.cgroup_id = 0;
    let css_set = reach.css_set;
    if css_set != 0 {
        let cgroup: u64 = read(css_set, Field::CssSetDefault);
        record.cgroup_id = read_via(cgroup, Field::CgroupNode, Field::KernfsId);
    }
    innermost(record, pid, group);
    // A child is given the number of programs that the one who forked it had executed, which only grows (copy_process()
    // in kernel/fork.c, begin_new_exec() in fs/exec.c).
    if reach.programs_of_forker > read::<u64>(parent, Field::TaskSelfExecId) {
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

/// Which signals have a handler, and which are ignored.
#[inline(always)]
fn dispositions(record: &mut TaskRecord, task: u64) {
    let Some(actions) = ACTIONS_SCRATCH.get_ptr_mut(0) else {
        return;
    };
    let sighand: u64 = read(task, Field::TaskSighand);
    if sighand == 0 {
        return;
    }
    let from = sighand + offset(Field::SighandAction) as u64;
    let failed =
        unsafe { bpf_probe_read_kernel(actions.cast(), size_of::<Actions>() as u32, from as *const c_void) };
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
