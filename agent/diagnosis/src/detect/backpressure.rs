//! # What
//! A bounded queue is full: somebody does not accept connections, or does not read what it is sent.
//!
//! # Signal
//! *Listener*: more connections wait to be accepted than its limit (Recv-Q above Send-Q), in every picture, or while none
//! of its threads has run; or connections were turned away (ListenOverflows) while its queue was seen full. *Connection*:
//! bytes wait to be sent and nothing is in flight, so that only the reader's window holds them back; its acknowledgements
//! keep coming. Or, where the sender is beyond this host, a receive queue stands full and nothing is taken out. Who reads
//! or accepts is the culprit, if that one is on this host; else the end of the connection that is.
//!
//! # Healthy twin
//! Windows that close for a moment; a slow reader that does read; a reader that waits for a person at a terminal; a
//! connection whose peer does not acknowledge (that is `black-hole`).
//!
//! # Thresholds
//! `backpressure` (3 s); `overflow_rate` (1/s) and `overflow_rate_critical` (5/s); `unread_bytes` (64 KiB) where the window
//! cannot be seen.
//!
//! # Source
//! listen(2); tcp(7); net/ipv4/tcp_output.c (tcp_snd_wnd_test, tcp_send_probe0); net/ipv4/tcp_ipv4.c (ListenOverflows).

mod connection;
mod listener;

use super::{Context, Detector, Draft};
use crate::mode::Mode;
use crate::observation::{Signal, TaskState};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Backpressure,
    needs: &[Signal::Descriptors, Signal::InetSockets],
    helped_by: &[
        Signal::TcpFigures,
        Signal::NetworkCounters,
        Signal::Tasks,
        Signal::SystemCalls,
        Signal::OffCpuAge,
    ],
    needs_window: Some(|settings| settings.backpressure),
    detect,
    blind_spot: None,
};

/// Other parties listed.
const LISTED: usize = 32;

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let mut drafts = listener::detect(context);
    drafts.extend(connection::detect(context));
    drafts
}

/// The thread whose wait says why nobody accepts or reads: the only one of the process.
fn chain_from(context: &Context<'_>, pid: u32) -> Option<u32> {
    match context.index.threads(pid) {
        [only] => Some(only.tid),
        _ => None,
    }
}

/// Since when nobody can have accepted or read: since the last thread of the holders left the CPU.
fn unmoved_since(context: &Context<'_>, holders: &[u32]) -> Option<u64> {
    let tasks = holders.iter().flat_map(|pid| context.index.threads(*pid));
    let living = tasks.filter(|task| !matches!(task.state, TaskState::Zombie | TaskState::Dead));
    let sinces = living.map(|task| context.graph.wait(task.tid).and_then(|wait| wait.since_ns));
    sinces.collect::<Option<Vec<u64>>>()?.into_iter().max()
}
