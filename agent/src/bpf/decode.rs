//! From the iterators' bytes to observations. Pure: nothing here touches the kernel.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rung_diagnosis::observation::{
    Comm, DescriptorObservation, FdObject, FileId, InetObservation, Picture, PipeFill, PipeObservation,
    SignalMasks, SocketId, TaskObservation, TaskState, TcpFigures, UnixKind, UnixObservation, UnixState,
    Watch,
};
use rung_ebpf_common::{
    EpollBody, FdHeader, FdKind, InetBody, PIECE_BYTES, PipeBody, TASK_KIND, TaskRecord, UnixBody, fd_bits,
    task_bits,
};
use rustc_hash::{FxHashMap, FxHashSet};
use zerocopy::FromBytes;

use crate::syscalls::{self, Arch, UserMemory};

const PF_KTHREAD: u32 = 0x0020_0000;
const TCP_LISTEN: u32 = 10;
const TCP_ESTABLISHED: u32 = 1;
const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

/// Decodes the iterators' output into `picture`, and drops what contradicts itself: first what the task iterator wrote,
/// then the records of large descriptor tables.
pub(super) fn decode(tasks: &[u8], large_tables: &[u8], picture: &mut Picture) {
    let mut starts: FxHashMap<u32, u64> = FxHashMap::default();
    let mut rows: Vec<(u32, Row<'_>)> = Vec::new();
    let mut descriptors: Vec<DescriptorRow<'_>> = Vec::new();
    rows.reserve(tasks.len() / size_of::<TaskRecord>());
    descriptors.reserve(tasks.len() / size_of::<TaskRecord>());
    starts.reserve(rows.capacity());
    let mut known = true;
    for record in records(tasks).chain(records(large_tables)) {
        match record {
            Record::Task(row) => {
                let tid = row.record.tid;
                // The iterator goes by thread id; when it resumes after a full buffer it may meet a thread twice.
                known = starts.insert(tid, row.record.start_ns).is_none();
                if known {
                    rows.push((tid, row));
                } else {
                    picture.torn_rows += 1;
                }
            }
            Record::Descriptor(row) if known => descriptors.push(row),
            Record::Descriptor(_) => {}
        }
    }
    rows.sort_unstable_by_key(|(tid, _)| *tid);
    let clock = SchedulerClock::from_reader(&rows, picture.began_ns);
    picture.tasks = rows.iter().map(|(_, row)| task(row, &clock)).collect();
    share_signals(&mut picture.tasks);
    let mut decoder = Descriptors {
        picture,
        starts,
        pipes: FxHashSet::default(),
        sockets: FxHashSet::default(),
    };
    for row in &descriptors {
        decoder.add(row);
    }
}

/// Processes that have a table of descriptors too large to have come with a thread, in the reader's PID namespace.
pub(super) fn large_tables(tasks: &[u8]) -> Vec<u32> {
    let tasks = records(tasks).filter_map(|record| match record {
        Record::Task(row) => Some(row.record),
        Record::Descriptor(_) => None,
    });
    let large = tasks.filter(|record| record.bits & task_bits::LARGE_TABLE != 0);
    let mut processes: Vec<u32> = large.map(|record| record.tgid).collect();
    processes.sort_unstable();
    processes.dedup();
    processes
}

/// A thread, and the pieces of its memory.
#[derive(Clone, Copy)]
struct Row<'a> {
    record: &'a TaskRecord,
    pieces: [&'a [u8]; 2],
}

/// A descriptor, and what follows its header.
struct DescriptorRow<'a> {
    kind: FdKind,
    header: &'a FdHeader,
    body: &'a [u8],
}

enum Record<'a> {
    Task(Row<'a>),
    Descriptor(DescriptorRow<'a>),
}

/// The records of a stream, up to its end or to the first that is none. They lie on words of 8 bytes, as the stream does.
fn records(mut rest: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let (kind, _) = u32::read_from_prefix(rest).ok()?;
        if kind == TASK_KIND {
            let (record, mut tail) = TaskRecord::ref_from_prefix(rest).ok()?;
            let mut pieces: [&[u8]; 2] = [&[]; 2];
            for (piece, len) in pieces.iter_mut().zip(record.user_len) {
                if len != 0 {
                    let (bytes, after) = tail.split_at_checked(PIECE_BYTES)?;
                    *piece = &bytes[..(len as usize).min(PIECE_BYTES)];
                    tail = after;
                }
            }
            rest = tail;
            Some(Record::Task(Row { record, pieces }))
        } else {
            let kind = FdKind::from_number(kind)?;
            let (header, tail) = FdHeader::ref_from_prefix(rest).ok()?;
            let (body, tail) = tail.split_at_checked(kind.body_len())?;
            rest = tail;
            Some(Record::Descriptor(DescriptorRow { kind, header, body }))
        }
    })
}

