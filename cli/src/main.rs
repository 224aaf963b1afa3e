//! The `rung` command: a single call into the library, so that tests can reach all of it.

use std::process::ExitCode;

fn main() -> ExitCode {
    rung_cli::main()
}
