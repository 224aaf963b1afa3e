//! Facts of the running kernel that the BPF programs need: offsets of structure members, registers, call numbers.

use rung_ebpf_common::{ABSENT, Field, KernelOffsets, Machine};

use super::btf::KernelTypes;

/// Structures that are looked at, besides those of [`Field`].
const REGISTERS: &str = "pt_regs";

/// Names of the structures to index.
pub(super) fn structures() -> Vec<&'static str> {
    let mut names: Vec<&str> = Field::ALL.iter().map(|field| field.path().structure).collect();
    names.push(REGISTERS);
    names.sort_unstable();
    names.dedup();
    names
}

/// Resolves every field. Also returns the names of those that are absent, the required ones first.
pub(super) fn offsets(types: &KernelTypes<'_>) -> (KernelOffsets, Vec<String>, bool) {
    let mut offsets = KernelOffsets::UNRESOLVED;
    let (mut required, mut optional) = (Vec::new(), Vec::new());
    for (slot, field) in offsets.0.iter_mut().zip(Field::ALL) {
        let path = field.path();
        let found = types
            .offset_of(path.structure, path.member)
            .or_else(|| types.offset_of(path.structure, path.formerly));
        match found {
            Some(offset) => *slot = offset,
            None => {
                let name = format!("{}.{}", path.structure, path.member);
                if path.required {
                    required.push(name)
                } else {
                    optional.push(name)
                }
            }
        }
    }
    let usable = required.is_empty();
    required.extend(optional);
    (offsets, required, usable)
}

/// Registers and call numbers of this architecture; `None` of the registers if BTF lacks them.
pub(super) fn machine(types: &KernelTypes<'_>, reader_nested: bool) -> Machine {
    let register = |name: &str| types.offset_of(REGISTERS, name);
    #[cfg(target_arch = "x86_64")]
    let (number, number_size, arguments) = (
        register("orig_ax"),
        8,
        [
            register("di"),
            register("si"),
            register("dx"),
            register("r10"),
            register("r8"),
            register("r9"),
        ],
    );
    #[cfg(target_arch = "aarch64")]
    let (number, number_size, arguments) = {
        // The first argument's register is overwritten by the result; its value on entry is kept apart.
        let nth = |n: u32| register("regs").map(|offset| offset + n * 8);
        (
            register("syscallno"),
            4,
            [register("orig_x0"), nth(1), nth(2), nth(3), nth(4), nth(5)],
        )
    };
    #[cfg(target_arch = "x86_64")]
    let (compat_word, compat_mask) = (types.offset_of("task_struct", "thread_info.status"), 2); // TS_COMPAT
    #[cfg(target_arch = "aarch64")]
    let (compat_word, compat_mask) = (types.offset_of("task_struct", "thread_info.flags"), 1 << 22); // TIF_32BIT
    let complete = arguments.iter().all(Option::is_some);
    #[cfg(target_arch = "x86_64")]
    let (poll, select, epoll_wait) = (
        libc::SYS_poll as i32,
        libc::SYS_select as i32,
        libc::SYS_epoll_wait as i32,
    );
    #[cfg(target_arch = "aarch64")]
    let (poll, select, epoll_wait) = (-1, -1, -1);
    Machine {
        call_number: number.filter(|_| complete).unwrap_or(ABSENT),
        call_number_size: number_size,
        arguments: arguments.map(|offset| offset.unwrap_or(0)),
        compat_word: compat_word.unwrap_or(ABSENT),
        compat_mask,
        futex: libc::SYS_futex as i32,
        poll,
        ppoll: libc::SYS_ppoll as i32,
        select,
        pselect6: libc::SYS_pselect6 as i32,
        connect: libc::SYS_connect as i32,
        clone3: libc::SYS_clone3 as i32,
        epoll_wait,
        epoll_pwait: libc::SYS_epoll_pwait as i32,
        epoll_pwait2: libc::SYS_epoll_pwait2 as i32,
        reader_nested: u32::from(reader_nested),
        upid_size: types.size_of("upid").unwrap_or(16),
        read_memory: 1,
        direct: 1,
    }
}