/// The scheduler's clock against `CLOCK_MONOTONIC`. Both count from boot, but not from the same instant.
struct SchedulerClock {
    /// What to add to the scheduler's clock.
    offset_ns: i64,
}

impl SchedulerClock {
    /// The reader had just been given a CPU when the picture began: its own row tells the offset.
    fn from_reader(rows: &[(u32, Row<'_>)], began_ns: u64) -> Self {
        let reader = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let own = rows
            .binary_search_by_key(&reader, |(tid, _)| *tid)
            .ok()
            .map(|index| rows[index].1.record);
        let offset_ns = own
            .filter(|record| record.last_arrival_ns != 0)
            .map_or(0, |record| began_ns as i64 - record.last_arrival_ns as i64);
        SchedulerClock { offset_ns }
    }

    fn monotonic(&self, scheduler_ns: u64) -> u64 {
        scheduler_ns.saturating_add_signed(self.offset_ns)
    }
}

fn state(record: &TaskRecord) -> TaskState {
    // include/linux/sched.h
    const EXIT_DEAD: u32 = 0x10;
    const EXIT_ZOMBIE: u32 = 0x20;
    const TASK_PARKED: u32 = 0x40;
    const TASK_NOLOAD: u32 = 0x400;
    if record.exit_state & EXIT_ZOMBIE != 0 {
        return TaskState::Zombie;
    }
    if record.exit_state & EXIT_DEAD != 0 {
        return TaskState::Dead;
    }
    match record.state {
        0 => TaskState::Running,
        state if state & TASK_PARKED != 0 || state & (TASK_NOLOAD | 2) == TASK_NOLOAD | 2 => TaskState::Idle,
        state if state & 1 != 0 => TaskState::Sleeping,
        state if state & 4 != 0 => TaskState::Stopped,
        state if state & 8 != 0 => TaskState::Traced,
        state if state & 0x80 != 0 => TaskState::Dead,
        // Uninterruptible, frozen, waiting for a lock of a real-time kernel: nothing that we follow.
        state if state & (2 | 0x8000 | 0x1000) != 0 => TaskState::Uninterruptible,
        _ => TaskState::Running,
    }
}

/// The pieces of user memory that came with a row.
struct Pieces<'a>(&'a Row<'a>);

impl UserMemory for Pieces<'_> {
    fn read(&mut self, address: u64, buffer: &mut [u8]) -> bool {
        // Pieces may adjoin; go byte range by byte range.
        let mut at = address;
        let mut left = buffer;
        'next: while !left.is_empty() {
            for (start, bytes) in self.0.record.user_address.iter().zip(self.0.pieces) {
                if at >= *start && at - start < bytes.len() as u64 {
                    let have = &bytes[(at - start) as usize..];
                    let take = have.len().min(left.len());
                    let (now, later) = left.split_at_mut(take);
                    now.copy_from_slice(&have[..take]);
                    left = later;
                    at = at.wrapping_add(take as u64);
                    continue 'next;
                }
            }
            return false;
        }
        true
    }
}

fn task(row: &Row<'_>, clock: &SchedulerClock) -> TaskObservation {
    let record = row.record;
    let bit = |bit: u32| record.bits & bit != 0;
    let in_call = bit(task_bits::IN_CALL) && record.call >= 0;
    let call = if !in_call {
        None
    } else if bit(task_bits::COMPAT) {
        Some(syscalls::other(record.call as i32))
    } else if let Some(arch) = Arch::of_build() {
        syscalls::decode(arch, record.call, record.args, &mut Pieces(row))
    } else {
        Some(syscalls::other(record.call as i32))
    };
    // last_arrival is when it got the CPU; exec_start when it was last accounted on it, on a clock that lags by the
    // time stolen by interrupts. Both come before it left, so the later one is the better bound.
    let off_cpu = record.last_arrival_ns.max(record.exec_start_ns);
    TaskObservation {
        tid: record.tid,
        tgid: record.tgid,
        parent: record.parent,
        tracer: record.tracer,
        pgid: record.pgid,
        sid: record.sid,
        ns_tid: record.ns_tid,
        ns_tgid: record.ns_tgid,
        pid_ns: record.pid_ns,
        pid_ns_level: record.pid_ns_level,
        comm: Comm::from_bytes(&record.comm),
        state: state(record),
        kernel_thread: record.flags & PF_KTHREAD != 0,
        has_terminal: bit(task_bits::TERMINAL),
        exit_code: record.exit_code,
        threads: record.threads,
        start_ns: record.start_ns,
        run_ns: record.run_ns,
        run_delay_ns: record.run_delay_ns,
        voluntary_switches: record.voluntary,
        involuntary_switches: record.involuntary,
        off_cpu_since_ns: (off_cpu != 0).then(|| clock.monotonic(off_cpu)),
        cgroup_id: record.cgroup_id,
        address_space: record.mm,
        signals: bit(task_bits::SIGNALS).then_some(SignalMasks {
            caught: record.caught,
            ignored: record.ignored,
        }),
        call,
        moved: bit(task_bits::MOVED),
    }
}

