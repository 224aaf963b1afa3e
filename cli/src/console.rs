//! Where commands read and write, and what they end with; injected, so that tests need no terminal.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use crate::screen::Screen;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing of severity warning or above.
    Quiet = 0,
    /// Such findings.
    Alarming = 1,
    /// It could not do its work.
    Failed = 2,
}

impl Status {
    /// The status of a report.
    pub fn alarming(alarming: bool) -> Self {
        if alarming { Status::Alarming } else { Status::Quiet }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        ExitCode::from(status as u8)
    }
}

/// The surroundings of a command.
pub struct Console<'a> {
    /// Standard input.
    pub input: &'a mut dyn BufRead,
    /// Whether a person types there.
    pub input_is_terminal: bool,
    /// Standard output.
    pub output: &'a mut dyn Write,
    /// Standard error.
    pub errors: &'a mut dyn Write,
    /// Whether a person watches standard error.
    pub errors_are_watched: bool,
    /// What the output goes to.
    pub screen: Screen,
}

impl Console<'_> {
    /// Writes a text to standard output at once.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print(&mut self, text: &str) -> io::Result<()> {
        let written = self
            .output
            .write_all(text.as_bytes())
            .and_then(|()| self.output.flush());
        written.map_err(|error| {
            let text =
                format!("cannot write to standard output: {error}; send it elsewhere or make room there");
            io::Error::new(error.kind(), text)
        })
    }

    /// Writes an object as JSON to standard output.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn print_json(&mut self, object: &impl serde::Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(object)?;
        text.push('\n');
        Ok(self.print(&text)?)
    }
}

/// A writer whose reader may go away (`rung | head`): what nobody reads is dropped, and the command ends with the
/// status that it would have had.
#[derive(Debug)]
pub struct UntilClosed<W> {
    inner: W,
    closed: bool,
}

impl<W: Write> UntilClosed<W> {
    /// Wraps a writer.
    pub fn new(inner: W) -> Self {
        UntilClosed { inner, closed: false }
    }

    fn unless_closed(&mut self, result: io::Result<usize>, dropped: usize) -> io::Result<usize> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(dropped)
            }
            other => other,
        }
    }
}

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.closed {
            return Ok(bytes.len());
        }
        let result = self.inner.write(bytes);
        self.unless_closed(result, bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        let result = self.inner.flush().map(|()| 0);
        self.unless_closed(result, 0).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Broken(io::ErrorKind);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_a_full_disk_is() {
        let mut output = UntilClosed::new(Broken(io::ErrorKind::BrokenPipe));
        assert!(output.write_all(b"text").is_ok());
        assert!(output.flush().is_ok());
        let mut output = UntilClosed::new(Broken(io::ErrorKind::StorageFull));
        assert!(output.write_all(b"text").is_err());
    }
}
