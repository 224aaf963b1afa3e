//! Process life-cycle events: counted in kernel maps, read and emptied at each picture.

use aya::Ebpf;
use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::RawTracePoint;
use rung_diagnosis::observation::{Comm, EventsObservation, ExitObservation};
use rung_ebpf_common::{Counter, ExitRecord};
use zerocopy::FromBytes;

use super::{Unavailable, reason};
use crate::clock;

/// One program for each hook.
const HOOKS: [&str; 3] = ["sched_process_fork", "sched_process_exec", "sched_process_exit"];

/// The attached programs and what was read of their maps so far.
pub(super) struct Events {
    since_ns: u64,
    seen: [u64; Counter::COUNT as usize],
    exits: RingBuf<MapData>,
}

impl Events {
    pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        let failed = |what: &str, error: &dyn std::error::Error| {
            Unavailable::new(
                format!("cannot watch {what}: {}", reason(error)),
                "run as root, or with CAP_BPF and CAP_PERFMON",
            )
        };
        let missing = || Unavailable::new("the BPF object lacks the event programs", "reinstall rung");
        for hook in HOOKS {
            let program: &mut RawTracePoint = ebpf
                .program_mut(hook)
                .ok_or_else(missing)?
                .try_into()
                .map_err(|error: aya::programs::ProgramError| failed(hook, &error))?;
            program.load().map_err(|error| failed(hook, &error))?;
            program.attach(hook).map_err(|error| failed(hook, &error))?;
        }
        let ring = ebpf.take_map("EXITS").ok_or_else(missing)?;
        let exits = RingBuf::try_from(ring).map_err(|error| failed("exits", &error))?;
        Ok(Events {
            since_ns: clock::monotonic_ns(),
            seen: counters(ebpf),
            exits,
        })
    }

    /// What was counted since the last call.
    pub(super) fn take(&mut self, ebpf: &mut Ebpf) -> EventsObservation {
        let now = clock::monotonic_ns();
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
            flows: Vec::new(),
            flows_lost: 0,
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
