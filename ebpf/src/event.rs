//! Process life-cycle events, counted in the kernel; a ring only for exits that leave children behind.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{map, raw_tracepoint};
use aya_ebpf::maps::{HashMap, PerCpuArray, RingBuf};
use aya_ebpf::programs::RawTracePointContext;
use rung_ebpf_common::{COMM_LEN, Counter, ExitRecord, Field};

use crate::kernel::{argument, offset, probe, read_at};

/// Forks by parent process. Emptied by the reader at each picture; when it is full, forks are counted in total only.
#[map]
static FORKS: HashMap<u32, u64> = HashMap::with_max_entries(8192, BPF_F_NO_PREALLOC);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

#[map]
static EXITS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

const CHILDREN: usize = 8;

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        unsafe { *value += 1 };
    }
}

/// TP_PROTO(struct task_struct *parent, struct task_struct *child), include/trace/events/sched.h
#[raw_tracepoint(tracepoint = "sched_process_fork")]
pub fn sched_process_fork(context: RawTracePointContext) -> i32 {
    let (parent, child) = (argument(&context, 0), argument(&context, 1));
    let tgid: u32 = probe(child, Field::TaskTgid);
    if tgid != probe::<u32>(child, Field::TaskPid) {
        return 0;
    }
    count(Counter::Forks);
    let parent: u32 = probe(parent, Field::TaskTgid);
    match FORKS.get_ptr_mut(&parent) {
        Some(forks) => unsafe { *forks += 1 },
        None => {
            let _ = FORKS.insert(&parent, &1, 0);
        }
    }
    0
}

/// TP_PROTO(struct task_struct *p, pid_t old_pid, struct linux_binprm *bprm)
#[raw_tracepoint(tracepoint = "sched_process_exec")]
pub fn sched_process_exec(_: RawTracePointContext) -> i32 {
    count(Counter::Execs);
    0
}

/// TP_PROTO(struct task_struct *p, ...)
#[raw_tracepoint(tracepoint = "sched_process_exit")]
pub fn sched_process_exit(context: RawTracePointContext) -> i32 {
    let task = argument(&context, 0);
    let signal: u64 = probe(task, Field::TaskSignal);
    // do_exit() has already taken this thread off the count: at 0 the whole process goes.
    if probe::<u32>(signal, Field::SignalLive) != 0 {
        return 0;
    }
    count(Counter::Exits);
    let mut children = [0u32; CHILDREN];
    let mut found = list_children(task, &mut children, 0);
    let leader: u64 = probe(task, Field::TaskGroupLeader);
    if leader != task {
        found = list_children(leader, &mut children, found);
    }
    if found == 0 {
        return 0;
    }
    let pids = offset(Field::SignalPids);
    let record = ExitRecord {
        at_ns: unsafe { bpf_ktime_get_ns() },
        pid: probe(task, Field::TaskTgid),
        exit_code: probe(task, Field::TaskExitCode),
        pgid: number(read_at(signal, pids + 2 * 8)),
        sid: number(read_at(signal, pids + 3 * 8)),
        children,
        comm: probe::<[u8; COMM_LEN]>(leader, Field::TaskComm),
    };
    if EXITS.output::<ExitRecord>(&record, 0).is_err() {
        count(Counter::ExitsLost);
    }
    0
}

/// Appends the children of one thread; returns how many there are now.
#[inline(always)]
fn list_children(task: u64, children: &mut [u32; CHILDREN], mut found: usize) -> usize {
    let head = task + offset(Field::TaskChildren) as u64;
    let mut node: u64 = read_at(head, 0);
    for _ in 0..CHILDREN {
        if node == 0 || node == head || found >= CHILDREN {
            break;
        }
        let child = node - offset(Field::TaskSibling) as u64;
        children[found & (CHILDREN - 1)] = probe(child, Field::TaskTgid);
        found += 1;
        node = read_at(node, 0);
    }
    found
}

#[inline(always)]
fn number(pid: u64) -> u32 {
    if pid == 0 {
        return 0;
    }
    probe(pid + offset(Field::PidNumbers) as u64, Field::UpidNr)
}
