//! What the properties (`tests/properties.rs`) and the fuzz targets (`fuzz/`) share: cases made of octets, and the checks
//! that hold for each of them. A check panics where the property does not hold.

pub mod answers;
pub mod cluster;
pub mod history;
pub mod messages;
pub mod names;
pub mod template;
pub mod told;
pub mod upstream;

/// Octets read as choices. Past their end every choice is the first, which is the simplest, so that a case shrinks well.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    /// Choices made of these octets.
    pub fn new(octets: &'a [u8]) -> Choices<'a> {
        Choices(octets)
    }

    /// One octet.
    pub fn octet(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// 16 bits.
    pub fn number(&mut self) -> u16 {
        u16::from_be_bytes([self.octet(), self.octet()])
    }

    /// A number below `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.octet()) % end
    }

    /// Yes or no; no at the end.
    pub fn flag(&mut self) -> bool {
        self.octet() & 1 == 1
    }

    /// One of these.
    pub fn pick<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }

    /// One of these or none.
    pub fn maybe<T: Copy>(&mut self, these: &[T]) -> Option<T> {
        these.get(self.below(these.len() + 1).wrapping_sub(1)).copied()
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}
