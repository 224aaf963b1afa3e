//! Epoll instances: which they are, and what they watch.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use rung_ebpf_common::{ABSENT, EpollBody, Field};

use crate::kernel::{offset, probe};

/// Epoll instances have no inode of their own, and are told by the name of their dentry.
#[inline(always)]
pub fn is_epoll(dentry: u64) -> bool {
    let name: u64 = probe(dentry, Field::DentryName);
    let mut start = [0u8; 16];
    let length = unsafe { bpf_probe_read_kernel_str(start.as_mut_ptr().cast(), 16, name as *const c_void) };
    length >= 11 && start[..11] == *b"[eventpoll]"
}

/// Walks the red-black tree of an epoll instance (fs/eventpoll.c) without a stack: down to the left, then right,
/// then up by the parent pointers. Nobody holds the tree still; the walk is bounded, and bad pointers read as zero.
/// Each step has a slot of its own, used or not: so the verifier need not tell apart the ways to reach a step.
#[inline(always)]
pub fn watches(body: &mut EpollBody, eventpoll: u64) {
    let known = offset(Field::EventpollRoot) != ABSENT
        && offset(Field::EpitemNode) != ABSENT
        && offset(Field::EpitemFd) != ABSENT;
    let mut node: u64 = if known { probe(eventpoll, Field::EventpollRoot) } else { 0 };
    let mut from = 0u64;
    for slot in &mut body.steps {
        *slot = watch_of(node, from);
        let next = next_node(node, from);
        from = node;
        node = next;
    }
    body.more = (node != 0 || !known) as u64;
}

/// The watch that a node stands for, if it is met for the first time: coming down from its parent. A function of its
/// own, so that the verifier checks it once instead of once a step; likewise the next.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn watch_of(node: u64, from: u64) -> u64 {
    if node == 0 || from != probe::<u64>(node, Field::RbParentColor) & !3 {
        return 0;
    }
    let item = node.wrapping_sub(offset(Field::EpitemNode) as u64);
    EpollBody::pack(probe(item, Field::EpitemFd), probe(item, Field::EpitemEvents))
}

/// The node that comes after `node`, reached from `from`; 0 after the last.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn next_node(node: u64, from: u64) -> u64 {
    let parent = probe::<u64>(node, Field::RbParentColor) & !3;
    let left: u64 = probe(node, Field::RbLeft);
    let right: u64 = probe(node, Field::RbRight);
    if from == parent && left != 0 {
        left
    } else if (from == parent || from == left) && right != 0 {
        right
    } else {
        parent
    }
}
