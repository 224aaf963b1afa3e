//! What is read of every thread before anything is decided.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_task_pt_regs;
use rung_ebpf_common::{ABSENT, Field, TASK_KIND, TaskRecord, task_bits};

use crate::kernel::{load, machine, read, read_plus};

/// `enum pid_type` (include/linux/pid_types.h).
pub const PIDTYPE_TGID: u32 = 1;
const PIDTYPE_PGID: u32 = 2;
pub const PIDTYPE_SID: u32 = 3;

/// What a thread points to, and the first words of each. A visit's time goes by waiting for memory that no cache holds:
/// asked for before anything depends on them, first the thread's own and then what it points to, these words come
/// together.
pub struct Reach {
    pub signal: u64,
    pub pid: u64,
    pub parent: u64,
    pub css_set: u64,
    pub files: u64,
    pub fdtable: u64,
    /// What the standard streams lead to, if the table is a small one.
    pub streams: [u64; STREAMS],
    pub group: u64,
    pub process_group: u64,
    pub session: u64,
    /// Programs that the one who forked it had executed.
    pub programs_of_forker: u64,
}

/// Standard input, output and error.
pub const STREAMS: usize = 3;

impl Reach {
    /// Writes what it reads of the thread itself to the record.
    #[inline(always)]
    pub fn of(record: &mut TaskRecord, pointer: *mut c_void) -> Reach {
        let task = pointer as u64;
        let signal: u64 = read(task, Field::TaskSignal);
        let files: u64 = read(task, Field::TaskFiles);
        let pid: u64 = read(task, Field::TaskThreadPid);
        let parent: u64 = read(task, Field::TaskRealParent);
        let css_set: u64 = read(task, Field::TaskCgroups);
        let registers = if machine!(call_number) == ABSENT {
            0
        } else {
            unsafe { bpf_task_pt_regs(pointer.cast()) as u64 }
        };
        record.kind = TASK_KIND;
        record.state = read(task, Field::TaskState);
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
        record.mm = read(task, Field::TaskMm);
        record.comm = [read_plus(task, Field::TaskComm, 0), read_plus(task, Field::TaskComm, 8)];
        let programs_of_forker = read(task, Field::TaskParentExecId);
        let reach = Reach {
            group: read_plus(signal, Field::SignalPids, PIDTYPE_TGID * 8),
            fdtable: read(files, Field::FilesFdtable),
            streams: [
                read_plus(files, Field::FilesArray, 0),
                read_plus(files, Field::FilesArray, 8),
                read_plus(files, Field::FilesArray, 16),
            ],
            process_group: read_plus(signal, Field::SignalPids, PIDTYPE_PGID * 8),
            session: read_plus(signal, Field::SignalPids, PIDTYPE_SID * 8),
            signal,
            pid,
            parent,
            css_set,
            files,
            programs_of_forker,
        };
        record.threads = read(signal, Field::SignalThreads);
        record.bits = 0;
        record.call = -1;
        if registers != 0 {
            call(record, task, registers);
        }
        record.caught = 0;
        record.ignored = 0;
        record.user_len = [0; 2];
        reach
    }
}

/// The system call the thread is in: number and arguments as saved on entry.
#[inline(always)]
fn call(record: &mut TaskRecord, task: u64, registers: u64) {
    record.call = if machine!(call_number_size) == 8 {
        load::<i64>(registers, machine!(call_number))
    } else {
        load::<i32>(registers, machine!(call_number)) as i64
    };
    record.args[0] = load(registers, machine!(arguments[0]));
    record.args[1] = load(registers, machine!(arguments[1]));
    record.args[2] = load(registers, machine!(arguments[2]));
    record.args[3] = load(registers, machine!(arguments[3]));
    record.args[4] = load(registers, machine!(arguments[4]));
    record.args[5] = load(registers, machine!(arguments[5]));
    record.bits |= task_bits::IN_CALL;
    let word = machine!(compat_word);
    if word != ABSENT && load::<u32>(task, word) & machine!(compat_mask) != 0 {
        record.bits |= task_bits::COMPAT;
    }
}
