//! # What
//! The threads of a pool hang one after the other in the same wait, with work queued behind them.
//!
//! # Signal
//! Threads of one process that wait for the same thing: an answer from one downstream, a listener that does not accept, a
//! pipe, a file lock, the other end of Unix sockets. And demand: requests that were read and not answered, beyond those
//! that these threads work on, requests that nobody reads, connections that nobody accepts.
//!
//! # Healthy twin
//! Idle pools: threads that wait for work, be it at a condition variable, in accept, in an event poll or reading from
//! clients, wait for no downstream, and nothing is queued. Threads that queue for a mutex are `lock-contention`.
//!
//! # Thresholds
//! `pile_up_threads` (8) that are `pile_up_share` (50%) of the process's threads, each for `pile_up_wait` (1 s).
//!
//! # Source
//! The wait graph; tcp_info(7).

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::service::{Services, address_in_words, awaited_sockets, named};
use super::{Context, Detector, Draft, Party};
use crate::finding::{Confidence, Evidence, Role, Severity};
use crate::graph::WaitKind;
use crate::index::End;
use crate::mode::Mode;
use crate::observation::{FileId, Signal, SocketId, TaskObservation, TaskState};

pub(super) const DETECTOR: Detector = Detector {
    mode: Mode::ThreadPileUp,
    needs: &[
        Signal::Tasks,
        Signal::SystemCalls,
        Signal::Descriptors,
        Signal::InetSockets,
    ],
    helped_by: &[Signal::TcpFigures, Signal::OffCpuAge],
    needs_window: None,
    detect,
    blind_spot: None,
};

/// Waiters listed in a finding.
const LISTED: usize = 32;

/// What threads can pile up at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    /// The process at the other end of connections, on this host.
    Process(u32),
    /// A destination beyond this host.
    Remote(SocketAddr),
    /// A listener of this host that does not accept.
    Listener(SocketId),
    /// A full pipe.
    Pipe(FileId),
    /// A file lock.
    Lock(FileId),
}

fn detect(context: &Context<'_>) -> Vec<Draft> {
    let settings = context.settings;
    let services = Services::new(context);
    let mut piles: BTreeMap<(u32, Target), Vec<u32>> = BTreeMap::new();
    for task in &context.picture.tasks {
        let pools = task.threads as usize >= settings.pile_up_threads && !task.kernel_thread;
        let long = pools
            && context
                .waiting(task.tid)
                .is_some_and(|age| age >= settings.pile_up_wait);
        if let Some(target) = if long { target(context, task) } else { None } {
            piles.entry((task.tgid, target)).or_default().push(task.tid);
        }
    }
    piles
        .into_iter()
        .filter_map(|((pid, target), tids)| draft(context, &services, pid, target, &tids))
        .collect()
}

fn target(context: &Context<'_>, task: &TaskObservation) -> Option<Target> {
    let index = context.index;
    let wait = context.graph.wait(task.tid)?;
    match wait.kind {
        WaitKind::PipeFull(pipe) => return Some(Target::Pipe(pipe)),
        // Waiting for data in a pipe is how many pools wait for work.
        WaitKind::PipeEmpty(_) => return None,
        WaitKind::FileLock { file, .. } => return Some(Target::Lock(file)),
        WaitKind::Connect(listener) => return Some(Target::Listener(listener)),
        WaitKind::SocketWrite(id) => {
            if let Some(unix) = index.unix(id) {
                let peer = index.unix_receiver(unix)?;
                return index
                    .socket_processes(peer)
                    .first()
                    .map(|pid| Target::Process(*pid));
            }
            let socket = index.inet(id).filter(|socket| socket.tcp)?;
            return other_end(context, socket.id);
        }
        _ => {}
    }
    // Reading from a client is waiting for work.
    let awaited = awaited_sockets(context, task);
    let id = *awaited.first()?;
    let socket = index.inet(id)?;
    if context.index.is_inbound(socket) || socket.receive_queue > 0 {
        return None;
    }
    other_end(context, id)
}

