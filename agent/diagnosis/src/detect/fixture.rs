//! Made-up pictures and windows for the tests of detectors: a host on which everything is seen, put together by hand.

use std::net::SocketAddr;

use super::{Context, DETECTORS, Draft};
use crate::diagnose::{Question, diagnose};
use crate::graph::WaitGraph;
use crate::index::{Index, TCP_ESTABLISHED, TCP_LISTEN};
use crate::mode::Mode;
use crate::observation::{
    BlockedCall, Call, Comm, DescriptorObservation, Direction, EventsObservation, FdObject, FileId, FlowKey,
    FlowObservation, HostObservation, InetObservation, NetworkObservation, Picture, PipeFill,
    PipeObservation, ProcessLimitsObservation, ProcessUsageObservation, Signal, SocketId, TaskObservation,
    TaskState, TcpFigures, UsageObservation, View,
};
use crate::report::Report;
use crate::settings::Settings;
use crate::window::Window;

/// The network namespace of sockets that are not put elsewhere.
pub(crate) const HERE: u32 = 4_026_531_840;
/// Another one.
pub(crate) const ELSEWHERE: u32 = 4_026_532_500;

const SECOND_NS: u64 = 1_000_000_000;

/// A host being made up: the present picture, the events since the last one, and the window so far.
pub(crate) struct Scene {
    /// The picture as it would be taken now.
    pub picture: Picture,
    /// What happened since the last picture.
    pub events: EventsObservation,
    /// Thresholds.
    pub settings: Settings,
    /// Facts of the host.
    pub host: HostObservation,
    window: Window,
    next: u64,
}

/// An address, from text.
pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

impl Scene {
    /// An empty host at 1,000 s of uptime, with every signal in full view.
    pub(crate) fn new() -> Self {
        let mut picture = Picture {
            began_ns: 1000 * SECOND_NS,
            ended_ns: 1000 * SECOND_NS,
            unix_ns: 1_700_000_000 * SECOND_NS as i64,
            ..Picture::default()
        };
        for signal in Signal::ALL {
            picture.sight.set(signal, View::Full);
        }
        let events = EventsObservation {
            from_ns: picture.began_ns,
            to_ns: picture.began_ns,
            ..EventsObservation::default()
        };
        Scene {
            picture,
            events,
            settings: Settings::default(),
            host: HostObservation::default(),
            window: Window::default(),
            next: 1,
        }
    }

    /// Now, `CLOCK_MONOTONIC` ns.
    pub(crate) fn now_ns(&self) -> u64 {
        self.picture.began_ns
    }

    /// A process with one thread that sleeps in an unknown call for 100 s.
    pub(crate) fn process(&mut self, pid: u32, comm: &str) -> &mut TaskObservation {
        self.thread(pid, pid, comm)
    }

    /// A thread of a process, likewise.
    pub(crate) fn thread(&mut self, pid: u32, tid: u32, comm: &str) -> &mut TaskObservation {
        let task = TaskObservation {
            tid,
            tgid: pid,
            parent: 1,
            ns_tid: tid,
            ns_tgid: pid,
            comm: Comm::from_bytes(comm.as_bytes()),
            state: TaskState::Sleeping,
            threads: 1,
            start_ns: 10 * SECOND_NS,
            off_cpu_since_ns: Some(self.picture.began_ns - 100 * SECOND_NS),
            address_space: u64::from(pid),
            call: Some(BlockedCall {
                number: 0,
                timed: false,
                call: Call::Other,
            }),
            ..TaskObservation::default()
        };
        self.picture.tasks.push(task);
        self.picture.tasks.last_mut().unwrap()
    }

    /// Lets a thread sleep in a call since so many seconds.
    pub(crate) fn blocks(&mut self, tid: u32, call: Call, seconds: f64) {
        let since = self.picture.began_ns - (seconds * 1e9) as u64;
        let task = self
            .picture
            .tasks
            .iter_mut()
            .find(|task| task.tid == tid)
            .unwrap();
        task.off_cpu_since_ns = Some(since);
        task.call = Some(BlockedCall {
            number: 0,
            timed: false,
            call,
        });
    }

