//! Flows as the kernel's table holds them, and what was added to them since they were last read. Pure: bytes in,
//! observations out.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rung_diagnosis::observation::{
    Comm, Direction, FlowKey, FlowObservation, LATENCY_CLASSES, RECENT_STARTS,
};
use rung_ebpf_common::{
    FLOW_LATENCIES, FLOW_STARTS, FlowCount, FlowKeyRecord, FlowRecord, INBOUND, MAX_FLOWS, OUTBOUND,
};
use rustc_hash::FxHashMap;
use zerocopy::FromBytes;

const _: () = assert!(FLOW_LATENCIES == LATENCY_CLASSES && FLOW_STARTS == RECENT_STARTS);

/// Bytes of a key of the map,
pub(super) const KEY_LEN: usize = size_of::<FlowKeyRecord>();
/// and of a value.
pub(super) const ROW_LEN: usize = size_of::<FlowRecord>();

/// A row in which nothing was counted for so long, and in which no open socket counts, is given up: a flow that wakes
/// again gets a new one.
const IDLE_NS: u64 = 60_000_000_000;
/// The same when the table is fuller than [`CROWDED`].
const IDLE_CROWDED_NS: u64 = 2_000_000_000;
const CROWDED: usize = MAX_FLOWS as usize / 2;

/// A row of the table as it was read: its number, the flow's key, the counts.
pub(super) type Row = (u32, [u8; KEY_LEN], [u8; ROW_LEN]);

/// What was read of each row so far, by its number.
#[derive(Default)]
pub(super) struct FlowTable {
    known: FxHashMap<u32, Known>,
    reads: u64,
}

struct Known {
    key: FlowKeyRecord,
    record: FlowRecord,
    /// When something was last found to have been counted.
    changed_ns: u64,
    /// The number of the read in which it was last met.
    read: u64,
}

/// What one read of the table came to.
#[derive(Default)]
pub(super) struct Read {
    /// What was added.
    pub(super) flows: Vec<FlowObservation>,
    /// Rows to be given up, with the keys that lead to them.
    pub(super) idle: Vec<(u32, [u8; KEY_LEN])>,
    /// Rows that make no sense.
    pub(super) damaged: u64,
}

impl FlowTable {
    /// Takes the rows in use; `now_ns` is `CLOCK_MONOTONIC`.
    pub(super) fn update(&mut self, rows: impl Iterator<Item = Row>, now_ns: u64) -> Read {
        self.reads += 1;
        let patience_ns = if self.known.len() > CROWDED {
            IDLE_CROWDED_NS
        } else {
            IDLE_NS
        };
        let mut read = Read::default();
        for (number, bytes, row) in rows {
            let decoded = (
                FlowKeyRecord::read_from_bytes(&bytes),
                FlowRecord::read_from_bytes(&row),
            );
            let (Ok(raw), Ok(record)) = decoded else {
                read.damaged += 1;
                continue;
            };
            let Some(key) = flow_key(&raw) else {
                read.damaged += 1;
                continue;
            };
            let known = self.known.get(&number).filter(|known| known.key == raw);
            if known.is_some_and(|known| known.read == self.reads) {
                // A map that changes while it is walked through shows an entry twice.
                continue;
            }
            let changed = known.is_none_or(|known| known.record.counts != record.counts);
            if changed {
                read.flows
                    .push(difference(key, known.map(|known| &known.record), &record));
            }
            let changed_ns = match known {
                Some(known) if !changed => known.changed_ns,
                _ => now_ns,
            };
            if now_ns.saturating_sub(changed_ns) >= patience_ns && record.sockets == 0 {
                read.idle.push((number, bytes));
            }
            let reads = self.reads;
            self.known.insert(
                number,
                Known {
                    key: raw,
                    record,
                    changed_ns,
                    read: reads,
                },
            );
        }
        read
    }

    /// Whether nothing was counted in a row since it was last taken, and no socket counts there.
    pub(super) fn rests(&self, row: u32, bytes: &[u8; ROW_LEN]) -> bool {
        FlowRecord::read_from_bytes(bytes).is_ok_and(|now| {
            now.sockets == 0
                && self
                    .known
                    .get(&row)
                    .is_some_and(|known| known.record.counts == now.counts)
        })
    }

    /// A row was cleared: if it comes again, it begins from zero.
    pub(super) fn forget(&mut self, row: u32) {
        self.known.remove(&row);
    }