fn other_end(context: &Context<'_>, id: SocketId) -> Option<Target> {
    let socket = context.index.inet(id)?;
    let peer = context.index.inet_peer(socket);
    let holder = peer.and_then(|peer| context.index.socket_processes(peer).first().copied());
    Some(holder.map_or(Target::Remote(socket.remote), Target::Process))
}

fn draft(
    context: &Context<'_>,
    services: &Services<'_>,
    pid: u32,
    target: Target,
    tids: &[u32],
) -> Option<Draft> {
    let settings = context.settings;
    let living = context.index.threads(pid).iter();
    let living = living
        .filter(|task| !matches!(task.state, TaskState::Zombie | TaskState::Dead))
        .count();
    if tids.len() < settings.pile_up_threads
        || (tids.len() as f64) < settings.pile_up_share * living as f64
        || context.in_one_knot(tids)
    {
        return None;
    }
    let least_ms = u32::try_from(settings.pile_up_wait.as_millis()).unwrap_or(u32::MAX);
    let demand = services.demand(context, pid, least_ms);
    let queued = demand.queued(tids.len());
    if queued == 0 {
        return None;
    }
    let (culprit, what, flow) = culprit(context, target);
    let who = named(context, pid);
    let sinces = tids.iter().filter_map(|tid| context.graph.wait(*tid)?.since_ns);
    let since = sinces.min();
    let source = context.source();
    let evidence = vec![
        Evidence::new("threads_in_this_wait", tids.len(), "threads", source),
        Evidence::new("threads", living, "threads", source),
        Evidence::new("waits_for", what.clone(), "", source),
        Evidence::new("requests_in_work", demand.in_work, "requests", source),
        Evidence::new("requests_unread", demand.unread, "requests", source),
        Evidence::new("not_accepted", demand.backlog, "connections", source),
    ];
    // Who cannot be named is beyond this host, or unseen: then the process where it shows stands for it.
    let subject = culprit.unwrap_or(pid);
    let mut others: Vec<(Role, Party)> = Vec::new();
    if subject != pid {
        others.push((Role::Waiter, Party::process(pid)));
    }
    others.extend(
        tids.iter()
            .take(LISTED)
            .filter_map(|tid| context.index.task(*tid))
            .map(|task| (Role::Waiter, Party::thread(task))),
    );
    Some(Draft {
        mode: Mode::ThreadPileUp,
        severity: Severity::Warning,
        confidence: Confidence::Likely,
        subject: Party::process(subject),
        others,
        members: Vec::new(),
        since_ns: since,
        summary: format!(
            "{} of {living} threads of {who} wait for {what}, and {queued} more {} behind them",
            tids.len(),
            if queued == 1 {
                "request waits"
            } else {
                "requests wait"
            },
        ),
        evidence,
        chain_from: tids.first().copied(),
        flow,
        depends_on: Vec::new(),
    })
}

/// Whom the threads wait for, in words too, and the destination if it is a connection.
type Culprit = (Option<u32>, String, Option<(Option<SocketAddr>, SocketAddr)>);