    /// A socket in a process's descriptor.
    pub(crate) fn socket(
        &mut self,
        pid: u32,
        fd: i32,
        state: u8,
        local: &str,
        remote: &str,
    ) -> &mut InetObservation {
        let id = SocketId(self.next);
        self.next += 1;
        self.hold(pid, fd, id);
        self.picture.inet_sockets.push(InetObservation {
            id,
            inode: id.0,
            net_ns: HERE,
            tcp: true,
            state,
            local: address(local),
            remote: address(remote),
            read_timeout: false,
            write_timeout: false,
            receive_queue: 0,
            send_queue: 0,
            figures: Some(healthy()),
            turn: None,
        });
        self.picture.inet_sockets.last_mut().unwrap()
    }

    /// A descriptor of a process for a socket.
    pub(crate) fn hold(&mut self, pid: u32, fd: i32, id: SocketId) {
        self.picture.descriptors.push(DescriptorObservation {
            tid: pid,
            fd,
            file: id.0,
            readable: true,
            writable: true,
            nonblocking: false,
            close_on_exec: false,
            object: FdObject::Inet(id),
        });
    }

    /// An established TCP connection that is well and idle.
    pub(crate) fn connection(
        &mut self,
        pid: u32,
        fd: i32,
        local: &str,
        remote: &str,
    ) -> &mut InetObservation {
        self.socket(pid, fd, TCP_ESTABLISHED, local, remote)
    }

