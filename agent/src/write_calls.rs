//! Whether those who hold the write end of a pipe ever wrote anything: the figure that tells a leaked descriptor from
//! a writer that is merely slow.
//!
//! Scope: `syscw` of /proc/PID/io (proc_pid_io(5)) of few processes, those that hold the write end of a pipe which has
//! carried data and is empty now under a number above 2 that exec(2) does not close.
//!
//! Degradation policy: a kernel without I/O accounting, or a process of somebody else, gives no figure; then nothing
//! is said of it.

use std::path::Path;

use procfs::process::Process;
use rung_diagnosis::observation::{FdObject, Picture, WriteCallsObservation};
use rustc_hash::FxHashSet;

/// Processes asked at most, so that a host full of inherited pipes costs no more than a picture.
const LIMIT: usize = 128;

/// Adds the figures to a picture; `root` is where proc is mounted.
pub(crate) fn add(picture: &mut Picture, root: &Path) {
    let pipes = picture.pipes.iter();
    let passed: FxHashSet<_> = pipes
        .filter(|pipe| pipe.fill.is_some_and(|fill| fill.used == 0 && fill.drained > 0))
        .map(|pipe| pipe.id)
        .collect();
    let rows = picture
        .descriptors
        .iter()
        .filter(|row| row.writable && row.fd > 2 && !row.close_on_exec);
    let holders = rows.filter(|row| matches!(row.object, FdObject::Pipe(pipe) if passed.contains(&pipe)));
    let mut pids: Vec<u32> = holders.map(|row| row.tid).collect();
    pids.sort_unstable();
    pids.dedup();
    pids.truncate(LIMIT);
    let read = |pid: u32| {
        let process = Process::new_with_root(root.join(pid.to_string())).ok()?;
        let calls = process.io().ok()?.syscw;
        Some(WriteCallsObservation { pid, calls })
    };
    picture.write_calls = pids.into_iter().filter_map(read).collect();
}

#[cfg(test)]
mod tests {
    use rung_diagnosis::observation::{DescriptorObservation, FileId, PipeFill, PipeObservation};

    use super::*;

    #[test]
    fn asks_only_holders_of_an_inherited_end_of_a_pipe_that_carried_data() {
        let pipe = FileId { device: 1, inode: 2 };
        let me = std::process::id();
        let row = DescriptorObservation {
            tid: me,
            fd: 57,
            writable: true,
            object: FdObject::Pipe(pipe),
            file: 0,
            readable: false,
            close_on_exec: false,
            nonblocking: false,
        };
        let fill = PipeFill {
            used: 0,
            capacity: 16,
            readers: 1,
            writers: 1,
            drained: 1,
        };
        let with = |fill, row: &DescriptorObservation| {
            let mut picture = Picture {
                descriptors: vec![row.clone()],
                pipes: vec![PipeObservation {
                    id: pipe,
                    fill: Some(fill),
                }],
                ..Picture::default()
            };
            add(&mut picture, Path::new("/proc"));
            picture.write_calls.iter().map(|one| one.pid).collect::<Vec<_>>()
        };
        assert_eq!(with(fill, &row), [me]);
        assert!(with(PipeFill { drained: 0, ..fill }, &row).is_empty());
        assert!(with(fill, &DescriptorObservation { fd: 1, ..row.clone() }).is_empty());
        assert!(
            with(
                fill,
                &DescriptorObservation {
                    close_on_exec: true,
                    ..row
                }
            )
            .is_empty()
        );
    }
}