/// Signal dispositions come with the leader, and hold for all threads of the process.
fn share_signals(tasks: &mut [TaskObservation]) {
    let mut last: (u32, Option<SignalMasks>) = (0, None);
    for index in 0..tasks.len() {
        let (tid, tgid) = (tasks[index].tid, tasks[index].tgid);
        if tid == tgid {
            continue;
        }
        if last.0 != tgid {
            let leader = tasks.binary_search_by_key(&tgid, |task| task.tid);
            last = (tgid, leader.ok().and_then(|leader| tasks[leader].signals));
        }
        tasks[index].signals = last.1;
    }
}

struct Descriptors<'a> {
    picture: &'a mut Picture,
    starts: FxHashMap<u32, u64>,
    pipes: FxHashSet<FileId>,
    sockets: FxHashSet<SocketId>,
}

impl Descriptors<'_> {
    fn add(&mut self, row: &DescriptorRow<'_>) {
        let DescriptorRow { kind, header, body } = row;
        let object = self.object(*kind, header, body);
        let consistent = self.starts.get(&header.tid) == Some(&header.start_ns);
        if !consistent {
            // Born after the walk over threads, or another process under an old pid. It is kept, without a task:
            // whoever holds this end must not be overlooked.
            self.picture.torn_rows += 1;
        }
        let bit = |bit: u32| header.bits & bit != 0;
        self.picture.descriptors.push(DescriptorObservation {
            tid: if consistent { header.tid } else { 0 },
            fd: header.fd as i32,
            file: header.file,
            readable: bit(fd_bits::READABLE),
            writable: bit(fd_bits::WRITABLE),
            nonblocking: bit(fd_bits::NONBLOCK),
            close_on_exec: bit(fd_bits::CLOSE_ON_EXEC),
            object,
        });
    }

    fn object(&mut self, kind: FdKind, header: &FdHeader, body: &[u8]) -> FdObject {
        let file = FileId {
            device: header.device,
            inode: header.inode,
        };
        let object = match kind {
            FdKind::Pipe => PipeBody::read_from_bytes(body)
                .ok()
                .map(|body| self.pipe(file, &body)),
            FdKind::Unix => UnixBody::read_from_bytes(body)
                .ok()
                .map(|body| self.unix(header, &body)),
            FdKind::Inet => InetBody::read_from_bytes(body)
                .ok()
                .map(|body| self.inet(header, &body)),
            FdKind::Epoll => EpollBody::read_from_bytes(body).ok().map(|body| epoll(&body)),
            FdKind::Terminal => Some(FdObject::Terminal),
            FdKind::Null => Some(FdObject::Null),
            FdKind::LockedFile => Some(FdObject::LockedFile(file)),
            FdKind::OtherSocket => Some(FdObject::OtherSocket),
        };
        object.unwrap_or(FdObject::Other)
    }

    fn pipe(&mut self, id: FileId, body: &PipeBody) -> FdObject {
        if self.pipes.insert(id) {
            let fill = PipeFill {
                used: body.head.wrapping_sub(body.tail),
                capacity: body.max_usage.min(body.ring_size),
                readers: body.readers,
                writers: body.writers,
                drained: body.tail,
            };
            self.picture.pipes.push(PipeObservation { id, fill: Some(fill) });
        }
        FdObject::Pipe(id)
    }

    fn unix(&mut self, header: &FdHeader, body: &UnixBody) -> FdObject {
        let id = SocketId(body.sock);
        if self.sockets.insert(id) {
            let state = match (body.state, body.peer) {
                (TCP_LISTEN, _) => UnixState::Listening,
                (TCP_ESTABLISHED, _) => UnixState::Connected,
                (_, 0) => UnixState::Unconnected,
                _ => UnixState::Connected,
            };
            let kind = match body.kind {
                1 => UnixKind::Stream,
                2 => UnixKind::Datagram,
                _ => UnixKind::SeqPacket,
            };
            let listening = state == UnixState::Listening;
            let bounded = listening || kind == UnixKind::Datagram;
            self.picture.unix_sockets.push(UnixObservation {
                id,
                peer: (body.peer != 0).then_some(SocketId(body.peer)),
                inode: header.inode,
                kind,
                state,
                queued: Some(if listening { body.backlog } else { body.queued }),
                queue_limit: bounded.then_some(body.backlog_max),
                unread_sent: Some((body.write_used, body.write_limit)),
                read_timeout: body.timeouts & 1 != 0,
                write_timeout: body.timeouts & 2 != 0,
                name: unix_name(&body.name[..(body.name_len as usize).min(body.name.len())]),
                net_ns: body.net_ns,
            });
        }
        FdObject::Unix(id)
    }

    fn inet(&mut self, header: &FdHeader, body: &InetBody) -> FdObject {
        let id = SocketId(body.sock);
        if self.sockets.insert(id) {
            self.picture.inet_sockets.push(InetObservation {
                id,
                inode: header.inode,
                net_ns: body.net_ns,
                tcp: body.protocol == IPPROTO_TCP,
                state: body.state as u8,
                local: address(body.family, &body.local, body.local_port),
                remote: address(body.family, &body.remote, body.remote_port),
                read_timeout: body.timeouts & 1 != 0,
                write_timeout: body.timeouts & 2 != 0,
                receive_queue: body.receive_queue,
                send_queue: body.send_queue,
                figures: (body.figures != 0).then(|| figures(body, self.picture.began_ns)),
            });
        }
        FdObject::Inet(id)
    }
}

