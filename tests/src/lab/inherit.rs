//! What actors must not inherit from the runner.

use anyhow::{Result, ensure};

/// Marks every descriptor above standard error close-on-exec.
///
/// Shells, IDEs and CI runners leave pipes open in what they start. In an actor such a pipe end would be
/// one more thing that it holds, and could be taken for the fault.
#[expect(
    unsafe_code,
    reason = "close_range(2) has no safe wrapper in the crates at hand"
)]
pub(crate) fn keep_descriptors_to_ourselves() -> Result<()> {
    let flag = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: with CLOSE_RANGE_CLOEXEC the call closes nothing; it only sets a flag of each descriptor.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, flag) };
    ensure!(result == 0, "close_range: {}", std::io::Error::last_os_error());
    Ok(())
}
