//! The kernel side of rung: two iterators that take the picture, three tracepoints that count what a picture misses.
//!
//! No hook here is on anybody's hot path, and no program depends on the name of a kernel function or on an offset fixed
//! at compile time.
#![no_std]
#![no_main]

mod descriptor;
mod event;
mod kernel;
mod task;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
