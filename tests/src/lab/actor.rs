//! Actors written in Rust, played by the lab binary itself: `lab actor NAME`.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Barrier, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Subcommand;

use super::sweep;

/// The hidden subcommands of the lab binary.
#[derive(Debug, Subcommand)]
pub enum Actor {
    /// Clears a stage when its runner dies or the time ends.
    Guard {
        /// The runner's pid.
        runner: i32,
        /// The stage's mark.
        mark: String,
        /// How long at most.
        seconds: u64,
        /// The directory to remove when the runner has died.
        dir: PathBuf,
    },
    /// Deadlocks two threads over std::sync::Mutex.
    AbbaStd,
    /// Deadlocks two threads over parking_lot::Mutex.
    AbbaParkingLot,
    /// Workers wait for jobs that never come.
    ChannelPool,
}

impl Actor {
    /// Plays the part until it ends or the lab's time is up.
    pub fn play(self) -> Result<()> {
        if let Actor::Guard {
            runner,
            mark,
            seconds,
            dir,
        } = self
        {
            return sweep::guard(runner, &mark, &dir, seconds);
        }
        bound()?;
        say("tid_main", tid())?;
        match self {
            Actor::Guard { .. } => Ok(()),
            Actor::AbbaStd => abba_std(),
            Actor::AbbaParkingLot => abba_parking_lot(),
            Actor::ChannelPool => channel_pool(),
        }
    }
}

/// Ends the process after the lab's time, by SIGALRM at its default disposition. A thread that watched the
/// clock would be one more that could end a wait.
#[expect(unsafe_code, reason = "alarm(2) has no safe wrapper in the crates at hand")]
fn bound() -> Result<()> {
    let seconds: u32 = std::env::var("RUNG_LAB_SECONDS")
        .context("RUNG_LAB_SECONDS is not set")?
        .parse()?;
    // SAFETY: alarm takes a number and touches no memory.
    unsafe { libc::alarm(seconds) };
    Ok(())
}

fn tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

fn say(key: &str, value: i32) -> Result<()> {
    let path = std::env::var_os("RUNG_LAB_REPORT").context("RUNG_LAB_REPORT is not set")?;
    let mut report = OpenOptions::new().create(true).append(true).open(path)?;
    report.write_all(format!("{key} {value}\n").as_bytes())?;
    Ok(())
}

/// Runs two threads, the second with the locks the other way round, and joins both.
fn opposite_order<L: Send + Sync + 'static>(locks: [Arc<L>; 2], half: fn(&L, &L, &Barrier)) -> Result<()> {
    let both_hold = Arc::new(Barrier::new(2));
    let [first, second] = locks;
    let orders = [("tid_a", first.clone(), second.clone()), ("tid_b", second, first)];
    let threads = orders.map(|(key, mine, theirs)| {
        let both_hold = Arc::clone(&both_hold);
        thread::spawn(move || {
            say(key, tid())?;
            half(&mine, &theirs, &both_hold);
            anyhow::Ok(())
        })
    });
    for thread in threads {
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("a thread of the deadlock panicked"))??;
    }
    anyhow::bail!("the threads did not deadlock")
}

fn abba_std() -> Result<()> {
    opposite_order(
        [Arc::default(), Arc::default()],
        |mine: &Mutex<u32>, theirs, both_hold| {
            let _mine = mine.lock().unwrap_or_else(PoisonError::into_inner);
            both_hold.wait();
            let _theirs = theirs.lock().unwrap_or_else(PoisonError::into_inner);
        },
    )
}

fn abba_parking_lot() -> Result<()> {
    opposite_order(
        [Arc::default(), Arc::default()],
        |mine: &parking_lot::Mutex<u32>, theirs, both_hold| {
            let _mine = mine.lock();
            both_hold.wait();
            let _theirs = theirs.lock();
        },
    )
}

fn channel_pool() -> Result<()> {
    let (jobs, queue) = mpsc::channel::<u32>();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..8 {
        let queue = Arc::clone(&queue);
        thread::spawn(move || queue.lock().unwrap_or_else(PoisonError::into_inner).recv());
    }
    say("ready", 8)?;
    // Main holds the sender and could send at any time.
    loop {
        thread::sleep(Duration::from_secs(3600));
        jobs.send(0)?;
    }
}
