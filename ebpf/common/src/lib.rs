//! Records and offsets shared by the BPF programs and the agent.
//!
//! Everything that crosses the border is `repr(C)`, made of fixed-size integers without padding, and its size is
//! asserted here, so that a change on one side alone does not compile.
#![no_std]

mod offsets;
mod record;

pub use offsets::{ABSENT, Field, KernelOffsets, Machine, Path};
pub use record::{
    COMM_LEN, Counter, EPOLL_STEPS, EpollBody, ExitRecord, FdHeader, FdKind, InetBody, PipeBody, TaskRecord,
    UNIX_NAME_LEN, USER_BYTES, UnixBody, fd_bits, task_bits,
};
