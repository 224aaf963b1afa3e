//! Rows of descriptors: pipes and sockets, each once, and who holds them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rung_diagnosis::observation::{
    DescriptorObservation, FdObject, FileId, InetObservation, Picture, PipeFill, PipeObservation, SocketId,
    TcpFigures, Turn, UnixKind, UnixObservation, UnixState, Watch,
};
use rung_ebpf_common::{EpollBody, FdHeader, FdKind, InetBody, PipeBody, UnixBody, fd_bits};
use rustc_hash::{FxHashMap, FxHashSet};
use zerocopy::{FromBytes, transmute};

use super::DescriptorRow;

const TCP_LISTEN: u32 = 10;
const TCP_ESTABLISHED: u32 = 1;
const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

/// Adds rows to a picture.
pub(super) struct Descriptors<'a> {
    picture: &'a mut Picture,
    starts: FxHashMap<u32, u64>,
    pipes: FxHashSet<FileId>,
    sockets: FxHashSet<SocketId>,
}

impl<'a> Descriptors<'a> {
    /// `starts` are the start times of the threads in the picture.
    pub(super) fn new(picture: &'a mut Picture, starts: FxHashMap<u32, u64>) -> Self {
        Descriptors {
            picture,
            starts,
            pipes: FxHashSet::default(),
            sockets: FxHashSet::default(),
        }
    }

    pub(super) fn add(&mut self, row: &DescriptorRow<'_>) {
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
                turn: turn(body.turn),
            });
        }
        FdObject::Inet(id)
    }
}

fn turn(number: u32) -> Option<Turn> {
    match number {
        rung_ebpf_common::turn::SENT => Some(Turn::Sent),
        rung_ebpf_common::turn::RECEIVED => Some(Turn::Received),
        _ => None,
    }
}

/// IPv4 addresses mapped into IPv6 come out as IPv4, so that both ends of a connection read alike.
fn address(family: u32, words: &[u32; 4], port: u32) -> SocketAddr {
    let port = port as u16;
    let bytes: [u8; 16] = transmute!(*words);
    if family == AF_INET {
        return (Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]), port).into();
    }
    (Ipv6Addr::from(bytes).to_canonical(), port).into()
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
        probes: body.probes.min(u8::MAX.into()) as u8,
        not_sent: body.not_sent,
        // The stamp may outlive what was sent again; without anything in flight it tells nothing.
        unanswered_ms: (body.packets_out != 0)
            .then(|| since_stamp_ms(body.retransmit_stamp, monotonic_ns))
            .flatten(),
    }
}

/// How long ago a stamp of TCP's clock was made: CLOCK_MONOTONIC in milliseconds, or, if the route asks for it
/// (`tcp_usec_ts`, since 6.7), in microseconds, in 32 bits (tcp_time_stamp_ts(), include/net/tcp.h). The socket tells the
/// unit by a bit that has no address; but no segment is sent again for [`LONGEST_MS`] (tcp_retries2(7) ends it after 15
/// to 30 minutes by default), and so a stamp that says so is of the other unit. `None` for no stamp, or a senseless one.
fn since_stamp_ms(stamp: u32, monotonic_ns: u64) -> Option<u32> {
    if stamp == 0 {
        return None;
    }
    // Rows are written a little after the picture begins.
    let ago = |now: u64, slack: u32| {
        let ago = (now as u32).wrapping_sub(stamp);
        if ago.wrapping_neg() <= slack { 0 } else { ago }
    };
    let by_ms = ago(monotonic_ns / 1_000_000, SLACK_MS);
    let by_us = ago(monotonic_ns / 1000, SLACK_MS * 1000) / 1000;
    [by_ms, by_us].into_iter().find(|ago| *ago <= LONGEST_MS)
}

/// A picture takes no longer than this.
const SLACK_MS: u32 = 10_000;
/// With more it is not plausible that a segment is still being sent again.
const LONGEST_MS: u32 = 3_600_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_stamp_is_told_in_either_unit() {
        let now_ns = 50_000 * 1_000_000_000;
        assert_eq!(since_stamp_ms(0, now_ns), None);
        assert_eq!(since_stamp_ms(50_000_000 - 1500, now_ns), Some(1500));
        assert_eq!(
            since_stamp_ms(50_000_000 + 20, now_ns),
            Some(0),
            "written during the picture"
        );
        let us = |ago_ms: u64| ((50_000_000 - ago_ms) * 1000) as u32;
        assert_eq!(since_stamp_ms(us(7000), now_ns), Some(7000));
        assert_eq!(
            since_stamp_ms(3_050_327_040, now_ns),
            None,
            "neither unit makes sense of it"
        );
        let wrapped_ns = ((1u64 << 32) + 100) * 1_000_000;
        assert_eq!(since_stamp_ms(u32::MAX - 99, wrapped_ns), Some(200));
    }

    #[test]
    fn tick_rate_is_told_from_uptime() {
        for hz in [100u64, 250, 300, 1000] {
            for uptime in [10u64, 1000, 5_000_000] {
                let jiffies = ((1i128 << 32) + (i128::from(uptime) - 300) * i128::from(hz)) as u64;
                assert_eq!(tick_rate(jiffies, uptime * 1_000_000_000), hz);
            }
        }
    }
}
