//! The errors of compiling and evaluating, and the limits of an evaluation.

/// The limit on evaluated nodes.
pub(super) const MAX_STEPS: u32 = 10_000;
/// The limit on items of an array.
pub(super) const MAX_ITEMS: usize = 4_096;
/// The limit on the length of a string, in bytes.
pub(super) const MAX_TEXT: usize = 64 * 1024;

/// An error in the text of an expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (1:{})", at + 1)]
pub struct CompileError {
    /// The position in the text, in characters from 0.
    pub at: usize,
    /// The reason.
    pub message: String,
}

/// An error of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// An operation is invalid; the reason.
    #[error("{0}")]
    Words(String),
    /// The evaluation takes too many steps.
    #[error("expression takes more than {MAX_STEPS} steps")]
    Steps,
    /// A string or array is too large.
    #[error("memory budget exceeded")]
    Memory,
}

impl EvaluationError {
    /// Returns an error with this text.
    pub(super) fn words<T>(words: impl Into<String>) -> Result<T, EvaluationError> {
        Err(EvaluationError::Words(words.into()))
    }
}