fn culprit(context: &Context<'_>, target: Target) -> Culprit {
    let index = context.index;
    let of = |holders: Vec<u32>, what: &str| {
        let first = holders.first().copied();
        let by = first.map_or_else(String::new, |pid| format!(" of {}", named(context, pid)));
        (first, format!("{what}{by}"), None)
    };
    match target {
        Target::Process(pid) => (Some(pid), named(context, pid), None),
        Target::Remote(address) => (
            None,
            format!("{}, beyond this host", address_in_words(context, address)),
            Some((None, address)),
        ),
        Target::Listener(id) => of(index.socket_processes(id), "a listener"),
        Target::Pipe(pipe) => of(index.pipe_processes(pipe, End::Read), "a full pipe"),
        Target::Lock(file) => {
            let requests = context.picture.locks.iter();
            let request = requests
                .filter(|lock| lock.waiting)
                .find(|lock| lock.file == file);
            of(
                request.map_or_else(Vec::new, |request| index.lock_holders(request)),
                "a file lock",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Scene;
    use super::*;
    use crate::observation::{Call, TcpFigures, Watch};

    /// A service (20) with so many workers that read an answer of a leaf (30), of `threads` threads, and so many requests.
    fn pool(workers: u32, threads: u32, requests: u32, seconds: f64) -> Scene {
        let mut scene = Scene::new();
        scene.process(20, "front");
        scene.process(30, "leaf");
        scene.listener(20, 3, "127.0.0.1:80", 128);
        scene.listener(30, 3, "127.0.0.1:90", 128);
        for number in 1..threads {
            scene.thread(20, 200 + number, "worker");
            scene.blocks(200 + number, Call::Sleep, seconds);
        }
        for number in 1..=workers {
            let own = format!("127.0.0.1:{}", 5000 + number);
            let fd = 100 + number as i32;
            scene.connection(20, fd, &own, "127.0.0.1:90");
            scene.connection(30, fd, "127.0.0.1:90", &own);
            scene.blocks(200 + number, Call::Read { fd }, seconds);
        }
        for task in scene.picture.tasks.iter_mut().filter(|task| task.tgid == 20) {
            task.threads = threads;
        }
        for number in 0..requests {
            let client = format!("127.0.0.1:{}", 7000 + number);
            let socket = scene.connection(20, 1000 + number as i32, "127.0.0.1:80", &client);
            socket.figures = Some(TcpFigures {
                last_sent_ms: 9000,
                last_received_ms: 4000,
                bytes_acked: 7,
                bytes_received: 7,
                ..TcpFigures::default()
            });
        }
        scene
    }

    fn drafts(scene: &mut Scene) -> Vec<Draft> {
        scene.drafts(Mode::ThreadPileUp)
    }

    #[test]
    fn a_pool_at_a_slow_dependency_is_blamed_on_that() {
        let found = drafts(&mut pool(16, 17, 20, 3.0));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].subject, Party::process(30));
        assert!(found[0].others.contains(&(Role::Waiter, Party::process(20))));
        assert!(
            found[0].summary.contains("16 of 17 threads"),
            "{}",
            found[0].summary
        );
    }

    #[test]
    fn thresholds_of_number_share_age_and_demand() {
        let found = |workers, threads, requests, seconds| {
            drafts(&mut pool(workers, threads, requests, seconds)).len()
        };
        assert_eq!((found(8, 9, 20, 3.0), found(7, 9, 20, 3.0)), (1, 0));
        assert_eq!((found(10, 20, 20, 3.0), found(10, 21, 20, 3.0)), (1, 0));
        assert_eq!((found(16, 17, 20, 1.0), found(16, 17, 20, 0.9)), (1, 0));
        assert_eq!((found(16, 17, 17, 3.0), found(16, 17, 16, 3.0)), (1, 0));
    }

    #[test]
    fn a_poll_of_one_connection_with_a_timeout_is_a_wait_for_its_answer() {
        let mut scene = pool(16, 17, 20, 3.0);
        for number in 1..=16 {
            let watch = Watch {
                fd: 100 + number as i32,
                read: true,
                write: false,
            };
            let call = Call::Poll {
                watched: vec![watch],
                incomplete: false,
            };
            scene.blocks(200 + number, call, 3.0);
        }
        assert_eq!(drafts(&mut scene).len(), 1);
    }

    #[test]
    fn an_idle_pool_that_reads_from_its_clients_is_silent() {
        let mut scene = pool(0, 17, 17, 3.0);
        for number in 1..=16 {
            let fd = 999 + number as i32;
            scene.blocks(200 + number, Call::Read { fd }, 30.0);
        }
        assert_eq!(drafts(&mut scene).len(), 0);
    }

    #[test]
    fn a_full_pipe_holds_threads_up_as_well() {
        let mut scene = pool(0, 17, 20, 3.0);
        scene.full_pipe((20, 1), (30, 0));
        for number in 1..=16 {
            scene.blocks(200 + number, Call::Write { fd: 1 }, 3.0);
        }
        let found = drafts(&mut scene);
        assert_eq!(found[0].subject, Party::process(30));
        assert!(
            found[0].summary.contains("a full pipe of leaf (30)"),
            "{}",
            found[0].summary
        );
    }
}
