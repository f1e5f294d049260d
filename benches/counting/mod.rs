//! The system's allocator with counters in front.

#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls that take memory, of every thread.
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
/// Octets that are taken now.
static OCTETS: AtomicUsize = AtomicUsize::new(0);
/// The most octets that were taken at once, since [`reset_peak`].
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The allocator, to be made the global one.
pub struct Counting;

// SAFETY: every call is handed to the system's allocator as it came; the counters touch no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's promises are the ones that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        OCTETS.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Moved or not, it is a call that a path without allocations does not make.
        OCTETS.fetch_sub(layout.size(), Ordering::Relaxed);
        take(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn take(size: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    let octets = OCTETS.fetch_add(size, Ordering::Relaxed) + size;
    PEAK.fetch_max(octets, Ordering::Relaxed);
}

/// How many times memory was taken.
#[allow(dead_code, reason = "not every bench asks")]
pub fn allocations() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// How many octets are taken now, as asked for.
#[allow(dead_code, reason = "not every bench asks")]
pub fn octets() -> usize {
    OCTETS.load(Ordering::Relaxed)
}

/// The most octets since [`reset_peak`].
#[allow(dead_code, reason = "not every bench asks")]
pub fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Forgets the peak.
#[allow(dead_code, reason = "not every bench asks")]
pub fn reset_peak() {
    PEAK.store(octets(), Ordering::Relaxed);
}
