//! Numbers that many threads count without getting in each other's way.
//!
//! A thread that counts has cells of its own, which nobody else writes: to add is to load and to store, without an
//! instruction that locks the memory. Threads beyond [`OWNERS`] share the last cells and pay for it. Whoever wants the
//! number sums the cells of all threads.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// How many threads have cells of their own: workers are as many as cores, and tokio's threads likewise.
const OWNERS: usize = 64;
/// The cells that all other threads share.
const SHARED: usize = OWNERS;
/// The thread has not counted yet.
const UNKNOWN: usize = usize::MAX;

/// Which cells belong to a thread. A matter of the process, as threads are; held when a thread counts for the first
/// time and when it ends.
static OWNED: Mutex<Owned> = Mutex::new(Owned { next: 0, free: Vec::new() });

struct Owned {
    /// From here on nobody has had them.
    next: usize,
    /// Their threads have ended.
    free: Vec<usize>,
}

thread_local! {
    /// Which cells this thread counts in.
    static PLACE: Cell<usize> = const { Cell::new(UNKNOWN) };
    /// Gives them back when the thread ends.
    static LEASE: RefCell<Option<Lease>> = const { RefCell::new(None) };
}

/// Cells that belong to a thread.
struct Lease(usize);

impl Drop for Lease {
    fn drop(&mut self) {
        // Should this thread count once more, it is no owner.
        PLACE.set(SHARED);
        OWNED.lock().free.push(self.0);
    }
}

/// Which cells this thread counts in.
fn place() -> usize {
    match PLACE.get() {
        UNKNOWN => take_place(),
        place => place,
    }
}

#[cold]
fn take_place() -> usize {
    // The lock orders this thread's writes after those of an owner that has ended.
    let mut owned = OWNED.lock();
    let place = owned.free.pop().unwrap_or_else(|| {
        let next = owned.next.min(SHARED);
        owned.next = next + 1;
        next
    });
    drop(owned);
    PLACE.set(place);
    if place != SHARED && LEASE.try_with(|lease| lease.replace(Some(Lease(place)))).is_err() {
        // The thread is ending already.
        drop(Lease(place));
    }
    PLACE.get()
}

/// `N` numbers that only grow.
pub struct Cells<const N: usize> {
    /// Made when a thread counts here for the first time. The last ones are shared.
    shards: [OnceLock<Box<Shard<N>>>; OWNERS + 1],
}

/// The cells of one thread, on cache lines of their own (two at a time are fetched).
#[repr(align(128))]
struct Shard<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Cells<N> {
    fn default() -> Cells<N> {
        Cells { shards: [const { OnceLock::new() }; OWNERS + 1] }
    }
}

impl<const N: usize> Cells<N> {
    /// Those that this thread may add to.
    #[inline]
    pub fn mine(&self) -> Mine<'_, N> {
        let place = place();
        let shard = self.shards[place].get_or_init(|| Box::new(Shard([const { AtomicU64::new(0) }; N])));
        Mine { cells: &shard.0, shared: place == SHARED, stays: PhantomData }
    }

    /// The sums over all threads.
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

/// The cells of the thread that asked for them.
pub struct Mine<'a, const N: usize> {
    cells: &'a [AtomicU64; N],
    /// Others write them, too.
    shared: bool,
    /// No other thread may have it.
    stays: PhantomData<*const ()>,
}

impl<const N: usize> Mine<'_, N> {
    /// Adds to a number.
    ///
    /// # Panics
    /// When there is no such number.
    #[inline]
    pub fn add(&self, at: usize, more: u64) {
        self.add_all([(at, more)]);
    }

    /// Adds to several numbers.
    ///
    /// # Panics
    /// When there is no such number.
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

    /// One test, since places are the process's.
    #[test]
    fn nothing_is_lost_and_places_are_used_again() {
        let cells = Cells::<1>::default();
        for _ in 0..4 * OWNERS {
            std::thread::scope(|scope| {
                scope.spawn(|| cells.mine().add(0, 1));
            });
        }
        assert_eq!(cells.sums(), [4 * OWNERS as u64]);
        let made = cells.shards.iter().filter(|shard| shard.get().is_some()).count();
        // Other tests hold some places meanwhile.
        assert!(made < OWNERS, "{made}");

        // More threads than places.
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
