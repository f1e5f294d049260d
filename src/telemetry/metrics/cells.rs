//! Counters that many threads increment without contention.
//!
//! Each thread has cells of its own, which no other thread writes: adding is a load and a store, without a locked
//! instruction. Threads beyond [`OWNERS`] share the last cells, and use atomic additions. Reading a counter sums the
//! cells of all threads.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The number of threads with cells of their own. Workers are as many as cores, and so are tokio's threads.
const OWNERS: usize = 64;
/// The index of the cells that all other threads share.
const SHARED: usize = OWNERS;
/// The number of cells: those of threads, and the shared ones.
pub const CELL_SLOTS: usize = OWNERS + 1;
/// The thread has no cells yet.
const UNKNOWN: usize = usize::MAX;

/// The indexes of cells that threads own, for the whole process. Locked when a thread counts for the first time, and
/// when it ends.
static SLOTS: Mutex<Slots> = Mutex::new(Slots { next: 0, free: Vec::new() });

struct Slots {
    /// The first index that no thread has owned yet.
    next: usize,
    /// Indexes whose threads have ended.
    free: Vec<usize>,
}

thread_local! {
    /// The index of this thread's cells.
    static SLOT: Cell<usize> = const { Cell::new(UNKNOWN) };
    /// Releases them when the thread ends.
    static LEASE: RefCell<Option<Lease>> = const { RefCell::new(None) };
}

/// The ownership of cells by a thread.
struct Lease(usize);

impl Drop for Lease {
    fn drop(&mut self) {
        // If this thread counts again, it uses the shared cells.
        SLOT.set(SHARED);
        SLOTS.lock().free.push(self.0);
    }
}

/// Returns the index of this thread's cells, below [`CELL_SLOTS`].
#[inline]
pub fn cell_slot() -> usize {
    match SLOT.get() {
        UNKNOWN => acquire_slot(),
        slot => slot,
    }
}

/// Assigns cells to this thread.
#[cold]
fn acquire_slot() -> usize {
    // The lock orders this thread's writes after those of an owner that has ended.
    let mut slots = SLOTS.lock();
    let slot = slots.free.pop().unwrap_or_else(|| {
        let next = slots.next.min(SHARED);
        slots.next = next + 1;
        next
    });
    drop(slots);
    SLOT.set(slot);
    if slot != SHARED && LEASE.try_with(|lease| lease.replace(Some(Lease(slot)))).is_err() {
        // The thread is ending already.
        drop(Lease(slot));
    }
    SLOT.get()
}

/// `N` counters.
pub struct Cells<const N: usize> {
    /// Allocated when a thread counts here for the first time. The last shard is shared.
    shards: [OnceLock<Box<Shard<N>>>; CELL_SLOTS],
}

/// The cells of a thread, on cache lines of their own (processors fetch two at a time).
#[repr(align(128))]
struct Shard<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Cells<N> {
    fn default() -> Cells<N> {
        Cells { shards: [const { OnceLock::new() }; CELL_SLOTS] }
    }
}

impl<const N: usize> Cells<N> {
    /// Returns the cells of this thread.
    #[inline]
    pub fn mine(&self) -> Mine<'_, N> {
        let slot = cell_slot();
        let shard = self.shards[slot].get_or_init(|| Box::new(Shard([const { AtomicU64::new(0) }; N])));
        Mine { cells: &shard.0, shared: slot == SHARED, stays: PhantomData }
    }

    /// Returns the sums over all threads.
    pub fn sums(&self) -> [u64; N] {
        let mut sums = [0_u64; N];
        for shard in self.shards.iter().filter_map(OnceLock::get) {
            for (sum, cell) in sums.iter_mut().zip(&shard.0) {
                *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        sums
    }
}

/// The cells of the current thread.
pub struct Mine<'a, const N: usize> {
    cells: &'a [AtomicU64; N],
    /// Other threads write them, too.
    shared: bool,
    /// Not `Send`: it belongs to the current thread.
    stays: PhantomData<*const ()>,
}

impl<const N: usize> Mine<'_, N> {
    /// Adds to a counter.
    ///
    /// # Panics
    /// If the index is not less than `N`.
    #[inline]
    pub fn add(&self, at: usize, more: u64) {
        self.add_all([(at, more)]);
    }

    /// Adds to several counters.
    ///
    /// # Panics
    /// If an index is not less than `N`.
    #[inline]
    pub fn add_all<const K: usize>(&self, adds: [(usize, u64); K]) {
        if self.shared {
            return self.add_to_shared(&adds);
        }
        for (at, more) in adds {
            let cell = &self.cells[at];
            cell.store(cell.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        }
    }

    #[cold]
    fn add_to_shared(&self, adds: &[(usize, u64)]) {
        for &(at, more) in adds {
            self.cells[at].fetch_add(more, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// A single test, since slots belong to the process.
    #[test]
    fn no_count_is_lost_and_slots_are_reused() {
        let cells = Cells::<1>::default();
        for _ in 0..4 * OWNERS {
            std::thread::scope(|scope| {
                scope.spawn(|| cells.mine().add(0, 1));
            });
        }
        assert_eq!(cells.sums(), [4 * OWNERS as u64]);
        let made = cells.shards.iter().filter(|shard| shard.get().is_some()).count();
        // Other tests own some slots meanwhile.
        assert!(made < OWNERS, "{made}");

        // More threads than slots.
        const THREADS: usize = 2 * OWNERS;
        let cells = Cells::<3>::default();
        let all_have_begun = Barrier::new(THREADS);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    cells.mine().add(2, 1);
                    all_have_begun.wait();
                    for _ in 0..1_000 {
                        cells.mine().add(0, 1);
                        cells.mine().add(1, 5);
                    }
                });
            }
        });
        let threads = THREADS as u64;
        assert_eq!(cells.sums(), [1_000 * threads, 5_000 * threads, threads]);
    }
}
