//! Whose turn it is on a connection, told from its byte counters.
//!
//! Scope: pure, one connection at a time. The one who connected asks, the one who accepted answers.
//!
//! Degradation policy: as few turns are counted as there must have been. Without figures none are.

use rung_diagnosis::observation::{Direction, FlowObservation, InetObservation, TcpFigures};

use super::state::{CLOSE_WAIT, CLOSING, FIN_WAIT1, FIN_WAIT2, LAST_ACK};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing was exchanged yet.
    Idle,
    /// The one who connected was the last to send.
    Asked,
    /// The one who accepted was.
    Answered,
}

/// What a connection had carried when it was last looked at, and who was the last to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    written: u64,
    received: u64,
    turn: Turn,
}

impl Turns {
    /// Of a connection that has just been made. The acknowledged SYN is one byte of these counters.
    pub(super) fn new() -> Self {
        Turns {
            written: 1,
            received: 0,
            turn: Turn::Idle,
        }
    }

    /// Of a connection that has been there for some time.
    pub(super) fn of_old(socket: &InetObservation, inbound: bool) -> Self {
        exchanged(socket).map_or(Turns::new(), |(written, received)| Turns {
            written,
            received,
            turn: turn_of(socket, inbound),
        })
    }

    /// Counts the turns since the last look; returns whether anything was exchanged.
    pub(super) fn count(&mut self, socket: &InetObservation, flow: &mut FlowObservation) -> bool {
        let (Some((written, read)), Some(figures)) = (exchanged(socket), socket.figures) else {
            return false;
        };
        let inbound = flow.key.direction == Direction::Inbound;
        let (sent, received) = (written > self.written, read > self.received);
        let (asked, answered) = if inbound {
            (received, sent)
        } else {
            (sent, received)
        };
        let was_asked = self.turn == Turn::Asked;
        let (requests, responses, turn) = match (asked, answered) {
            (false, false) => (false, false, self.turn),
            (true, false) => (!was_asked, false, Turn::Asked),
            (false, true) => (false, was_asked, Turn::Answered),
            (true, true) if answered_last(figures, inbound) => (!was_asked, true, Turn::Answered),
            (true, true) => (true, was_asked, Turn::Asked),
        };
        flow.requests += u64::from(requests);
        flow.responses += u64::from(responses);
        *self = Turns {
            // A counter that was read amid a change never goes back.
            written: written.max(self.written),
            received: read.max(self.received),
            turn,
        };
        sent || received
    }
}

/// Bytes written and received, without the one byte that a FIN counts for.
fn exchanged(socket: &InetObservation) -> Option<(u64, u64)> {
    let figures = socket.figures?;
    let sent_fin = matches!(socket.state, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING);
    let received_fin = matches!(socket.state, CLOSE_WAIT | LAST_ACK | CLOSING);
    let written = figures.bytes_acked.saturating_add(socket.send_queue.into());
    Some((
        written.saturating_sub(sent_fin.into()),
        figures.bytes_received.saturating_sub(received_fin.into()),
    ))
}

/// Whose turn it is on a connection that was there before the first picture.
fn turn_of(socket: &InetObservation, inbound: bool) -> Turn {
    let (Some((written, received)), Some(figures)) = (exchanged(socket), socket.figures) else {
        return Turn::Idle;
    };
    let received_last = match (written > 1, received > 0) {
        (false, false) => return Turn::Idle,
        (true, false) => false,
        (false, true) => true,
        (true, true) => answered_last(figures, inbound) != inbound,
    };
    if received_last == inbound {
        Turn::Asked
    } else {
        Turn::Answered
    }
}

/// Whether the one who accepted was the last to send. Within one tick of the clock it is taken to have been: then nothing
/// is claimed to be outstanding.
fn answered_last(figures: TcpFigures, inbound: bool) -> bool {
    if inbound {
        figures.last_sent_ms <= figures.last_received_ms
    } else {
        figures.last_received_ms <= figures.last_sent_ms
    }
}
