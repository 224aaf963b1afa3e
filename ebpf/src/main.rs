//! The kernel side of rung: two iterators that take the picture, and tracepoints that count what a picture misses.
//!
//! The tracepoints are attached only while a window runs. Those of processes are on nobody's hot path; those of TCP are
//! counted in nanoseconds a connection. No program depends on the name of a kernel function or on an offset fixed
//! at compile time.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features)]

mod descriptor;
mod epoll;
mod event;
mod flow;
mod kernel;
mod memory;
mod reach;
mod socket;
mod sockets;
mod task;
mod tcp;
mod turns;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
