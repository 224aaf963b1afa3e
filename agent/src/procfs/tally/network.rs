//! The views of TCP: its sockets, their figures, and what is told by following them from picture to picture.

use rung_diagnosis::observation::View;

use super::{BPF, Tally, Why, blind};
use crate::procfs::flows::Tracking;

impl Tally {
    pub(super) fn inet_sockets(&self) -> View {
        self.inet_failure().unwrap_or_else(|| {
            let mut why = self.sockets();
            why.add("socket timeouts (SO_RCVTIMEO) are not visible".to_owned());
            why.view(BPF)
        })
    }

    pub(super) fn tcp_figures(&self) -> View {
        self.inet_failure().unwrap_or_else(|| {
            let mut why = self.sockets();
            if self.figures_missing > 0 {
                why.add(format!(
                    "of {} connections the kernel gives no figures, as before 4.10",
                    self.figures_missing
                ));
            }
            why.view(BPF)
        })
    }

    pub(super) fn connect_events(&self) -> View {
        self.followed(|tracking| {
            let Tracking { missed, connects, .. } = tracking;
            if tracking.too_short {
                return Err(format!(
                    "{missed} of {connects} connects began and ended between two pictures, so that the others say \
                     nothing of how many fail"
                ));
            }
            let so_far = if missed > 0 {
                format!(", here {missed} of {connects} connects")
            } else {
                String::new()
            };
            Ok(format!(
                "connections are told from one picture to the next: those that begin and end between two are missed\
                 {so_far}; an attempt counts once its SYN is repeated or answered"
            ))
        })
    }

    pub(super) fn request_turns(&self) -> View {
        self.followed(|tracking| {
            if tracking.too_short || tracking.too_short_inbound {
                return Err("too many connections begin and end between two pictures".to_owned());
            }
            if tracking.too_busy {
                return Err(
                    "connections are busy from picture to picture, so that requests cannot be counted"
                        .to_owned(),
                );
            }
            Ok("turns are told from byte counters, one picture to the next: of several requests between two \
                pictures one is counted"
                .to_owned())
        })
    }

    /// The view of what following connections from picture to picture shows: what is always missing of it, or why nothing
    /// is told.
    fn followed(&self, always: impl FnOnce(Tracking) -> Result<String, String>) -> View {
        if let Some(failure) = self.inet_failure() {
            return failure;
        }
        let Some(tracking) = self.tracking else {
            return blind("a single picture was taken", "run with --for 5s");
        };
        let mut why = self.sockets();
        if self.tables_refused > 0 {
            why.add(self.refused("the descriptors", self.tables_refused));
        }
        if self.tables_unreached > 0 {
            why.add(format!(
                "{} processes were not reached by the walk over descriptors",
                self.tables_unreached
            ));
        }
        match always(tracking) {
            Ok(always) => {
                why.add(always);
                why.view(BPF)
            }
            Err(nothing) => blind(&nothing, BPF),
        }
    }

    fn inet_failure(&self) -> Option<View> {
        self.inet_failure.as_ref().map(|failure| {
            blind(
                failure,
                "load the kernel modules tcp_diag and udp_diag, or run as root for BPF",
            )
        })
    }

    /// What is missing of the tables of sockets.
    pub(super) fn sockets(&self) -> Why {
        let mut why = Why::default();
        if self.foreign_networks > 0 {
            why.add(format!(
                "only this network namespace is visible; at least {} processes have sockets in others",
                self.foreign_networks
            ));
        }
        if self.sockets_skipped > 0 {
            why.add(format!("{} sockets were not understood", self.sockets_skipped));
        }
        why
    }
}
