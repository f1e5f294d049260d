//! The values that an expression refers to by name.

use super::error::EvaluationError;
use super::value::ExprValue;

/// The source of the values of names.
pub trait ExprScope {
    /// Returns the value of a variable of [`super::KnownNames`].
    fn variable(&self, name: &str) -> ExprValue;
    /// Calls a function of [`super::KnownNames`]. Number and types of the arguments have been checked.
    fn call(&self, name: &str, arguments: &[ExprValue]) -> Result<ExprValue, EvaluationError>;
}
