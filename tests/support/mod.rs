//! What the properties (`tests/properties.rs`) and the fuzz targets (`fuzz/`) share: cases generated from bytes, and
//! the checks that hold for each of them. A check panics if its property does not hold.

pub mod answers;
pub mod cluster;
pub mod corefiles;
pub mod decoded;
pub mod files;
pub mod history;
pub mod log_lines;
pub mod messages;
pub mod names;
pub mod objects;
pub mod rdata;
pub mod requests;
pub mod sources;
pub mod targets;
pub mod template;
pub mod upstream;

/// Bytes as a source of choices. After their end every choice is the first, which is the simplest, so that cases shrink
/// well.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Creates choices from bytes.
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices(bytes)
    }

    /// Returns a byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Returns 16 bits.
    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Returns a number below `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// Returns a flag; false at the end.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Returns one of these values.
    pub fn pick<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }

    /// Returns one of these values, or `None`.
    pub fn maybe<T: Copy>(&mut self, these: &[T]) -> Option<T> {
        these.get(self.below(these.len() + 1).wrapping_sub(1)).copied()
    }

    /// Returns the remaining bytes.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
