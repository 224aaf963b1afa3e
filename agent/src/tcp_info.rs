//! `struct tcp_info` (include/uapi/linux/tcp.h), as sock_diag gives it.
//!
//! Scope: fields by offset; the structure only ever grew at its end, so one table serves every kernel.
//!
//! Degradation policy: figures of a kernel before 4.10, which lacks the last of the fields that cannot do without a
//! value, are left out as a whole, and so are those of listeners, of which the structure says other things. The window
//! of the peer, which came with 5.4, is then `u32::MAX`: it must not be taken for closed. Since when the oldest
//! segment has been sent again is not in the structure; it is told from the retransmission timer.

use std::time::Duration;

use rung_diagnosis::observation::TcpFigures;

/// States of include/net/tcp_states.h in which a retransmission timer runs for data or a SYN of this side.
const TCP_SYN_SENT: u8 = 2;
pub(crate) const TCP_LISTEN: u8 = 10;

/// Offsets of the fields.
mod offset {
    pub(super) const STATE: usize = 0;
    pub(super) const RETRANSMITS: usize = 2;
    pub(super) const PROBES: usize = 3;
    pub(super) const BACKOFF: usize = 4;
    pub(super) const RTO: usize = 8;
    pub(super) const UNACKED: usize = 24;
    pub(super) const LAST_DATA_SENT: usize = 44;
    pub(super) const LAST_DATA_RECV: usize = 52;
    pub(super) const LAST_ACK_RECV: usize = 56;
    pub(super) const RTT: usize = 68;
    pub(super) const TOTAL_RETRANS: usize = 100;
    pub(super) const BYTES_ACKED: usize = 120;
    pub(super) const BYTES_RECEIVED: usize = 128;
    pub(super) const SEGS_OUT: usize = 136;
    pub(super) const NOTSENT_BYTES: usize = 144;
    pub(super) const MIN_RTT: usize = 148;
    pub(super) const RWND_LIMITED: usize = 176;
    pub(super) const SNDBUF_LIMITED: usize = 184;
    pub(super) const SND_WND: usize = 228;
}

/// The figures in the bytes of a `struct tcp_info`; `None` for a listener, or if the kernel's structure is too short.
/// `next_retransmit` is the time until the retransmission timer fires, if it runs.
pub(crate) fn figures(info: &[u8], next_retransmit: Option<Duration>) -> Option<TcpFigures> {
    let byte = |at: usize| info.get(at).copied();
    let word = |at: usize| {
        info.get(at..)?
            .first_chunk::<4>()
            .map(|bytes| u32::from_ne_bytes(*bytes))
    };
    let long = |at: usize| {
        info.get(at..)?
            .first_chunk::<8>()
            .map(|bytes| u64::from_ne_bytes(*bytes))
    };
    let state = byte(offset::STATE)?;
    if state == TCP_LISTEN {
        return None;
    }
    let figures = TcpFigures {
        srtt_us: word(offset::RTT)?,
        min_rtt_us: word(offset::MIN_RTT)?,
        rto_us: word(offset::RTO)?,
        backoff: byte(offset::BACKOFF)?,
        retransmits: byte(offset::RETRANSMITS)?,
        segments_out: word(offset::SEGS_OUT)?,
        retransmitted: word(offset::TOTAL_RETRANS)?,
        packets_out: word(offset::UNACKED)?,
        send_window: word(offset::SND_WND).unwrap_or(u32::MAX),
        last_sent_ms: word(offset::LAST_DATA_SENT)?,
        last_received_ms: word(offset::LAST_DATA_RECV)?,
        last_ack_ms: word(offset::LAST_ACK_RECV)?,
        bytes_acked: long(offset::BYTES_ACKED)?,
        bytes_received: long(offset::BYTES_RECEIVED)?,
        receive_window_limited_us: long(offset::RWND_LIMITED)?,
        send_buffer_limited_us: long(offset::SNDBUF_LIMITED)?,
        probes: byte(offset::PROBES)?,
        not_sent: word(offset::NOTSENT_BYTES)?,
        unanswered_ms: None,
    };
    let unanswered_ms = next_retransmit.and_then(|left| unanswered_ms(&figures, state, left));
    Some(TcpFigures {
        unanswered_ms,
        ..figures
    })
}

