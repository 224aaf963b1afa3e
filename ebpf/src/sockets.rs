//! The table of open sockets, by the address of their `struct sock`. Later events run in whatever process is interrupted:
//! only here is their owner known.
//!
//! Every event of every connection looks here, so it is two arrays instead of a hash map of the kernel's: a socket lies in
//! one of two buckets, each a cache line of addresses, and its record is a cache line. Nothing is allocated or freed.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use rung_ebpf_common::{Counter, MAX_SOCKETS, SOCKET_BUCKETS, SOCKET_WAYS, SocketRecord};

use crate::event::count;

/// BPF_F_MMAPABLE (include/uapi/linux/bpf.h): the array begins with a page, and so its elements with a cache line.
pub const PAGE_ALIGNED: u32 = 1 << 10;

#[repr(C)]
struct Bucket {
    /// Addresses, 0 where there is room.
    socks: [u64; SOCKET_WAYS],
    /// Those who look for room here at the moment.
    claims: u64,
}

#[map]
static SOCKET_TABLE: Array<Bucket> = Array::with_max_entries(SOCKET_BUCKETS, PAGE_ALIGNED);

#[map]
static SOCKET_RECORDS: Array<SocketRecord> = Array::with_max_entries(MAX_SOCKETS, PAGE_ALIGNED);

/// The two buckets where a socket may lie. Sockets come from a slab, and differ in the middle of their addresses.
#[inline(always)]
fn places(sock: u64) -> [u32; 2] {
    // Fibonacci hashing: the upper bits of the product with 2^64 over the golden ratio.
    let hash = (sock >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mask = SOCKET_BUCKETS - 1;
    [(hash >> 50) as u32 & mask, (hash >> 36) as u32 & mask]
}

/// The bucket and the way of a socket, if it is known.
#[inline(always)]
fn place(sock: u64) -> Option<(*mut Bucket, usize, u32)> {
    for number in places(sock) {
        let bucket = SOCKET_TABLE.get_ptr_mut(number)?;
        for way in 0..SOCKET_WAYS {
            if unsafe { (*bucket).socks[way] } == sock {
                return Some((bucket, way, number));
            }
        }
    }
    None
}

#[inline(always)]
fn record(number: u32, way: usize) -> Option<*mut SocketRecord> {
    SOCKET_RECORDS.get_ptr_mut(number * SOCKET_WAYS as u32 + way as u32)
}

/// What is remembered of a socket.
#[inline(always)]
pub fn find(sock: u64) -> Option<*mut SocketRecord> {
    let (_, way, number) = place(sock)?;
    record(number, way)
}

/// Remembers a socket that is not known. Without room it is counted as lost.
#[inline(always)]
pub fn insert(sock: u64, new: &SocketRecord) -> Option<*mut SocketRecord> {
    for number in places(sock) {
        if let Some(record) = insert_at(number, sock, new) {
            return Some(record);
        }
    }
    count(Counter::FlowsLost);
    None
}

/// The same in one bucket. Who is not alone in looking for room there goes to the other bucket: of two that raise the
/// claims at least one sees both, in whatever order, and no instruction is needed that older kernels lack.
#[inline(always)]
fn insert_at(number: u32, sock: u64, new: &SocketRecord) -> Option<*mut SocketRecord> {
    let bucket = SOCKET_TABLE.get_ptr_mut(number)?;
    let claims = unsafe { &raw mut (*bucket).claims };
    unsafe { increase(claims, 1u64) };
    let mut inserted = None;
    if unsafe { claims.read_volatile() } == 1 {
        for way in 0..SOCKET_WAYS {
            let slot = unsafe { &raw mut (*bucket).socks[way] };
            if unsafe { slot.read_volatile() } == 0 {
                inserted = record(number, way);
                if let Some(record) = inserted {
                    unsafe {
                        *record = *new;
                        slot.write_volatile(sock);
                    }
                }
                break;
            }
        }
    }
    unsafe { increase(claims, u64::MAX) };
    inserted
}

/// Forgets a socket; the row where it counted.
#[inline(always)]
pub fn remove(sock: u64) -> Option<u32> {
    let (bucket, way, number) = place(sock)?;
    let row = record(number, way).map(|record| unsafe { (*record).row });
    unsafe { (&raw mut (*bucket).socks[way]).write_volatile(0) };
    row
}

/// Adds, whatever other CPUs do meanwhile. Relaxed, and the result unused: an instruction that every kernel has, whereas
/// the atomic types of `core` want more of a target than BPF offers.
#[inline(always)]
pub unsafe fn increase<T: Copy>(number: *mut T, by: T) {
    unsafe { atomic_xadd::<T, T, { AtomicOrdering::Relaxed }>(number, by) };
}
