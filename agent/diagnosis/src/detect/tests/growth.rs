//! What grows: threads, descriptors.

use crate::detect::Draft;
use crate::detect::fixture::Scene;
use crate::finding::{Confidence, Severity};
use crate::mode::Mode;
use crate::observation::PidsLimitObservation;

/// Six readings, one a second, of a process that has these many threads and descriptors.
fn watch(figures: impl Fn(u32) -> (u32, u32), with: impl Fn(&mut Scene)) -> Scene {
    let mut scene = Scene::new();
    scene.process(7, "grower");
    for second in 0..6 {
        let (threads, descriptors) = figures(second);
        scene
            .picture
            .tasks
            .iter_mut()
            .find(|task| task.tid == 7)
            .unwrap()
            .threads = threads;
        scene.uses(7, 0, descriptors);
        with(&mut scene);
        if second < 5 {
            scene.pass(1.0);
        }
    }
    scene
}

fn one(drafts: Vec<Draft>) -> Draft {
    let [draft] = <[Draft; 1]>::try_from(drafts).unwrap();
    draft
}

fn figure(draft: &Draft, signal: &str) -> f64 {
    let fact = draft.evidence.iter().find(|fact| fact.signal == signal).unwrap();
    fact.value.to_string().parse().unwrap()
}

#[test]
fn threads_that_never_end_are_a_leak() {
    let mut scene = watch(|second| (10 + 3 * second, 0), |_| {});
    let draft = one(scene.drafts(Mode::ThreadLeak));
    assert_eq!((draft.subject.pid, draft.severity), (7, Severity::Warning));
    assert_eq!(draft.confidence, Confidence::Likely);
    assert_eq!(figure(&draft, "growth_rate"), 3.0);
    assert!(
        draft.summary.contains("25 now, 3.0 more a second"),
        "{}",
        draft.summary
    );
}

#[test]
fn few_threads_and_pools_that_are_complete_are_none() {
    let mut few = watch(|second| (10 + second, 0), |_| {});
    assert!(few.drafts(Mode::ThreadLeak).is_empty());
    let mut pool = watch(|second| (10 + 20 * second.min(3), 0), |_| {});
    assert!(pool.drafts(Mode::ThreadLeak).is_empty());
    let mut busy = watch(|second| (10 + 30 * (second % 2), 0), |_| {});
    assert!(busy.drafts(Mode::ThreadLeak).is_empty());
}

#[test]
fn a_short_window_shows_no_growth() {
    let mut scene = Scene::new();
    scene.process(7, "grower");
    for second in 0..4 {
        scene.uses(7, 0, 10 + 50 * second);
        if second < 3 {
            scene.pass(1.0);
        }
    }
    assert!(scene.drafts(Mode::FdLeak).is_empty());
}

#[test]
fn a_limit_on_tasks_says_when_no_thread_can_be_made() {
    let limit = |path: &str, max| PidsLimitObservation {
        path: path.into(),
        current: 60,
        max,
        refused: 0,
        members: Vec::new(),
    };
    let mut scene = watch(
        |second| (10 + 10 * second, 0),
        |scene| {
            scene.limits(7, 1024, "/box/inner");
            scene.picture.pids_limits = vec![limit("/bo", 61), limit("/box", 100), limit("/box/inner/x", 61)];
        },
    );
    let draft = one(scene.drafts(Mode::ThreadLeak));
    assert_eq!(figure(&draft, "time_to_exhaustion"), 4.0);
    assert_eq!(draft.severity, Severity::Critical);
    assert!(draft.summary.contains("pids.max of /box is"), "{}", draft.summary);
}

#[test]
fn a_young_process_may_be_warming_up() {
    let young = |scene: &mut Scene| scene.picture.tasks[0].start_ns = 995_000_000_000;
    let mut scene = Scene::new();
    scene.process(7, "grower");
    young(&mut scene);
    for second in 0..6 {
        scene.uses(7, 0, 10 + 20 * second);
        if second < 5 {
            scene.pass(1.0);
        }
    }
    assert_eq!(one(scene.drafts(Mode::FdLeak)).confidence, Confidence::Suspected);
}

#[test]
fn descriptors_that_are_never_closed_are_a_leak_of_their_kind() {
    let mut scene = watch(
        |second| (1, 100 + 20 * second),
        |scene| {
            scene.limits(7, 400, "/");
            for more in 0..15 {
                let fd = scene.picture.descriptors.len() as i32 + more;
                scene.connection(7, fd, "10.0.0.1:40000", "10.0.0.2:80");
            }
        },
    );
    let draft = one(scene.drafts(Mode::FdLeak));
    assert_eq!(figure(&draft, "growth_rate"), 20.0);
    assert_eq!(figure(&draft, "growth of TCP and UDP sockets"), 75.0);
    assert_eq!(figure(&draft, "growth of files and others"), 25.0);
    assert_eq!(figure(&draft, "time_to_exhaustion"), 10.0);
    assert_eq!(draft.severity, Severity::Critical);
    assert!(
        draft
            .summary
            .contains("most of them TCP and UDP sockets; its limit of 400")
    );
}

#[test]
fn descriptors_that_are_clients_follow_the_load() {
    let mut scene = watch(
        |second| (1, 100 + 20 * second),
        |scene| {
            if scene.picture.inet_sockets.is_empty() {
                scene.listener(7, 3, "10.0.0.1:80", 128);
            }
            for more in 0..20 {
                let fd = scene.picture.descriptors.len() as i32 + 10 + more;
                scene.connection(7, fd, "10.0.0.1:80", "10.0.0.2:40000");
            }
        },
    );
    assert!(scene.drafts(Mode::FdLeak).is_empty());
}

#[test]
fn nearly_all_descriptors_in_use_is_said_at_once() {
    let full = |count: u32, limit: u64| {
        let mut scene = Scene::new();
        scene.process(7, "full");
        scene.uses(7, 0, count);
        scene.limits(7, limit, "/");
        scene.drafts(Mode::FdLeak)
    };
    assert!(full(972, 1024).is_empty());
    let near = one(full(973, 1024));
    assert_eq!(
        (near.severity, near.confidence),
        (Severity::Warning, Confidence::Proven)
    );
    assert_eq!(one(full(1024, 1024)).severity, Severity::Critical);
    // A sandbox lowers its limit so that nothing more can be opened.
    assert!(full(7, 1).is_empty() && full(2000, 1024).is_empty());
}
