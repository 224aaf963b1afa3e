//! # What
//! Connections to a peer come about and are cut off by it, again and again.
//!
//! # Signal
//! Connections of a process to one destination that ended by the peer's reset, or because the kernel gave them up,
//! counted as they happen.
//!
//! # Healthy twin
//! Health checks and clients that set SO_LINGER to 0: they close or reset by themselves, which counts on the other side
//! only. A peer that resets what is left of a connection after it has answered everything.
//!
//! # Thresholds
//! `flapping_resets` (5) within `flapping_window` (60 s), and `flapping_share` (half) of the connections that ended.
//!
//! # Source
//! RFC 9293, 3.5.2 (reset generation); socket(7), SO_LINGER.

use super::{Context, Detector, Draft, peer};
use crate::finding::{Evidence, Role};
use crate::mode::Mode;
use crate::observation::{Direction, FlowKey, Signal};
use crate::window::FlowHistory;

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::Flapping,
    needs: &[Signal::Tasks, Signal::ConnectEvents, Signal::ConnectionFates],
    helped_by: &[Signal::InetSockets, Signal::RequestTurns],
    needs_window: Some(|settings| settings.network.flapping_window),
    detect,
    blind_spot: None,
};

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let flows = context.window.network.flows.iter();
    flows
        .filter(|(key, _)| key.direction == Direction::Outbound)
        .filter_map(|(key, history)| draft(context, key, history))
        .collect()
}

fn draft(context: &Context<'_>, key: &FlowKey, history: &FlowHistory) -> Option<Draft> {
    let settings = &context.settings.network;
    let lately = || {
        let steps = history.steps.iter();
        steps.filter(|step| context.age(step.to_ns) < settings.flapping_window)
    };
    let cycles: u64 = lately().map(|step| step.reset).sum();
    let closed: u64 = lately().map(|step| step.closed).sum();
    let responses: u64 = lately().map(|step| step.responses).sum();
    let unanswered: u64 = lately().map(|step| step.unanswered).sum();
    let established: u64 = lately().map(|step| step.established).sum();
    let closed = closed.max(cycles);
    let did_their_work = unanswered == 0 && responses >= closed;
    if cycles < settings.flapping_resets
        || (cycles as f64) < settings.flapping_share * closed as f64
        // They come again: without new ones it is one event, as when a server is restarted.
        || established < settings.flapping_resets
        || did_their_work
    {
        return None;
    }
    let (pid, remote) = (key.pid, key.address);
    let comm = peer::comm(context, pid);
    let begin_ns = lately().map(|step| step.from_ns).min()?;
    let seconds = context.age(begin_ns).as_secs_f64();
    let listener = context.index.listener_for(key.net_ns, remote);
    let listeners = listener.map_or_else(Vec::new, |one| context.index.socket_processes(one.id));
    let (subject, summary) = match listeners.first() {
        Some(peer) => (
            *peer,
            format!(
                "{} ({peer}) accepts connections of {comm} ({pid}) at {remote} and cuts them off: {cycles} in {seconds:.0} s",
                context.comm(*peer)
            ),
        ),
        None => (
            pid,
            format!(
                "{remote} accepts connections of {comm} ({pid}) and cuts them off: {cycles} in {seconds:.0} s"
            ),
        ),
    };
    let mut draft = Draft::of_process(Mode::Flapping, subject, summary);
    draft.since_ns = Some(begin_ns);
    let source = "tcp tracepoints";
    draft.evidence = vec![
        Evidence::from_file("destination", remote.to_string(), "", source),
        Evidence::from_file("reset_by_peer", cycles, "connections", source),
        Evidence::from_file("ended", closed, "connections", source),
        Evidence::from_file("established", established, "connections", source),
    ];
    peer::add(&mut draft, Role::Peer, &[pid]);
    peer::add(&mut draft, Role::Listener, &listeners);
    draft.flow = Some((None, remote));
    Some(draft)
}
