//! What a walk met and what was refused to it, and how that reads as the [`Sight`] of a picture.
//!
//! Every signal gets a view; every view that is not full says why in figures, and what would help.

mod network;

use rung_diagnosis::observation::{Sight, Signal, Source, View};

use super::flows::Tracking;
use super::vantage::Vantage;

const ROOT: &str = "run as root (CAP_SYS_PTRACE)";
const BPF: &str = "run as root on a kernel with BTF (/sys/kernel/btf/vmlinux), so that BPF can be used";

/// Counts of one walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) processes: u32,
    pub(super) kernel_threads: u32,
    /// Rows dropped because their process or thread changed half read.
    pub(super) torn: u32,
    /// Processes that the mount hides although their directory is listed.
    pub(super) hidden: u32,
    /// Calls that were read, and processes whose calls were refused.
    pub(super) calls: u32,
    pub(super) calls_refused: u32,
    /// Futex waits, those whose words were not read, and processes whose memory was refused.
    pub(super) futexes: u32,
    pub(super) futexes_unread: u32,
    pub(super) memory_refused: u32,
    /// Threads off the CPU by whether it is known since when.
    pub(super) ages: u32,
    pub(super) ages_unknown: u32,
    pub(super) descriptors: u64,
    /// Descriptor tables: refused, not reached in time, read without the flags of some.
    pub(super) tables_refused: u32,
    pub(super) tables_unreached: u32,
    pub(super) tables_without_flags: u32,
    /// Processes with sockets in other network namespaces.
    pub(super) foreign_networks: u32,
    /// Why the kernel's tables could not be read; `None` where they were.
    pub(super) unix_failure: Option<String>,
    pub(super) inet_failure: Option<String>,
    pub(super) locks_failure: Option<String>,
    pub(super) locks_skipped: usize,
    pub(super) pids_limits_failure: Option<String>,
    pub(super) pids_limits_incomplete: bool,
    /// Sockets whose description did not parse.
    pub(super) sockets_skipped: usize,
    /// TCP connections without figures.
    pub(super) figures_missing: usize,
    /// How connections were followed from picture to picture; `None` if they were not.
    pub(super) tracking: Option<Tracking>,
}

impl Tally {
    /// The views of all signals but those that are read apart from the walk: see [`crate::networks`] and [`crate::usage`].
    pub(super) fn sight(&self, vantage: &Vantage) -> Sight {
        let all = self.calls_refused == 0 && self.hidden == 0 && vantage.hidepid.is_none();
        let source = if all { Source::Procfs } else { Source::ProcfsOwn };
        let mut sight = Sight {
            source,
            ..Sight::default()
        };
        for signal in Signal::ALL {
            let view = match signal {
                Signal::Tasks => self.tasks(vantage),
                Signal::SystemCalls => self.system_calls(vantage),
                Signal::FutexWords => self.futex_words(vantage),
                Signal::OffCpuAge => self.off_cpu_age(vantage),
                Signal::Descriptors => self.descriptors(),
                Signal::PipeFill => blind("/proc does not show how full a pipe is", BPF),
                Signal::UnixSockets => self.unix_sockets(),
                Signal::InetSockets => self.inet_sockets(),
                Signal::TcpFigures => self.tcp_figures(),
                Signal::OwnerlessSockets
                | Signal::NetworkCounters
                | Signal::MemoryUse
                | Signal::DescriptorCounts
                | Signal::UsageLimits
                | Signal::OomLog => continue,
                Signal::ConnectEvents => self.connect_events(),
                Signal::ConnectionFates => blind("refusals and resets leave no trace in pictures", BPF),
                Signal::RequestTurns => self.request_turns(),
                Signal::FileLocks => self.file_locks(),
                Signal::ExitEvents => blind(
                    "/proc shows who is there, not who exited between two pictures",
                    BPF,
                ),
                Signal::ForkCounts => partial(
                    "only the host's total of forks, threads included (/proc/stat), not by parent",
                    BPF,
                ),
                Signal::PidsLimits => self.pids_limits(),
            };
            sight.set(signal, view);
        }
        sight
    }

    fn tasks(&self, vantage: &Vantage) -> View {
        let mut why = Why::default();
        if let Some(hidepid) = &vantage.hidepid {
            why.add(format!(
                "/proc is mounted with hidepid={hidepid}, which hides processes of other users"
            ));
        }
        if self.hidden > 0 {
            why.add(format!("{} processes are listed but not readable", self.hidden));
        }
        if !vantage.sees_all_namespaces() {
            why.add("only the processes of this PID namespace and those below it are visible".to_owned());
        }
        why.view("run as root in the host's PID namespace")
    }

    fn system_calls(&self, vantage: &Vantage) -> View {
        if !vantage.shows_calls {
            return blind("this kernel has no readable /proc/PID/syscall", BPF);
        }
        let mut why = Why::default();
        if self.calls_refused > 0 {
            why.add(self.refused("the system calls", self.calls_refused));
        }
        why.view(&remedy(vantage))
    }

    fn futex_words(&self, vantage: &Vantage) -> View {
        if !vantage.shows_calls {
            return blind("without system calls it is not known who waits for a futex", BPF);
        }
        if !vantage.native {
            return blind(
                "this /proc is not that of the own PID namespace, so memory cannot be read by its pids",
                "run inside the PID namespace that /proc shows",
            );
        }
        let mut why = Why::default();
        if self.calls_refused > 0 {
            why.add(self.refused("the system calls", self.calls_refused));
        }
        if self.memory_refused > 0 {
            why.add(self.refused("the memory", self.memory_refused));
        }
        why.view(&remedy(vantage))
    }

