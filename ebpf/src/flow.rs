//! What became of a flow's connections, and who listens where.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_current_task};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, Queue};
use rung_ebpf_common::{
    COMM_LEN, Counter, FLOW_LATENCIES, FLOW_STARTS, Field, FlowCount, FlowKeyRecord, FlowRecord,
    ListenerKeyRecord, MAX_FLOWS, MAX_LISTENERS, NO_ROW, SocketRecord, reader_state,
};

use crate::event::count;
use crate::kernel::{offset, probe, read_at};
use crate::sockets::{PAGE_ALIGNED, increase};

/// The rows of flows. Sockets know theirs by number, so that only their first event looks for it here.
#[map]
static FLOWS: HashMap<FlowKeyRecord, u32> = HashMap::with_max_entries(MAX_FLOWS, BPF_F_NO_PREALLOC);

/// Counts by row. The reader clears what has been idle.
#[map]
static FLOW_ROWS: Array<FlowRecord> = Array::with_max_entries(MAX_FLOWS, PAGE_ALIGNED);

/// Where a flow's row was found last, by a hash of its key: a look into the map of flows costs several times as much. The
/// upper half of a hint is the epoch in which it holds.
#[map]
static ROW_HINTS: Array<u64> = Array::with_max_entries(rung_ebpf_common::ROW_HINTS, 0);

/// Numbers of rows that hold nothing. Filled by the reader.
#[map]
static FREE_ROWS: Queue<u32> = Queue::with_max_entries(MAX_FLOWS, 0);

/// The process that listens on a port, or 0 if several do. Filled by the reader.
#[map]
pub static LISTENERS: HashMap<ListenerKeyRecord, u32> =
    HashMap::with_max_entries(MAX_LISTENERS, BPF_F_NO_PREALLOC);

/// See [`reader_state`]. Set by the reader.
#[map]
static READER_STATE: Array<u32> = Array::with_max_entries(reader_state::COUNT, 0);

/// Whether connections are watched.
#[inline(always)]
pub fn is_watching() -> bool {
    READER_STATE.get(reader_state::WATCHING).is_some_and(|watching| *watching != 0)
}

/// Whether the listeners have been listed, see [`rung_ebpf_common::listed`].
#[inline(always)]
pub fn listed() -> u32 {
    READER_STATE.get(reader_state::LISTED).copied().unwrap_or(0)
}

pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;
pub const IPPROTO_TCP: u16 = 6;

/// Whether what runs belongs to the process whose socket is meant: in a system call, and not in an interrupt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    Owner,
    Anybody,
}

/// The process that makes the current system call.
#[inline(always)]
pub fn current_process() -> u32 {
    unsafe { (bpf_get_current_pid_tgid() >> 32) as u32 }
}

/// Bytes of a `struct sock_common` up to the end of its addresses, on the kernels known.
const HEAD_BYTES: usize = 96;

/// The beginning of a socket, read by one call.
pub struct Head {
    sock: u64,
    words: [u64; HEAD_BYTES / 8],
}

impl Head {
    #[inline(always)]
    pub fn of(sock: u64) -> Head {
        Head { sock, words: read_at(sock, 0) }
    }

    /// A field of `struct sock_common`, wherever it lies.
    #[inline(always)]
    pub fn get<T: Copy>(&self, field: Field) -> T {
        let at = offset(field) as usize;
        if at <= HEAD_BYTES - size_of::<T>() {
            unsafe { (&raw const self.words).cast::<u8>().add(at).cast::<T>().read_unaligned() }
        } else {
            probe(self.sock, field)
        }
    }

    /// The inode number of its network namespace.
    #[inline(always)]
    pub fn net_namespace(&self) -> u32 {
        probe(self.get(Field::SockNet), Field::NetInum)
    }

    /// The remote address; IPv4 is mapped into IPv6.
    #[inline(always)]
    pub fn remote_address(&self) -> [u8; 16] {
        if self.get::<u16>(Field::SockFamily) != AF_INET {
            return self.get(Field::SockRemote6);
        }
        unsafe { core::mem::transmute(mapped(self.get(Field::SockRemote4))) }
    }

    /// The remote port.
    #[inline(always)]
    pub fn remote_port(&self) -> u32 {
        u16::from_be(self.get(Field::SockRemotePort)) as u32
    }

    /// The local port.
    #[inline(always)]
    pub fn local_port(&self) -> u32 {
        self.get::<u16>(Field::SockLocalPort) as u32
    }
}

/// An IPv4 address, as it lies in memory, mapped into IPv6 (RFC 4291, 2.5.5.2).
#[inline(always)]
pub fn mapped(address: u32) -> [u64; 2] {
    [0, 0xffff_0000 | (address as u64) << 32]
}

/// The row of a flow, begun if there is none yet; [`NO_ROW`] if there is no room.
#[inline(always)]
pub fn row(key: &FlowKeyRecord, caller: Caller) -> u32 {
    // Before anything is looked up: what is found after the reader took a row away is never hinted at.
    let epoch = READER_STATE.get(reader_state::EPOCH).copied().unwrap_or(0);
    let hint = ROW_HINTS.get_ptr_mut(key_hash(key));
    if let Some(hint) = hint {
        let hint = unsafe { hint.read_volatile() };
        if (hint >> 32) as u32 == epoch && flow(hint as u32).is_some_and(|flow| flow.is_of(key)) {
            return hint as u32;
        }
    }
    let row = find_row(key, caller);
    if let Some(hint) = hint
        && row != NO_ROW
    {
        unsafe { hint.write_volatile((epoch as u64) << 32 | row as u64) };
    }
    row
}

