//! The memory that comes with a thread's record: what the arguments of its system call point to.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_copy_from_user_task;
use rung_ebpf_common::{PIECE_BYTES, TaskRecord, task_bits};

use crate::kernel::machine;

/// A record, and the memory that follows it.
#[repr(C)]
pub struct TaskRow {
    pub record: TaskRecord,
    pub user: [u8; 2 * PIECE_BYTES],
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

/// Bytes of user memory read in one piece.
const PIECE: u32 = PIECE_BYTES as u32;

/// Reads the memory that a blocked call points to: futex word, poll set, address to connect to.
#[inline(always)]
pub fn read(row: &mut TaskRow, task: *mut c_void, session: u64) {
    let TaskRow { record, user, known } = row;
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
            piece(
                record,
                user,
                1,
                task,
                record.args[1] + PIECE as u64,
                if rest > PIECE { PIECE } else { rest },
            );
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
