//! An allocator that counts, and delegates to the system's.

#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of allocations of all threads.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// The number of bytes that are allocated now.
static BYTES: AtomicUsize = AtomicUsize::new(0);
/// The maximum of allocated bytes since [`reset_peak`].
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The allocator, for `#[global_allocator]`.
pub struct Counting;

// SAFETY: every call is passed to the system's allocator unchanged; the counters do not touch its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: the caller guarantees what `System` requires.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        record(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Counts as an allocation, whether the memory moves or not.
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        record(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Counts an allocation.
fn record(size: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    let bytes = BYTES.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(bytes, Ordering::Relaxed);
}

/// Returns the number of allocations.
#[allow(dead_code, reason = "not every bench uses it")]
pub fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Returns the number of bytes that are allocated now, as requested.
#[allow(dead_code, reason = "not every bench uses it")]
pub fn bytes() -> usize {
    BYTES.load(Ordering::Relaxed)
}

/// Returns the maximum of allocated bytes since [`reset_peak`].
#[allow(dead_code, reason = "not every bench uses it")]
pub fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Restarts the measurement of the peak.
#[allow(dead_code, reason = "not every bench uses it")]
pub fn reset_peak() {
    PEAK.store(bytes(), Ordering::Relaxed);
}