#[inline(always)]
fn words(key: &FlowKeyRecord) -> *const [u64; 4] {
    (&raw const *key).cast()
}

/// An index of a hint.
#[inline(always)]
fn key_hash(key: &FlowKeyRecord) -> u32 {
    let words = unsafe { *words(key) };
    let mixed = (words[0] ^ words[1].rotate_left(16) ^ words[2].rotate_left(32) ^ words[3])
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as u32 & (rung_ebpf_common::ROW_HINTS - 1)
}

#[inline(always)]
fn find_row(key: &FlowKeyRecord, caller: Caller) -> u32 {
    if let Some(row) = unsafe { FLOWS.get(key) } {
        return *row;
    }
    let Ok(Some(row)) = FREE_ROWS.pop() else {
        count(Counter::FlowsLost);
        return NO_ROW;
    };
    if FLOWS.insert(key, row, BPF_NOEXIST as u64).is_err() {
        // Another CPU was faster, or there is no memory.
        let _ = FREE_ROWS.push(row, 0);
        return match unsafe { FLOWS.get(key) } {
            Some(row) => *row,
            None => {
                count(Counter::FlowsLost);
                NO_ROW
            }
        };
    }
    if let Some(Flow(record)) = flow(row) {
        unsafe {
            (*record).tgid = key.tgid;
            (*record).key = *key;
        }
        if caller == Caller::Owner {
            let leader: u64 = probe(unsafe { bpf_get_current_task() }, Field::TaskGroupLeader);
            unsafe { (*record).comm = probe::<[u8; COMM_LEN]>(leader, Field::TaskComm) };
        }
    }
    row
}

/// The counts in a row.
#[inline(always)]
pub fn flow(row: u32) -> Option<Flow> {
    FLOW_ROWS.get_ptr_mut(row).map(Flow)
}

/// A row of the table of flows. Several CPUs may count in it at once.
#[derive(Clone, Copy)]
pub struct Flow(*mut FlowRecord);

impl Flow {
    #[inline(always)]
    pub fn add(self, what: FlowCount) {
        unsafe { increase(&raw mut (*self.0).counts[what as usize], 1u64) };
    }

    #[inline(always)]
    fn is_of(self, key: &FlowKeyRecord) -> bool {
        let (own, other) = unsafe { (*words(&(*self.0).key), *words(key)) };
        own[0] == other[0] && own[1] == other[1] && own[2] == other[2] && own[3] == other[3]
    }

    /// The process whose flow it is, or 0.
    #[inline(always)]
    pub fn process(self) -> u32 {
        unsafe { (*self.0).tgid }
    }

    /// Counts the sockets that count here: one more or, by -1, one less.
    #[inline(always)]
    pub fn hold(self, sockets: i32) {
        unsafe { increase(&raw mut (*self.0).sockets, sockets as u32) };
    }

    /// Counts the turns of a connection that are not counted yet.
    #[inline(always)]
    pub fn add_turns(self, record: &mut SocketRecord) {
        for (what, turns) in
            [(FlowCount::Requests, record.requests), (FlowCount::Responses, record.responses)]
        {
            if turns != 0 {
                unsafe { increase(&raw mut (*self.0).counts[what as usize], turns as u64) };
            }
        }
        (record.requests, record.responses) = (0, 0);
    }

    /// Counts an attempt. Of two at the same time one may stay unremembered; both are counted.
    #[inline(always)]
    pub fn begin(self, now_ns: u64) {
        unsafe {
            let attempts = (*self.0).counts[FlowCount::Attempts as usize] as usize;
            (*self.0).starts_ns[attempts & (FLOW_STARTS - 1)] = now_ns;
            if (*self.0).first_start_ns == 0 {
                (*self.0).first_start_ns = now_ns;
            }
        }
        self.add(FlowCount::Attempts);
    }

    /// Notes how long it took to connect.
    #[inline(always)]
    pub fn took(self, took_ns: u64) {
        let mut class = 0usize;
        let mut rest = took_ns / 1000;
        // Halving steps: the instruction set has no count of leading zeros.
        if rest >> 16 != 0 {
            rest >>= 16;
            class += 16;
        }
        if rest >> 8 != 0 {
            rest >>= 8;
            class += 8;
        }
        if rest >> 4 != 0 {
            rest >>= 4;
            class += 4;
        }
        if rest >> 2 != 0 {
            rest >>= 2;
            class += 2;
        }
        if rest >> 1 != 0 {
            class += 2;
        } else if rest != 0 {
            class += 1;
        }
        // The verifier has to see the bound where the compiler knows it already.
        let class = core::hint::black_box(class);
        let class = if class >= FLOW_LATENCIES { FLOW_LATENCIES - 1 } else { class };
        unsafe { increase((&raw mut (*self.0).latency).cast::<u32>().add(class), 1u32) };
    }
}
