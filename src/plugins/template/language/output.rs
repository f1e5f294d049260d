//! The output of a template, and the limits of a run.

/// The limit on the output of a template, and on the length of a string, in bytes.
pub const MAX_OUTPUT: usize = 64 * 1024;
/// The limit on steps. A value, a call, a piece of text and 64 bytes of a new string are a step each.
pub const MAX_STEPS: u32 = 10_000;

/// The limit that stopped a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stopped {
    /// The output is too long.
    #[error("output is longer than {MAX_OUTPUT} bytes")]
    Output,
    /// The run takes too many steps.
    #[error("template takes more than {MAX_STEPS} steps")]
    Steps,
}

/// The remaining steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps(u32);

impl Default for Steps {
    fn default() -> Steps {
        Steps(MAX_STEPS)
    }
}

impl Steps {
    /// Takes a step.
    pub(super) fn step(&mut self) -> Result<(), Stopped> {
        self.take(1)
    }

    /// Takes the steps of a new string, or fails if the string is too long.
    pub(super) fn made(&mut self, length: usize) -> Result<(), Stopped> {
        if length > MAX_OUTPUT {
            return Err(Stopped::Output);
        }
        self.take((length / 64) as u32)
    }

    fn take(&mut self, count: u32) -> Result<(), Stopped> {
        self.0 = self.0.checked_sub(count).ok_or(Stopped::Steps)?;
        Ok(())
    }
}
