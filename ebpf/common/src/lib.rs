//! Records and offsets shared by the BPF programs and the agent.
//!
//! Everything that crosses the border is `repr(C)`, made of fixed-size integers without padding, and its size is
//! asserted here, so that a change on one side alone does not compile.
#![no_std]

mod flow;
mod offsets;
mod record;

pub use flow::{
    FLOW_LATENCIES, FLOW_STARTS, FlowCount, FlowKeyRecord, FlowRecord, INBOUND, ListenerKeyRecord, MAX_FLOWS,
    MAX_LISTENERS, MAX_SOCKETS, MAX_TOLD_SOCKETS, NO_ROW, OUTBOUND, ROW_HINTS, SOCKET_BUCKETS, SOCKET_WAYS,
    SocketRecord, ToldSocket, listed, reader_state, socket_bits, turn,
};
pub use offsets::{ABSENT, Field, KernelOffsets, Machine, Path};
pub use record::{
    COMM_LEN, Counter, EPOLL_STEPS, EpollBody, ExitRecord, FdHeader, FdKind, InetBody, PIECE_BYTES, PipeBody,
    SMALL_TABLE, TASK_KIND, TaskRecord, UNIX_NAME_LEN, UnixBody, fd_bits, task_bits,
};