    /// A TCP listener with a queue for so many connections.
    pub(crate) fn listener(&mut self, pid: u32, fd: i32, local: &str, limit: u32) -> &mut InetObservation {
        let none = if local.starts_with('[') {
            "[::]:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = self.socket(pid, fd, TCP_LISTEN, local, none);
        socket.send_queue = limit;
        socket.figures = None;
        socket
    }

    /// A socket by its process and descriptor.
    pub(crate) fn at(&mut self, pid: u32, fd: i32) -> &mut InetObservation {
        let row = self
            .picture
            .descriptors
            .iter()
            .find(|row| row.tid == pid && row.fd == fd);
        let FdObject::Inet(id) = row.unwrap().object else {
            panic!("not an inet socket");
        };
        self.picture
            .inet_sockets
            .iter_mut()
            .find(|one| one.id == id)
            .unwrap()
    }

    /// Closes a process's descriptor, and its socket with it.
    pub(crate) fn close(&mut self, pid: u32, fd: i32) {
        let id = self.at(pid, fd).id;
        self.picture.inet_sockets.retain(|one| one.id != id);
        self.picture
            .descriptors
            .retain(|row| !(row.tid == pid && row.fd == fd));
    }

    /// What is counted of a flow since the last picture.
    pub(crate) fn flow(&mut self, pid: u32, direction: Direction, to: &str) -> &mut FlowObservation {
        let key = FlowKey {
            pid,
            direction,
            net_ns: HERE,
            address: address(to),
        };
        let at = self.events.flows.iter().position(|flow| flow.key == key);
        let at = at.unwrap_or_else(|| {
            let mut flow = FlowObservation::new(key);
            let task = self.picture.tasks.iter().find(|task| task.tid == pid);
            flow.comm = task.map(|task| task.comm).unwrap_or_default();
            self.events.flows.push(flow);
            self.events.flows.len() - 1
        });
        &mut self.events.flows[at]
    }

    /// A terminal in a process's descriptor.
    pub(crate) fn terminal(&mut self, pid: u32, fd: i32) {
        self.picture.descriptors.push(DescriptorObservation {
            tid: pid,
            fd,
            file: 0,
            readable: true,
            writable: true,
            nonblocking: false,
            close_on_exec: false,
            object: FdObject::Terminal,
        });
    }

    /// A full pipe, from one process's descriptor to another's.
    pub(crate) fn full_pipe(&mut self, writer: (u32, i32), reader: (u32, i32)) {
        let pipe = FileId {
            device: 12,
            inode: self.next,
        };
        self.next += 1;
        for ((pid, fd), writes) in [(writer, true), (reader, false)] {
            self.picture.descriptors.push(DescriptorObservation {
                tid: pid,
                fd,
                file: pipe.inode << 1 | u64::from(writes),
                readable: !writes,
                writable: writes,
                nonblocking: false,
                close_on_exec: false,
                object: FdObject::Pipe(pipe),
            });
        }
        let fill = PipeFill {
            used: 16,
            capacity: 16,
            readers: 1,
            writers: 1,
            drained: 0,
        };
        self.picture.pipes.push(PipeObservation {
            id: pipe,
            fill: Some(fill),
        });
    }

    /// The counters of a network namespace.
    pub(crate) fn network(&mut self, net_ns: u32) -> &mut NetworkObservation {
        let at = self.picture.networks.iter().position(|one| one.net_ns == net_ns);
        let at = at.unwrap_or_else(|| {
            self.picture.networks.push(NetworkObservation {
                net_ns,
                ..NetworkObservation::default()
            });
            self.picture.networks.len() - 1
        });
        &mut self.picture.networks[at]
    }

    /// What a process uses now: anonymous memory and descriptors, beside what was said of others at this moment.
    pub(crate) fn uses(&mut self, pid: u32, anonymous_bytes: u64, descriptors: u32) {
        let at_ns = self.now_ns();
        let start_ns = self.start_ns(pid);
        let threads = self
            .picture
            .tasks
            .iter()
            .find(|task| task.tid == pid)
            .unwrap()
            .threads;
        let usage = self.reading(at_ns);
        usage.processes.push(ProcessUsageObservation {
            pid,
            start_ns,
            anonymous_bytes,
            descriptors: Some(descriptors),
            threads,
            ..ProcessUsageObservation::default()
        });
    }

    /// A limit of a process on descriptors, and its control groups for memory and tasks.
    pub(crate) fn limits(&mut self, pid: u32, descriptors: u64, group: &str) {
        let at_ns = self.now_ns();
        let start_ns = self.start_ns(pid);
        let usage = self.reading(at_ns);
        usage.limits.push(ProcessLimitsObservation {
            pid,
            start_ns,
            descriptors: Some(descriptors),
            memory_group: group.into(),
            pids_group: group.into(),
            ..ProcessLimitsObservation::default()
        });
    }

    fn start_ns(&self, pid: u32) -> u64 {
        let task = self.picture.tasks.iter().find(|task| task.tid == pid);
        task.unwrap().start_ns
    }

    /// The reading of what is used that belongs to this moment.
    pub(crate) fn reading(&mut self, at_ns: u64) -> &mut UsageObservation {
        let usage = self.picture.usage.get_or_insert_default();
        if usage.at_ns != at_ns {
            **usage = UsageObservation {
                at_ns,
                ..UsageObservation::default()
            };
        }
        usage
    }

    /// Takes the picture with the events, and lets time go on.
    pub(crate) fn pass(&mut self, seconds: f64) {
        self.take();
        let more = (seconds * 1e9) as u64;
        self.picture.began_ns += more;
        self.picture.ended_ns += more;
        self.picture.unix_ns += more as i64;
    }

    fn take(&mut self) {
        let now = self.picture.began_ns;
        self.events.to_ns = now;
        let events = EventsObservation {
            from_ns: now,
            to_ns: now,
            ..EventsObservation::default()
        };
        let events = std::mem::replace(&mut self.events, events);
        self.window.push(self.picture.clone(), Some(events));
    }

    /// Takes the last picture, and looks at the window.
    pub(crate) fn with_context<T>(&mut self, look: impl FnOnce(&Context<'_>) -> T) -> T {
        self.take();
        let index = Index::new(&self.window.last);
        let graph = WaitGraph::new(&index);
        let knots = graph.knots();
        look(&Context {
            window: &self.window,
            picture: &self.window.last,
            index: &index,
            graph: &graph,
            knots: &knots,
            host: &self.host,
            settings: &self.settings,
        })
    }

    /// Takes the last picture, and runs one mode's detector on the window.
    pub(crate) fn drafts(&mut self, mode: Mode) -> Vec<Draft> {
        let detector = DETECTORS.iter().find(|detector| detector.mode == mode).unwrap();
        self.with_context(|context| (detector.detect)(context))
    }

    /// Takes the last picture, and diagnoses the window.
    pub(crate) fn report(&mut self) -> Report {
        self.take();
        diagnose(&self.window, &self.host, &self.settings, &Question::default())
    }
}

/// What TCP knows of a connection that is well: idle for ten seconds, after an exchange.
pub(crate) fn healthy() -> TcpFigures {
    TcpFigures {
        srtt_us: 400,
        min_rtt_us: 300,
        rto_us: 204_000,
        segments_out: 20,
        send_window: 65_535,
        last_sent_ms: 10_010,
        last_received_ms: 10_000,
        last_ack_ms: 10_000,
        bytes_acked: 1000,
        bytes_received: 1000,
        ..TcpFigures::default()
    }
}
