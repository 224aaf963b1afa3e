//! A case that has been played must leave no process, no network namespace and no directory behind.

use anyhow::{Result, ensure};

use super::stage::Stage;
use super::{network, proc, sweep};

/// Clears the stage, and says what is left of it nevertheless.
pub fn clear(stage: Stage) -> Result<()> {
    let (mark, cast) = (stage.mark().to_owned(), stage.cast());
    let dir = stage.dir().to_path_buf();
    drop(stage);
    // A zombie that init has adopted is init's to reap, in its own time.
    let is_ours = |identity: &sweep::Identity| {
        let child = |pid| proc::stat(pid).is_some_and(|stat| stat.ppid.cast_unsigned() == std::process::id());
        identity.runs() || identity.left() && child(identity.pid)
    };
    let cast: Vec<_> = cast.into_iter().filter(is_ours).collect();
    let marked = sweep::marked(&mark);
    ensure!(
        cast.is_empty() && marked.is_empty(),
        "left behind: {cast:?} {marked:?}"
    );
    let named = network::marked(&mark);
    ensure!(named.is_empty(), "left behind: {named:?}");
    ensure!(!dir.exists(), "left behind: {}", dir.display());
    Ok(())
}