/// For how long the oldest segment has been sent again, from the timer.
///
/// The timeout begins at some value and doubles with each step of back-off, but a SYN is first sent again
/// `tcp_syn_linear_timeouts` times without a step (tcp_retransmit_timer, net/ipv4/tcp_timer.c). With n
/// retransmissions of which b were steps the timeouts before the running one add up to (n - b - 1 + 2^b) times the
/// first. For data the time counts from the first retransmission, for a SYN from the SYN itself, as `retrans_stamp`
/// does.
fn unanswered_ms(figures: &TcpFigures, state: u8, left: Duration) -> Option<u32> {
    let (retransmits, backoff) = (u64::from(figures.retransmits), u64::from(figures.backoff));
    let syn = state == TCP_SYN_SENT;
    // Beyond 16 doublings the timeout has long been at its limit, and more steps than retransmissions are no account of
    // this segment.
    if (retransmits == 0 && !syn) || backoff > retransmits || backoff > 16 {
        return None;
    }
    let timeout_us = u64::from(figures.rto_us);
    let first_us = timeout_us >> backoff;
    let mut sum_us = first_us * (retransmits - backoff + (1 << backoff)).saturating_sub(1);
    if !syn {
        sum_us = sum_us.saturating_sub(first_us);
    }
    let left_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX);
    let running_us = timeout_us.saturating_sub(left_us);
    u32::try_from((sum_us + running_us) / 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure in which byte n is n, of 5.4.
    fn counted() -> Vec<u8> {
        (0..232).map(|at| at as u8).collect()
    }

    #[test]
    fn fields_are_where_the_header_says() {
        let info = counted();
        let seen = figures(&info, None).unwrap();
        let word = |at: u8| u32::from_ne_bytes([at, at + 1, at + 2, at + 3]);
        let long = |at: u8| u64::from_ne_bytes(std::array::from_fn(|index| at + index as u8));
        assert_eq!((seen.retransmits, seen.probes, seen.backoff), (2, 3, 4));
        assert_eq!(
            (seen.rto_us, seen.packets_out, seen.srtt_us),
            (word(8), word(24), word(68))
        );
        assert_eq!(
            (seen.last_sent_ms, seen.last_received_ms, seen.last_ack_ms),
            (word(44), word(52), word(56))
        );
        assert_eq!((seen.retransmitted, seen.segments_out), (word(100), word(136)));
        assert_eq!((seen.bytes_acked, seen.bytes_received), (long(120), long(128)));
        assert_eq!(
            (seen.not_sent, seen.min_rtt_us, seen.send_window),
            (word(144), word(148), word(228))
        );
        assert_eq!(
            (seen.receive_window_limited_us, seen.send_buffer_limited_us),
            (long(176), long(184))
        );
        assert_eq!(seen.unanswered_ms, None);
    }

    #[test]
    fn a_shorter_structure_gives_less_and_never_a_closed_window() {
        let info = counted();
        for length in 0..=info.len() + 8 {
            let mut info = info.clone();
            info.resize(length, 0);
            match figures(&info, Some(Duration::ZERO)) {
                Some(seen) => {
                    assert!(length >= 192);
                    assert_eq!(seen.send_window == u32::MAX, length < 232, "{length}");
                }
                None => assert!(length < 192, "{length}"),
            }
        }
    }

    #[test]
    fn a_listener_has_no_figures() {
        let mut info = counted();
        info[0] = TCP_LISTEN;
        assert_eq!(figures(&info, None), None);
    }

    fn timer(state: u8, retransmits: u8, backoff: u8, rto_ms: u32, left_ms: u64) -> Option<u32> {
        let figures = TcpFigures {
            retransmits,
            backoff,
            rto_us: rto_ms * 1000,
            ..TcpFigures::default()
        };
        unanswered_ms(&figures, state, Duration::from_millis(left_ms))
    }

    #[test]
    fn the_timer_tells_since_when_a_syn_has_been_out() {
        assert_eq!(timer(TCP_SYN_SENT, 0, 0, 1000, 700), Some(300));
        // Without linear timeouts SYNs go out after 1, 3, 7 s; with four of them after 1, 2, 3, 4, 5, 7, 11 s.
        assert_eq!(timer(TCP_SYN_SENT, 2, 2, 4000, 3900), Some(3100));
        assert_eq!(timer(TCP_SYN_SENT, 3, 3, 8000, 8000), Some(7000));
        assert_eq!(timer(TCP_SYN_SENT, 4, 0, 1000, 500), Some(4500));
        assert_eq!(timer(TCP_SYN_SENT, 5, 1, 2000, 2000), Some(5000));
        assert_eq!(timer(TCP_SYN_SENT, 7, 3, 8000, 8000), Some(11_000));
    }

    #[test]
    fn and_since_when_data_has_been_sent_again() {
        assert_eq!(timer(1, 0, 0, 200, 100), None);
        // Sent again after 200 ms, and after 600, 1400.
        assert_eq!(timer(1, 1, 1, 400, 400), Some(0));
        assert_eq!(timer(1, 3, 3, 1600, 1500), Some(1300));
        assert_eq!(timer(1, 2, 3, 1600, 1500), None);
        assert_eq!(timer(1, 255, 255, u32::MAX / 1000, 0), None);
    }
}