/// IPv4 addresses mapped into IPv6 come out as IPv4, so that both ends of a connection read alike.
fn address(family: u32, bytes: &[u8; 16], port: u32) -> SocketAddr {
    let port = port as u16;
    if family == AF_INET {
        return (Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]), port).into();
    }
    (Ipv6Addr::from(*bytes).to_canonical(), port).into()
}

/// A name without the NUL that ends a path; that of an abstract name begins it (unix(7)).
fn unix_name(bytes: &[u8]) -> Vec<u8> {
    match bytes {
        [path @ .., 0] if bytes[0] != 0 => path.to_vec(),
        name => name.to_vec(),
    }
}

fn epoll(body: &EpollBody) -> FdObject {
    const EPOLLIN: u32 = 1;
    const EPOLLPRI: u32 = 2;
    const EPOLLOUT: u32 = 4;
    const EPOLLRDHUP: u32 = 0x2000;
    let watched = body
        .steps
        .iter()
        .filter_map(|word| EpollBody::unpack(*word))
        .map(|(fd, events)| Watch {
            fd,
            read: events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP) != 0,
            write: events & EPOLLOUT != 0,
        })
        .collect();
    FdObject::Epoll {
        watched,
        incomplete: body.more != 0,
    }
}

/// The kernel's tick rate, told from its tick count and the time since boot: `jiffies_64` begins at -300 s, in 32 bits
/// (INITIAL_JIFFIES, include/linux/jiffies.h).
fn tick_rate(jiffies: u64, monotonic_ns: u64) -> u64 {
    let uptime = monotonic_ns as i128 / 1_000_000;
    [100, 250, 300, 1000]
        .into_iter()
        .min_by_key(|hz| {
            let expected = (1i128 << 32) + (uptime - 300_000) * *hz as i128 / 1000;
            (expected - jiffies as i128).abs()
        })
        .unwrap_or(250)
}

fn figures(body: &InetBody, monotonic_ns: u64) -> TcpFigures {
    let hz = tick_rate(body.jiffies, monotonic_ns);
    let ago_ms = |then: u32| (u64::from((body.jiffies as u32).wrapping_sub(then)) * 1000 / hz) as u32;
    let ticks_us = |ticks: u32| u64::from(ticks) * 1_000_000 / hz;
    TcpFigures {
        srtt_us: body.srtt_us8 / 8,
        min_rtt_us: body.min_rtt_us,
        rto_us: ticks_us(body.rto) as u32,
        backoff: body.backoff as u8,
        retransmits: body.retransmits as u8,
        segments_out: body.segments_out,
        retransmitted: body.retransmitted,
        packets_out: body.packets_out,
        send_window: body.send_window,
        last_sent_ms: ago_ms(body.last_sent),
        last_received_ms: ago_ms(body.last_received),
        last_ack_ms: ago_ms(body.last_ack),
        bytes_acked: body.bytes_acked,
        bytes_received: body.bytes_received,
        receive_window_limited_us: ticks_us(body.window_limited),
        send_buffer_limited_us: ticks_us(body.buffer_limited),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn tick_rate_is_told_from_uptime() {
        for hz in [100u64, 250, 300, 1000] {
            for uptime in [10u64, 1000, 5_000_000] {
                let jiffies = ((1i128 << 32) + (i128::from(uptime) - 300) * i128::from(hz)) as u64;
                assert_eq!(tick_rate(jiffies, uptime * 1_000_000_000), hz);
            }
        }
    }

    #[test]
    fn damaged_bytes_decode_to_less() {
        let mut picture = Picture::default();
        decode([[7_u64; 100], [9; 100]].as_bytes(), &[9; 100], &mut picture);
        let task = u64::from(TASK_KIND);
        for words in 0..40 {
            decode(vec![task; words].as_bytes(), &[], &mut picture);
        }
        decode(&[], &[], &mut picture);
    }
}
