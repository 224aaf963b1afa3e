//! The picture by BPF iterators: every thread and every waitable descriptor of the host, in all containers at once,
//! with no hook on anybody's path. While a window runs, tracepoints count what happens between pictures.
//!
//! Degradation: without BTF, privilege or iterators [`BpfSource::open`] says why and what would help, and the caller
//! falls back to [`crate::procfs`]. Without `bpf_copy_from_user_task` (before 5.18) the plain iterator is used, and the
//! memory of blocked threads is declared unseen. Without raw tracepoints the event counts are declared unseen, and without those of
//! messages on sockets (before 6.3) the turns of requests.

mod btf;
mod decode;
mod events;
mod machine;
mod walk;

use std::fs;
use std::time::Duration;

use aya::programs::{Iter, Program, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use rung_diagnosis::observation::{EventsObservation, Picture, Signal, Source, View};
use rung_ebpf_common::{KernelOffsets, Machine};
use thiserror::Error;
use zerocopy::IntoBytes;

pub use btf::{BtfError, KernelTypes};

use self::walk::Stream;
use crate::clock;

/// The programs, as `ebpf/build.sh` built them.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/rung.bpf.o");

const NESTED_REMEDY: &str = "run it in the host's PID namespace, as by `docker run --pid=host`";
/// Where the kernel publishes its type information.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// What the kernel's type information calls the iterators and the tracepoint whose arguments are typed.
const HOOKS: [&str; 3] = [
    "bpf_iter_task",
    "bpf_iter_task_file",
    "btf_trace_inet_sock_set_state",
];
/// Each such iterator has to be made and read by itself: beyond so many, one walk over the whole host does it.
const TABLES_ONE_BY_ONE: usize = 32;

/// Why BPF is not to be had here, and what would help.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{why}")]
pub struct Unavailable {
    /// The reason.
    pub why: String,
    /// What the user can do.
    pub remedy: String,
}

impl Unavailable {
    fn new(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Unavailable {
            why: why.into(),
            remedy: remedy.into(),
        }
    }
}

/// A failure while taking a picture with programs that had loaded.
#[derive(Debug, Error)]
#[error("the BPF iterator {iterator} failed: {source}")]
pub struct IterError {
    iterator: &'static str,
    source: std::io::Error,
}

/// What an event program has cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramCost {
    /// Its name, that of its hook.
    pub name: String,
    /// Time it ran, nanoseconds.
    pub run_ns: u64,
    /// How often it ran.
    pub runs: u64,
}

/// The loaded programs.
pub struct BpfSource {
    ebpf: Ebpf,
    /// Ids of the [`HOOKS`].
    btf: Btf,
    typed: bool,
    source: Source,
    /// Why the memory of blocked threads is not read, if it is not.
    memory_refused: Option<String>,
    absent: Vec<String>,
    /// This process lives below the initial PID namespace.
    nested: bool,
    events: Option<events::Events>,
    tasks: Stream,
    descriptors: Stream,
    /// The kernel cannot run an iterator over one process only.
    asks_all: bool,
}

impl BpfSource {
    /// Resolves offsets from the running kernel's BTF and loads the iterators.
    pub fn open() -> Result<Self, Unavailable> {
        let raw = fs::read(VMLINUX_BTF).map_err(|error| {
            Unavailable::new(
                format!("cannot read {VMLINUX_BTF}: {error}"),
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
            )
        })?;
        let types = KernelTypes::parse(&raw, &machine::structures(), &HOOKS).map_err(|error| {
            Unavailable::new(error.to_string(), "report this kernel's version to the project")
        })?;
        let (offsets, absent, usable) = machine::offsets(&types);
        if !usable {
            return Err(Unavailable::new(
                format!("this kernel lacks what the programs need: {}", absent.join(", ")),
                "use a kernel of 5.8 or later",
            ));
        }
        let nested = nested_pid_namespace();
        let mut machine = machine::machine(&types, nested);
        let btf = Btf::parse(&types.named_only(), Endianness::Little).map_err(|error| {
            Unavailable::new(error.to_string(), "report this kernel's version to the project")
        })?;
        drop(types);
        drop(raw);
        let (ebpf, memory_refused) = match iterators(&offsets, &machine, &btf) {
            Ok((ebpf, None)) => (ebpf, None),
            // Perhaps a verifier that knows the structures otherwise than BTF shows them; the helper reads any address.
            outcome => {
                tracing::info!("trying to load fields by the helper instead");
                machine.direct = 0;
                match (outcome, iterators(&offsets, &machine, &btf)) {
                    (Ok(direct), Ok((_, Some(_))) | Err(_)) => {
                        machine.direct = 1;
                        direct
                    }
                    (_, by_helper) => by_helper?,
                }
            }
        };
        let source = if memory_refused.is_some() {
            Source::BpfIterPlain
        } else {
            Source::BpfIter
        };
        Ok(BpfSource {
            ebpf,
            btf,
            typed: machine.direct != 0,
            source,
            memory_refused,
            absent,
            nested,
            events: None,
            tasks: Stream::default(),
            descriptors: Stream::default(),
            asks_all: false,
        })
    }

