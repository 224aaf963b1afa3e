//! Reading kernel memory by offsets that the loader resolved, and the context of iterator programs.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_raw_tracepoint_args;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_probe_read_kernel, bpf_seq_write};
use aya_ebpf::programs::RawTracePointContext;
use rung_ebpf_common::{ABSENT, Field, KernelOffsets, Machine};

/// Set by the loader.
#[unsafe(no_mangle)]
static OFFSETS: KernelOffsets = KernelOffsets::UNRESOLVED;

/// Set by the loader.
#[unsafe(no_mangle)]
static MACHINE: Machine = Machine {
    call_number: ABSENT,
    call_number_size: 0,
    arguments: [0; 6],
    compat_word: ABSENT,
    compat_mask: 0,
    futex: -1,
    poll: -1,
    ppoll: -1,
    select: -1,
    pselect6: -1,
    connect: -1,
    clone3: -1,
    epoll_wait: -1,
    epoll_pwait: -1,
    epoll_pwait2: -1,
    reader_nested: 0,
    upid_size: 16,
    read_memory: 0,
    direct: 0,
};

/// `struct bpf_iter_meta` (include/linux/bpf.h); part of the kernel's interface to iterator programs.
#[repr(C)]
pub struct IterMeta {
    pub seq: *mut c_void,
    pub session_id: u64,
    pub seq_num: u64,
}

/// The offset of a field, or [`ABSENT`]. The verifier knows the value, and drops the branches of absent fields.
#[inline(always)]
pub fn offset(field: Field) -> u32 {
    unsafe { core::ptr::read_volatile(&raw const OFFSETS.0[field as usize]) }
}

/// A word of [`Machine`].
macro_rules! machine {
    ($($member:tt)+) => {
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::machine_ref().$($member)+) }
    };
}
pub(crate) use machine;

#[inline(always)]
pub fn machine_ref() -> &'static Machine {
    unsafe { &*(&raw const MACHINE) }
}

/// Reads a value of kernel memory; zeros if the address is bad.
#[inline(always)]
pub fn read_at<T: Copy>(base: u64, offset: u32) -> T {
    // The helper zeroes what it could not read.
    let mut value = MaybeUninit::<T>::uninit();
    unsafe {
        bpf_probe_read_kernel(
            value.as_mut_ptr().cast(),
            size_of::<T>() as u32,
            base.wrapping_add(offset as u64) as *const c_void,
        );
        value.assume_init()
    }
}

/// A scalar or pointer that one instruction loads.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}
impl Word for i32 {}
impl Word for u64 {}
impl Word for i64 {}

/// Reads a field of a structure that the verifier knows by its type: the iterator's task or file, or what a typed
/// pointer in such a structure leads to. An instruction then does what takes a helper a call; the kernel catches faults
/// and reads zeros. Loaders fall back to the helper where a verifier refuses (see [`machine!`]`(direct)`).
#[inline(always)]
pub fn read<T: Word>(base: u64, field: Field) -> T {
    read_plus(base, field, 0)
}

/// Reads a word so many bytes after the beginning of a field.
#[inline(always)]
pub fn read_plus<T: Word>(base: u64, field: Field, bytes: u32) -> T {
    let offset = offset(field);
    if !field.path().required && offset == ABSENT {
        return unsafe { MaybeUninit::<T>::zeroed().assume_init() };
    }
    load(base, offset + bytes)
}

/// The same by an offset of [`Machine`].
#[inline(always)]
pub fn load<T: Word>(base: u64, offset: u32) -> T {
    if machine!(direct) != 0 {
        unsafe { core::ptr::read_volatile(base.wrapping_add(offset as u64) as *const T) }
    } else {
        read_at(base, offset)
    }
}

/// Reads a field of anything, by the helper; zeros if this kernel lacks it.
#[inline(always)]
pub fn probe<T: Copy>(base: u64, field: Field) -> T {
    let offset = offset(field);
    if !field.path().required && offset == ABSENT {
        return unsafe { MaybeUninit::<T>::zeroed().assume_init() };
    }
    read_at(base, offset)
}

/// Reads a pointer field and follows it to another field; zeros if the pointer is null.
#[inline(always)]
pub fn read_via<T: Word>(base: u64, pointer: Field, field: Field) -> T {
    let target: u64 = read(base, pointer);
    if target == 0 {
        return unsafe { MaybeUninit::<T>::zeroed().assume_init() };
    }
    read(target, field)
}

/// Appends a record to the iterator's output. On overflow the kernel rolls the object back and comes again.
#[inline(always)]
pub fn write<T>(meta: *const IterMeta, record: &T) {
    unsafe {
        bpf_seq_write((*meta).seq.cast(), (&raw const *record).cast(), size_of::<T>() as u32);
    }
}

/// Depth of the PID namespace of the process that reads the iterator: its ids are the ones to report.
#[inline(always)]
pub fn reader_level() -> u32 {
    if machine!(reader_nested) == 0 {
        return 0;
    }
    let pid: u64 = probe(unsafe { bpf_get_current_task() }, Field::TaskThreadPid);
    probe(pid, Field::PidLevel)
}

/// The `struct upid` of a `struct pid` at a level. Namespaces nest at most 32 deep (pid_namespaces(7)).
#[inline(always)]
pub fn upid_at(pid: u64, level: u32) -> u64 {
    pid + offset(Field::PidNumbers) as u64 + (level & 0x3f) as u64 * machine!(upid_size) as u64
}

/// An argument of a raw tracepoint.
#[inline(always)]
pub fn argument(context: &RawTracePointContext, index: usize) -> u64 {
    let args: *const bpf_raw_tracepoint_args = aya_ebpf::EbpfContext::as_ptr(context).cast();
    unsafe { *(args as *const u64).add(index) }
}
