//! Events of processes and of connections: counted in kernel maps, read at each picture.

mod connections;
mod flows;
mod hook;

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::{Btf, Ebpf};
use rung_diagnosis::observation::{Comm, EventsObservation, ExitObservation, Picture, View};
use rung_ebpf_common::{Counter, ExitRecord};
use zerocopy::FromBytes;

use self::connections::Connections;
use super::Unavailable;
use crate::clock;

/// What happens to processes.
const PROCESS_HOOKS: [&str; 3] = ["sched_process_fork", "sched_process_exec", "sched_process_exit"];

/// The attached programs and what was read of their maps so far.
pub(super) struct Events {
    since_ns: u64,
    seen: [u64; Counter::COUNT as usize],
    exits: RingBuf<MapData>,
    connections: Connections,
}

impl Events {
    pub(super) fn attach(ebpf: &mut Ebpf, btf: &Btf) -> Result<Self, Unavailable> {
        hook::attach_all(ebpf, btf, &PROCESS_HOOKS)?;
        let ring = ebpf.take_map("EXITS").ok_or_else(hook::missing)?;
        let exits = RingBuf::try_from(ring).map_err(|error| hook::refused("exits", &error))?;
        let connections = Connections::attach(ebpf, btf);
        Ok(Events {
            since_ns: clock::monotonic_ns(),
            seen: counters(ebpf),
            exits,
            connections,
        })
    }

    /// Whether attempts to connect, and turns of requests, are seen.
    pub(super) fn connection_views(&self) -> [View; 2] {
        [self.connections.view(), self.connections.turns_view()]
    }

    /// Tells the programs what they cannot know by themselves.
    pub(super) fn tell(&mut self, ebpf: &mut Ebpf, picture: &Picture) {
        self.connections.tell(ebpf, picture);
    }

    /// What was counted since the last call.
    pub(super) fn take(&mut self, ebpf: &mut Ebpf) -> EventsObservation {
        let now = clock::monotonic_ns();
        let (flows, damaged) = self.connections.take(ebpf, now);
        let totals = counters(ebpf);
        let since = |counter: Counter| {
            let index = counter as usize;
            totals[index].saturating_sub(self.seen[index])
        };
        let mut events = EventsObservation {
            from_ns: self.since_ns,
            to_ns: now,
            forks: take_forks(ebpf),
            forks_total: since(Counter::Forks),
            execs_total: since(Counter::Execs),
            exits_total: since(Counter::Exits),
            exits: Vec::new(),
            exits_lost: since(Counter::ExitsLost),
            flows,
            flows_lost: since(Counter::FlowsLost) + damaged,
        };
        while let Some(item) = self.exits.next() {
            if let Ok((record, _)) = ExitRecord::read_from_prefix(&item) {
                events.exits.push(ExitObservation {
                    at_ns: record.at_ns,
                    pid: record.pid,
                    comm: Comm::from_bytes(&record.comm),
                    exit_code: record.exit_code,
                    sid: record.sid,
                    pgid: record.pgid,
                    children: record.children,
                });
            }
        }
        self.since_ns = now;
        self.seen = totals;
        events
    }
}

fn counters(ebpf: &Ebpf) -> [u64; Counter::COUNT as usize] {
    let mut totals = [0; Counter::COUNT as usize];
    let Some(Ok(map)) = ebpf.map("COUNTERS").map(PerCpuArray::<_, u64>::try_from) else {
        return totals;
    };
    for (index, total) in totals.iter_mut().enumerate() {
        if let Ok(values) = map.get(&(index as u32), 0) {
            *total = values.iter().sum();
        }
    }
    totals
}

/// Reads and empties the map of forks by parent.
fn take_forks(ebpf: &mut Ebpf) -> Vec<(u32, u64)> {
    let Some(Ok(mut map)) = ebpf.map_mut("FORKS").map(HashMap::<_, u32, u64>::try_from) else {
        return Vec::new();
    };
    let mut forks: Vec<(u32, u64)> = map.iter().flatten().collect();
    for (parent, _) in &forks {
        // Already gone is as good as removed.
        let _ = map.remove(parent);
    }
    forks.sort_unstable();
    forks
}