    /// Starts counting forks, execs and exits, and what happens to TCP connections.
    pub fn watch_events(&mut self) -> Result<(), Unavailable> {
        if self.nested {
            return Err(Unavailable::new(
                "exits and forks carry the process ids of the host, not of this PID namespace",
                NESTED_REMEDY,
            ));
        }
        if self.events.is_none() {
            self.events = Some(events::Events::attach(&mut self.ebpf, &self.btf)?);
        }
        Ok(())
    }

    /// What was counted since the last call; `None` if nothing is being counted.
    pub fn take_events(&mut self) -> Option<EventsObservation> {
        self.events.as_mut().map(|events| events.take(&mut self.ebpf))
    }

    /// What each attached event program has cost so far, by the kernel's own accounting; zeros unless that is switched on
    /// (`kernel.bpf_stats_enabled`).
    pub fn event_costs(&self) -> Vec<ProgramCost> {
        let programs = self.ebpf.programs().filter_map(|(name, program)| {
            let info = match program {
                Program::RawTracePoint(program) => program.info(),
                Program::BtfTracePoint(program) => program.info(),
                _ => return None,
            };
            let info = info.ok()?;
            Some(ProgramCost {
                name: name.to_owned(),
                run_ns: u64::try_from(info.run_time().as_nanos()).unwrap_or(u64::MAX),
                runs: info.run_count(),
            })
        });
        programs.collect()
    }

    /// Names of kernel fields that this kernel lacks and that the programs do without.
    pub fn absent_fields(&self) -> &[String] {
        &self.absent
    }

    /// Whether the verifier took the programs that load fields by type; otherwise a helper reads them, at several times
    /// the cost.
    pub fn loads_by_type(&self) -> bool {
        self.typed
    }

    /// Which tier of the iterators loaded.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Takes one picture: threads and descriptors. Locks and limits are the caller's to add.
    pub fn picture(&mut self) -> Result<Picture, IterError> {
        // A thread that slept a moment has just been given a CPU: its own row ties the scheduler's clock to ours.
        std::thread::sleep(Duration::from_nanos(1));
        let mut picture = Picture {
            began_ns: clock::monotonic_ns(),
            unix_ns: clock::unix_ns(),
            ..Picture::default()
        };
        picture.suspended_ns = clock::suspended_ns();
        let task_program = if self.source == Source::BpfIter {
            "iter_task"
        } else {
            "iter_task_plain"
        };
        self.tasks.clear();
        walk::host(&mut self.ebpf, task_program, &mut self.tasks)?;
        self.walk_large_tables()?;
        decode::decode(self.tasks.bytes(), self.descriptors.bytes(), &mut picture);
        picture.ended_ns = clock::monotonic_ns();
        if let Some(events) = &mut self.events {
            events.tell(&mut self.ebpf, &picture);
        }
        self.describe_sight(&mut picture);
        Ok(picture)
    }

    /// Descriptors that did not come with their threads. Few processes are asked one by one, which spares the visit to
    /// all the others.
    fn walk_large_tables(&mut self) -> Result<(), IterError> {
        self.descriptors.clear();
        let large = decode::large_tables(self.tasks.bytes());
        if large.is_empty() {
            return Ok(());
        }
        if large.len() <= TABLES_ONE_BY_ONE && !self.asks_all {
            let outcome = large.iter().try_for_each(|pid| {
                walk::process(&mut self.ebpf, "iter_task_file", *pid, &mut self.descriptors)
            });
            if outcome.is_ok() {
                return Ok(());
            }
            // Before 6.1 an iterator takes no parameters.
            self.asks_all = true;
            self.descriptors.clear();
        }
        walk::host(&mut self.ebpf, "iter_task_file", &mut self.descriptors)
    }