    fn off_cpu_age(&self, vantage: &Vantage) -> View {
        let remedy = "use a kernel with CONFIG_SCHED_DEBUG, or run as root so that BPF can be used";
        if !vantage.shows_sched {
            return blind("this kernel has no /proc/PID/sched", remedy);
        }
        if self.ages == 0 && self.ages_unknown > 0 {
            return blind(
                "the scheduler's clock could not be compared with the monotonic clock",
                remedy,
            );
        }
        let mut why = Why::default();
        if self.ages_unknown * 20 > self.ages {
            let total = self.ages + self.ages_unknown;
            why.add(format!(
                "of {} of {total} blocked threads it is not known",
                self.ages_unknown
            ));
        }
        why.view(remedy)
    }

    fn descriptors(&self) -> View {
        let mut why = Why::default();
        if self.tables_refused > 0 {
            why.add(self.refused("the descriptors", self.tables_refused));
        }
        if self.tables_unreached > 0 {
            why.add(format!(
                "the walk stopped after {} descriptors in {} ms and left out {} processes, the last of them in part",
                self.descriptors,
                super::descriptors::BUDGET.as_millis(),
                self.tables_unreached,
            ));
        }
        if self.tables_without_flags > 0 {
            why.add(format!(
                "{} processes have more than {} descriptors; O_NONBLOCK and FD_CLOEXEC of the others are not known",
                self.tables_without_flags,
                super::descriptors::FLAGS_MAX,
            ));
        }
        why.view(if self.tables_refused > 0 { ROOT } else { BPF })
    }

    fn unix_sockets(&self) -> View {
        if let Some(failure) = &self.unix_failure {
            return blind(
                failure,
                "load the kernel module unix_diag (CONFIG_UNIX_DIAG), or run as root for BPF",
            );
        }
        let mut why = self.sockets();
        why.add(
            "messages queued on connected sockets and their timeouts (SO_RCVTIMEO) are not visible"
                .to_owned(),
        );
        why.view(BPF)
    }

    fn file_locks(&self) -> View {
        if let Some(failure) = &self.locks_failure {
            return blind(failure, "mount /proc with its locks file readable");
        }
        let mut why = Why::default();
        if self.locks_skipped > 0 {
            why.add(format!(
                "{} rows of /proc/locks were not understood",
                self.locks_skipped
            ));
        }
        if self.calls_refused > 0 {
            why.add(self.refused("the system calls", self.calls_refused));
        }
        why.view(ROOT)
    }

    fn pids_limits(&self) -> View {
        if let Some(failure) = &self.pids_limits_failure {
            return blind(failure, "mount the cgroup hierarchy that has the pids controller");
        }
        let mut why = Why::default();
        if self.pids_limits_incomplete {
            why.add("there are more than 4096 control groups; the deepest were left out".to_owned());
        }
        why.view("look at pids.current and pids.max of the group in question by hand")
    }

    /// "of 120 of 180 processes, those of other users, the descriptors are not readable"
    fn refused(&self, what: &str, count: u32) -> String {
        format!(
            "{what} of {count} of {} processes, those of other users or more privileged, are not readable",
            self.processes
        )
    }
}

fn remedy(vantage: &Vantage) -> String {
    match (vantage.yama, vantage.root_user) {
        (0, false) => ROOT.to_owned(),
        (1.., false) => {
            let scope = vantage.yama;
            format!("{ROOT}; here kernel.yama.ptrace_scope={scope} also guards processes of the same user")
        }
        (_, true) => "run with CAP_SYS_PTRACE in the host's user namespace".to_owned(),
    }
}

/// Reasons, joined into one sentence.
#[derive(Default)]
struct Why(Vec<String>);

impl Why {
    fn add(&mut self, reason: String) {
        self.0.push(reason);
    }

    fn view(self, remedy: &str) -> View {
        if self.0.is_empty() {
            View::Full
        } else {
            partial(&self.0.join("; "), remedy)
        }
    }
}

/// A view of a part.
pub(crate) fn partial(why: &str, remedy: &str) -> View {
    View::Partial {
        why: why.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// No view.
pub(crate) fn blind(why: &str, remedy: &str) -> View {
    View::Blind {
        why: why.to_owned(),
        remedy: remedy.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_view() {
        let sight = Tally::default().sight(&Vantage::default());
        let apart = [
            Signal::OwnerlessSockets,
            Signal::NetworkCounters,
            Signal::MemoryUse,
            Signal::DescriptorCounts,
            Signal::UsageLimits,
            Signal::OomLog,
        ];
        let mut signals = Signal::ALL.iter();
        assert!(signals.all(|signal| sight.view(*signal).is_some() != apart.contains(signal)));
        assert_eq!(sight.source, Source::Procfs);
    }

    #[test]
    fn refusals_are_told_in_figures() {
        let tally = Tally {
            processes: 180,
            calls_refused: 120,
            ..Tally::default()
        };
        let vantage = Vantage {
            native: true,
            shows_calls: true,
            yama: 1,
            ..Vantage::default()
        };
        let sight = tally.sight(&vantage);
        assert_eq!(sight.source, Source::ProcfsOwn);
        let Some(View::Partial { why, remedy }) = sight.view(Signal::SystemCalls) else {
            panic!("{sight:?}")
        };
        assert!(why.contains("120 of 180 processes"), "{why}");
        assert!(
            remedy.contains("root") && remedy.contains("ptrace_scope=1"),
            "{remedy}"
        );
    }
}
