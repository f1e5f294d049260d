//! Where a template writes to, and how much it may do.

/// The most bytes that a template writes, and that a string has that it makes.
pub const MAX_OUTPUT: usize = 64 * 1024;
/// How many steps a template takes. A value, a call or a piece of text is one; so are 64 bytes of a string that is made.
pub const MAX_STEPS: u32 = 10_000;

/// Why a template is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// It writes too much.
    #[error("output is longer than {MAX_OUTPUT} bytes")]
    Output,
    /// It does too much.
    #[error("template takes more than {MAX_STEPS} steps")]
    Steps,
}

/// What is left of the steps.
#[derive(Clone, Copy, Debug)]
pub struct Steps(u32);

impl Default for Steps {
    fn default() -> Steps {
        Steps(MAX_STEPS)
    }
}

impl Steps {
    /// Takes one.
    pub fn step(&mut self) -> Result<(), Stopped> {
        self.take(1)
    }

    /// Takes as many as a string of this length costs, which must not be too long.
    pub fn made(&mut self, length: usize) -> Result<(), Stopped> {
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