    /// How many rows are in use.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// IPv4 addresses mapped into IPv6 come out as IPv4, as those of sockets do.
fn flow_key(raw: &FlowKeyRecord) -> Option<FlowKey> {
    let port = u16::try_from(raw.port).ok()?;
    let (direction, address) = match raw.direction {
        OUTBOUND => {
            let address = Ipv6Addr::from(raw.address).to_canonical();
            (Direction::Outbound, SocketAddr::from((address, port)))
        }
        INBOUND => (
            Direction::Inbound,
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        ),
        _ => return None,
    };
    Some(FlowKey {
        pid: raw.tgid,
        direction,
        net_ns: raw.net_ns,
        address,
    })
}

fn difference(key: FlowKey, before: Option<&FlowRecord>, now: &FlowRecord) -> FlowObservation {
    let since = |what: FlowCount| {
        let counted = |record: &FlowRecord| record.counts.get(what as usize).copied().unwrap_or_default();
        counted(now).saturating_sub(before.map_or(0, counted))
    };
    let mut flow = FlowObservation::new(key);
    flow.comm = Comm::from_bytes(&now.comm);
    for what in FlowCount::ALL {
        *counter(&mut flow, *what) = since(*what);
    }
    flow.connect_latency = (0..FLOW_LATENCIES)
        .map(|class| {
            let earlier = before.map_or(0, |record| record.latency[class]);
            u64::from(now.latency[class].wrapping_sub(earlier))
        })
        .collect();
    flow.recent_starts_ns = now
        .starts_ns
        .iter()
        .copied()
        .filter(|start| *start != 0 && before.is_none_or(|record| !record.starts_ns.contains(start)))
        .collect();
    flow.recent_starts_ns.sort_unstable();
    flow.first_start_ns = now.first_start_ns;
    flow
}

/// Where a count belongs.
fn counter(flow: &mut FlowObservation, what: FlowCount) -> &mut u64 {
    match what {
        FlowCount::Attempts => &mut flow.attempts,
        FlowCount::Established => &mut flow.established,
        FlowCount::Refused => &mut flow.refused,
        FlowCount::TimedOut => &mut flow.timed_out,
        FlowCount::Aborted => &mut flow.aborted,
        FlowCount::Unreachable => &mut flow.unreachable,
        FlowCount::NoPort => &mut flow.no_port,
        FlowCount::FailedOtherwise => &mut flow.failed_otherwise,
        FlowCount::ResetsReceived => &mut flow.resets_received,
        FlowCount::ResetsSent => &mut flow.resets_sent,
        FlowCount::Broken => &mut flow.broken,
        FlowCount::Closed => &mut flow.closed,
        FlowCount::Unanswered => &mut flow.unanswered,
        FlowCount::Retransmits => &mut flow.retransmits,
        FlowCount::SynRetransmits => &mut flow.syn_retransmits,
        FlowCount::Requests => &mut flow.requests,
        FlowCount::Responses => &mut flow.responses,
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(direction: u32, address: Ipv6Addr) -> [u8; KEY_LEN] {
        let raw = FlowKeyRecord {
            address: address.octets(),
            tgid: 7,
            net_ns: 4026531840,
            port: 5432,
            direction,
        };
        raw.as_bytes().try_into().unwrap()
    }

    /// A row by the layout that the kernel side asserts: sockets, process, counts, first start, starts, latencies, name.
    fn row(counts: &[(FlowCount, u64)], starts: &[u64], latency: &[(usize, u32)]) -> [u8; ROW_LEN] {
        let mut row = [0; ROW_LEN];
        let counters = FlowCount::ALL.len();
        let mut put = |at: usize, value: u64| {
            row[8 + at * 8..16 + at * 8].copy_from_slice(&value.to_ne_bytes());
        };
        for (what, value) in counts {
            put(*what as usize, *value);
        }
        put(counters, starts.first().copied().unwrap_or(0));
        for (index, start) in starts.iter().enumerate() {
            put(counters + 1 + index % FLOW_STARTS, *start);
        }
        let at = 8 + (counters + 1 + FLOW_STARTS) * 8;
        for (class, count) in latency {
            row[at + class * 4..at + class * 4 + 4].copy_from_slice(&count.to_ne_bytes());
        }
        let name = at + FLOW_LATENCIES * 4;
        row[name..name + 4].copy_from_slice(b"psql");
        row
    }

    fn mapped() -> Ipv6Addr {
        Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped()
    }

    #[test]
    fn each_read_tells_what_was_added_since_the_last_one() {
        let mut table = FlowTable::default();
        let out = key(OUTBOUND, mapped());
        let first = row(
            &[
                (FlowCount::Attempts, 3),
                (FlowCount::Refused, 2),
                (FlowCount::Established, 1),
            ],
            &[100, 200, 300],
            &[(5, 1)],
        );
        let read = table.update([(0, out, first)].into_iter(), SECOND);
        let flow = &read.flows[0];
        assert_eq!(flow.key.address, "10.0.0.1:5432".parse().unwrap());
        assert_eq!((flow.key.pid, flow.comm.to_string().as_str()), (7, "psql"));
        assert_eq!(
            (flow.attempts, flow.refused, flow.established, flow.failed()),
            (3, 2, 1, 2)
        );
        assert_eq!(flow.recent_starts_ns, [100, 200, 300]);
        assert_eq!((flow.connect_latency[5], flow.first_start_ns), (1, 100));

        assert!(
            table
                .update([(0, out, first)].into_iter(), 2 * SECOND)
                .flows
                .is_empty()
        );

        let later = row(
            &[
                (FlowCount::Attempts, 4),
                (FlowCount::Refused, 3),
                (FlowCount::Established, 1),
            ],
            &[100, 200, 300, 400],
            &[(5, 1)],
        );
        let read = table.update([(0, out, later)].into_iter(), 3 * SECOND);
        let flow = &read.flows[0];
        assert_eq!((flow.attempts, flow.refused, flow.established), (1, 1, 0));
        assert_eq!(flow.recent_starts_ns, [400]);
        assert_eq!(flow.connect_latency.iter().sum::<u64>(), 0);
        assert_eq!(flow.first_start_ns, 100, "of the flow, not of the span");
    }

    #[test]
    fn every_count_has_a_place_of_its_own() {
        let counts: Vec<(FlowCount, u64)> = FlowCount::ALL
            .iter()
            .map(|what| (*what, 1 << (*what as u32)))
            .collect();
        let read = FlowTable::default().update(
            [(0, key(OUTBOUND, mapped()), row(&counts, &[], &[]))].into_iter(),
            SECOND,
        );
        let mut flow = read.flows[0].clone();
        for (what, value) in counts {
            assert_eq!(*counter(&mut flow, what), value, "{what:?}");
        }
    }

    #[test]
    fn a_row_met_twice_in_one_read_counts_once() {
        let met = (
            3,
            key(OUTBOUND, mapped()),
            row(&[(FlowCount::Attempts, 5)], &[], &[]),
        );
        let read = FlowTable::default().update([met, met].into_iter(), SECOND);
        assert_eq!(read.flows.len(), 1);
    }

    #[test]
    fn idle_rows_are_given_up_and_begin_anew() {
        let mut table = FlowTable::default();
        let met = (
            3,
            key(INBOUND, Ipv6Addr::UNSPECIFIED),
            row(&[(FlowCount::Attempts, 5)], &[], &[]),
        );
        assert!(table.update([met].into_iter(), SECOND).idle.is_empty());
        let early = table.update([met].into_iter(), SECOND + IDLE_NS - 1);
        assert!(early.idle.is_empty());
        let read = table.update([met].into_iter(), SECOND + IDLE_NS);
        assert_eq!(read.idle, [(3, met.1)]);
        assert!(
            table.update([met].into_iter(), 2 * IDLE_NS).flows.is_empty(),
            "still there"
        );
        assert!(table.rests(3, &met.2));
        let later = row(&[(FlowCount::Attempts, 6)], &[], &[]);
        assert!(
            !table.rests(3, &later),
            "something was counted after it was given up"
        );
        table.forget(3);
        assert!(!table.rests(3, &met.2));
        let anew = (3, met.1, row(&[(FlowCount::Attempts, 2)], &[], &[]));
        assert_eq!(table.update([anew].into_iter(), 3 * IDLE_NS).flows[0].attempts, 2);
    }

    #[test]
    fn a_row_in_which_a_socket_counts_is_kept() {
        let mut table = FlowTable::default();
        let mut held = row(&[(FlowCount::Attempts, 1)], &[], &[]);
        held[..4].copy_from_slice(&1u32.to_ne_bytes());
        let held = (0, key(OUTBOUND, mapped()), held);
        table.update([held].into_iter(), SECOND);
        assert!(table.update([held].into_iter(), 10 * IDLE_NS).idle.is_empty());
        assert!(!table.rests(0, &held.2));
    }

    #[test]
    fn another_flow_in_the_same_row_begins_from_zero() {
        let mut table = FlowTable::default();
        let counts = row(&[(FlowCount::Attempts, 5)], &[], &[]);
        table.update([(0, key(OUTBOUND, mapped()), counts)].into_iter(), SECOND);
        let other = (0, key(INBOUND, Ipv6Addr::UNSPECIFIED), counts);
        assert_eq!(table.update([other].into_iter(), 2 * SECOND).flows[0].attempts, 5);
    }

    #[test]
    fn hostile_bytes_are_counted_and_never_panic() {
        let mut table = FlowTable::default();
        let bad_direction = (0, key(9, mapped()), [0; ROW_LEN]);
        let mut bad_port = (1, key(OUTBOUND, mapped()), [0; ROW_LEN]);
        bad_port.1[24..28].copy_from_slice(&70_000u32.to_ne_bytes());
        let read = table.update([bad_direction, bad_port].into_iter(), SECOND);
        assert_eq!((read.flows.len(), read.damaged), (0, 2));
        let full = (2, key(OUTBOUND, mapped()), [0xff; ROW_LEN]);
        assert_eq!(
            table.update([full].into_iter(), u64::MAX).flows[0].attempts,
            u64::MAX
        );
        let empty = (2, full.1, [0; ROW_LEN]);
        assert_eq!(table.update([empty].into_iter(), 0).flows[0].attempts, 0);
    }
}