    fn describe_sight(&self, picture: &mut Picture) {
        let sight = &mut picture.sight;
        sight.source = self.source;
        let view = if self.nested {
            View::Partial {
                why: "only the processes of this PID namespace are seen, a container's perhaps".into(),
                remedy: NESTED_REMEDY.into(),
            }
        } else {
            View::Full
        };
        for signal in [
            Signal::Tasks,
            Signal::SystemCalls,
            Signal::OffCpuAge,
            Signal::Descriptors,
            Signal::PipeFill,
            Signal::UnixSockets,
            Signal::InetSockets,
            Signal::TcpFigures,
        ] {
            sight.set(signal, view.clone());
        }
        let memory = match &self.memory_refused {
            None => View::Full,
            Some(why) => View::Blind {
                why: format!("the kernel does not let an iterator read the memory of threads: {why}"),
                remedy: "use a kernel of 5.18 or later".into(),
            },
        };
        sight.set(Signal::FutexWords, memory);
        let uncounted = View::Blind {
            why: "events were not counted: a single picture was taken".into(),
            remedy: "run with --for 5s".into(),
        };
        let (processes, [connects, turns]) = match &self.events {
            Some(events) => (View::Full, events.connection_views()),
            None => (uncounted.clone(), [uncounted.clone(), uncounted]),
        };
        sight.set(Signal::ExitEvents, processes.clone());
        sight.set(Signal::ForkCounts, processes);
        sight.set(Signal::ConnectionFates, connects.clone());
        sight.set(Signal::ConnectEvents, connects);
        sight.set(Signal::RequestTurns, turns);
    }
}

/// Whether this process lives below the initial PID namespace, whose inode number is fixed: PROC_PID_INIT_INO
/// (include/linux/proc_ns.h).
fn nested_pid_namespace() -> bool {
    const INITIAL: &str = "pid:[4026531836]";
    fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace.as_os_str() != INITIAL)
}

/// Loads the iterators; with them, why the memory of blocked threads cannot be read, if it cannot.
fn iterators(
    offsets: &KernelOffsets,
    machine: &Machine,
    btf: &Btf,
) -> Result<(Ebpf, Option<String>), Unavailable> {
    let mut ebpf = EbpfLoader::new()
        .btf(None)
        .override_global("OFFSETS", offsets.as_bytes(), true)
        .override_global("MACHINE", machine.as_bytes(), true)
        .load(OBJECT)
        .map_err(|error| refused("BPF maps could not be made", &error))?;
    let memory_refused = match load(&mut ebpf, "iter_task", "task", btf) {
        Ok(()) => None,
        Err(error) => {
            load(&mut ebpf, "iter_task_plain", "task", btf)
                .map_err(|error| refused("the kernel refused the task iterator", &error))?;
            Some(reason(&error))
        }
    };
    load(&mut ebpf, "iter_task_file", "task_file", btf)
        .map_err(|error| refused("the kernel refused the descriptor iterator", &error))?;
    Ok((ebpf, memory_refused))
}

fn load(ebpf: &mut Ebpf, name: &'static str, iterator: &str, btf: &Btf) -> Result<(), ProgramError> {
    let program = ebpf.program_mut(name).ok_or_else(|| {
        ProgramError::IOError(std::io::Error::other(format!("no program {name} in the object")))
    })?;
    <&mut Iter>::try_from(program)?.load(iterator, btf)
}

/// The innermost reason of an aya error, without the verifier's log.
fn reason(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}

fn refused(what: &str, error: &dyn std::error::Error) -> Unavailable {
    tracing::debug!(%error, "{what}");
    let remedy = if rustix::process::geteuid().is_root() {
        "give the process CAP_BPF and CAP_PERFMON, and a kernel of 5.8 or later"
    } else {
        "run as root, or with CAP_BPF and CAP_PERFMON"
    };
    Unavailable::new(format!("{what}: {}", reason(error)), remedy)
}
