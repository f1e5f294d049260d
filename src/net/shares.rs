//! Counts how many items of a limited resource each client has, so that the client with the most loses one first.
//!
//! [`Shares`] only does the accounting: its user compares [`Shares::len`] with the limit and ends the item that is to
//! be evicted. Every operation takes constant time, and none allocates once the tables have grown.
//!
//! A client is an address, in IPv6 too: the Pods of a node share a /64, and one noisy Pod must not use up the share of
//! the others. A client with a whole /64 can appear as many clients; each of those has few items, and the total limit
//! still applies.

use std::collections::HashMap;
use std::net::IpAddr;

/// The end of a linked list.
const NONE: u32 = u32::MAX;

/// The items of all clients, in order of arrival or of [`Shares::renew`] for each client.
#[derive(Debug)]
pub(crate) struct Shares<T> {
    clients: HashMap<IpAddr, u32, foldhash::fast::RandomState>,
    holders: Vec<Holder>,
    free_holders: Vec<u32>,
    items: Vec<SharedItem<T>>,
    free_items: Vec<u32>,
    /// The first and the last holder with N items, for each N.
    levels: Vec<(u32, u32)>,
    /// The highest number of items of one client.
    most: usize,
    len: usize,
}

/// A client that has at least one item.
#[derive(Debug)]
struct Holder {
    client: IpAddr,
    count: usize,
    /// The ends of the list of its items.
    oldest: u32,
    newest: u32,
    /// The previous and the next holder with the same number of items.
    before: u32,
    after: u32,
}

/// An item in the list of its client.
#[derive(Debug)]
struct SharedItem<T> {
    /// `None` after the item has been removed.
    value: Option<T>,
    holder: u32,
    /// Counts the uses of this slot, so that old tickets are not valid for a new item.
    generation: u32,
    /// The previous and the next item of the same client.
    older: u32,
    newer: u32,
}

/// Identifies an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    at: u32,
    generation: u32,
}

impl<T> Default for Shares<T> {
    fn default() -> Shares<T> {
        Shares {
            clients: HashMap::default(),
            holders: Vec::new(),
            free_holders: Vec::new(),
            items: Vec::new(),
            free_items: Vec::new(),
            levels: vec![(NONE, NONE)],
            most: 0,
            len: 0,
        }
    }
}

impl<T> Shares<T> {
    /// The number of all items.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The number of items of a client.
    pub(crate) fn held_by(&self, client: IpAddr) -> usize {
        self.clients.get(&client).map_or(0, |&at| self.holders[at as usize].count)
    }

    /// Returns the item of a ticket, unless it has been removed.
    pub(crate) fn get(&self, ticket: Ticket) -> Option<&T> {
        let item = self.items.get(ticket.at as usize)?;
        item.value.as_ref().filter(|_| item.generation == ticket.generation)
    }

    /// Returns the item to evict in favour of a new item of this client when the limit is reached: the oldest item of
    /// the client with the most, or this client's own oldest item when no other client has more. The oldest item has
    /// waited the longest, and its client has most likely sent the query again. Refusing the newest instead would let
    /// slow names block all others.
    pub(crate) fn victim_for(&self, client: IpAddr) -> Option<Ticket> {
        let own = self.clients.get(&client).filter(|&&at| self.holders[at as usize].count == self.most);
        let holder = own.map_or(self.levels[self.most].0, |&at| at);
        let at = self.holders.get(holder as usize)?.oldest;
        Some(self.ticket(at))
    }

    /// Returns the item to evict in favour of a new item of this client, if there is a client that has more than this
    /// one would have: the oldest item of the client with the most. Clients with equal shares do not evict each other's
    /// items.
    pub(crate) fn victim_of_heavier(&self, client: IpAddr) -> Option<Ticket> {
        if self.most > self.held_by(client) + 1 { self.victim_for(client) } else { None }
    }

    /// The clients with their numbers of items, in descending order of the number.
    pub(crate) fn clients(&self) -> impl Iterator<Item = (IpAddr, usize)> {
        let levels = self.levels[..=self.most].iter().rev();
        levels.flat_map(|&(first, _)| {
            let holders = std::iter::successors(self.holders.get(first as usize), |holder| {
                self.holders.get(holder.after as usize)
            });
            holders.map(|holder| (holder.client, holder.count))
        })
    }

    /// The items of a client, the oldest first.
    pub(crate) fn of(&self, client: IpAddr) -> impl Iterator<Item = (Ticket, &T)> {
        let oldest = self.clients.get(&client).map_or(NONE, |&at| self.holders[at as usize].oldest);
        let mut next = oldest;
        std::iter::from_fn(move || {
            let at = next;
            let item = self.items.get(at as usize)?;
            next = item.newer;
            item.value.as_ref().map(|value| (self.ticket(at), value))
        })
    }

    /// Adds an item to a client.
    pub(crate) fn add(&mut self, client: IpAddr, value: T) -> Ticket {
        let holder = match self.clients.get(&client) {
            Some(&holder) => holder,
            None => {
                let new = Holder { client, count: 0, oldest: NONE, newest: NONE, before: NONE, after: NONE };
                let at = store(&mut self.holders, &mut self.free_holders, new);
                self.clients.insert(client, at);
                at
            }
        };
        // A new slot starts with generation 0.
        let generation = self.free_items.last().map_or(0, |&at| self.items[at as usize].generation);
        let item = SharedItem { value: Some(value), holder, generation, older: NONE, newer: NONE };
        let at = store(&mut self.items, &mut self.free_items, item);
        self.link(at);
        self.len += 1;
        let count = self.holders[holder as usize].count;
        self.move_to_level(holder, count + 1);
        Ticket { at, generation }
    }

    /// Removes an item and returns it, unless it was removed before.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<T> {
        self.get(ticket)?;
        let item = &mut self.items[ticket.at as usize];
        item.generation = item.generation.wrapping_add(1);
        let (value, holder) = (item.value.take(), item.holder);
        self.unlink(ticket.at);
        self.free_items.push(ticket.at);
        self.len -= 1;
        let count = self.holders[holder as usize].count;
        self.move_to_level(holder, count - 1);
        if count == 1 {
            self.clients.remove(&self.holders[holder as usize].client);
            self.free_holders.push(holder);
        }
        value
    }

    /// Makes an item the newest of its client, unless it was removed before. Returns the item.
    pub(crate) fn renew(&mut self, ticket: Ticket) -> Option<&mut T> {
        self.get(ticket)?;
        self.unlink(ticket.at);
        self.link(ticket.at);
        self.items[ticket.at as usize].value.as_mut()
    }

    /// Makes an item that is in no list the newest of its client.
    fn link(&mut self, at: u32) {
        let holder = &mut self.holders[self.items[at as usize].holder as usize];
        let older = std::mem::replace(&mut holder.newest, at);
        match self.items.get_mut(older as usize) {
            Some(older) => older.newer = at,
            None => holder.oldest = at,
        }
        let item = &mut self.items[at as usize];
        (item.older, item.newer) = (older, NONE);
    }

    /// Removes an item from the list of its client.
    fn unlink(&mut self, at: u32) {
        let &SharedItem { holder, older, newer, .. } = &self.items[at as usize];
        match self.items.get_mut(older as usize) {
            Some(older) => older.newer = newer,
            None => self.holders[holder as usize].oldest = newer,
        }
        match self.items.get_mut(newer as usize) {
            Some(newer) => newer.older = older,
            None => self.holders[holder as usize].newest = older,
        }
    }

    fn ticket(&self, at: u32) -> Ticket {
        Ticket { at, generation: self.items[at as usize].generation }
    }

    /// Moves a holder to the end of the list of holders with `count` items. There is no list for 0.
    fn move_to_level(&mut self, at: u32, count: usize) {
        let Holder { count: before_count, before, after, .. } = self.holders[at as usize];
        if before_count > 0 {
            match self.holders.get_mut(before as usize) {
                Some(before) => before.after = after,
                None => self.levels[before_count].0 = after,
            }
            match self.holders.get_mut(after as usize) {
                Some(after) => after.before = before,
                None => self.levels[before_count].1 = before,
            }
        }
        let last = if count == 0 { NONE } else { self.append(at, count) };
        let holder = &mut self.holders[at as usize];
        (holder.count, holder.before, holder.after) = (count, last, NONE);
        // A holder moves by one level, so the highest level with a holder is this one or the one below.
        self.most = self.most.max(count);
        if self.levels[self.most].0 == NONE && self.most > 0 {
            self.most -= 1;
        }
    }

    /// Appends a holder to a level. Returns the previous last holder.
    fn append(&mut self, at: u32, count: usize) -> u32 {
        if self.levels.len() <= count {
            self.levels.resize(count + 1, (NONE, NONE));
        }
        let last = std::mem::replace(&mut self.levels[count].1, at);
        match self.holders.get_mut(last as usize) {
            Some(last) => last.after = at,
            None => self.levels[count].0 = at,
        }
        last
    }
}

/// Stores a value in a free slot or in a new one. Returns the index of the slot.
fn store<T>(all: &mut Vec<T>, free: &mut Vec<u32>, new: T) -> u32 {
    if let Some(at) = free.pop() {
        all[at as usize] = new;
        return at;
    }
    all.push(new);
    u32::try_from(all.len() - 1).expect("fewer items than a limit that fits into memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    /// The item that is evicted in favour of a new one of this client.
    fn evicted(shares: &Shares<u32>, number: u8) -> Option<u32> {
        shares.victim_for(client(number)).and_then(|ticket| shares.get(ticket)).copied()
    }

    #[test]
    fn the_oldest_item_of_the_client_with_the_most_is_evicted() {
        let mut shares = Shares::default();
        assert_eq!(evicted(&shares, 1), None);
        for (number, value) in [(1, 10), (2, 20), (1, 11), (2, 21), (1, 12)] {
            shares.add(client(number), value);
        }
        assert_eq!([1, 2, 3].map(|number| evicted(&shares, number)), [Some(10); 3]);
        // Among clients with the same number, a client evicts its own oldest item.
        shares.add(client(2), 22);
        assert_eq!([1, 2, 3].map(|number| evicted(&shares, number)), [Some(10), Some(20), Some(10)]);
        assert_eq!(shares.clients().collect::<Vec<_>>(), [(client(1), 3), (client(2), 3)]);
        assert_eq!(shares.of(client(2)).map(|(_, value)| *value).collect::<Vec<_>>(), [20, 21, 22]);
    }

    #[test]
    fn a_ticket_is_not_valid_for_a_later_item_in_the_same_slot() {
        let mut shares = Shares::default();
        let first = shares.add(client(1), 1);
        assert_eq!((shares.remove(first), shares.remove(first), shares.len()), (Some(1), None, 0));
        let second = shares.add(client(1), 2);
        assert_eq!((shares.get(first), shares.get(second)), (None, Some(&2)));
    }

    /// Compares with a plain list.
    #[test]
    fn counts_and_order_are_correct_after_any_changes() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut shares = Shares::default();
        let mut model: Vec<(u8, u32, Ticket)> = Vec::new();
        for value in 0..20_000 {
            let number = random.u8(..6);
            if model.len() < 40 && random.u8(..5) > 1 {
                model.push((number, value, shares.add(client(number), value)));
            } else if !model.is_empty() {
                let (number, value, ticket) = model.remove(random.usize(..model.len()));
                if random.bool() {
                    assert_eq!(shares.renew(ticket), Some(&mut value.clone()));
                    model.push((number, value, ticket));
                } else {
                    assert_eq!((shares.remove(ticket), shares.renew(ticket)), (Some(value), None));
                }
            }
            assert_eq!(shares.len(), model.len());
            let count = |number| model.iter().filter(|(of, ..)| *of == number).count();
            let most = (0..6).map(count).max();
            for number in 0..6 {
                assert_eq!(shares.held_by(client(number)), count(number));
                let own: Vec<u32> = model.iter().filter(|(of, ..)| *of == number).map(|(_, value, _)| *value).collect();
                assert!(shares.of(client(number)).map(|(_, value)| *value).eq(own));
            }
            assert_eq!(shares.clients().map(|(_, count)| count).sum::<usize>(), model.len());
            assert!(shares.clients().map(|(_, count)| count).is_sorted_by(|a, b| a >= b));
            let candidate = evicted(&shares, number).map(|value| model.iter().find(|(_, of, _)| *of == value));
            if let Some((of, value, _)) = candidate.map(|found| found.expect("an item of the list")) {
                assert_eq!(Some(count(*of)), most);
                assert_eq!(model.iter().find(|(other, ..)| other == of).map(|(_, value, _)| value), Some(value));
                assert!(*of == number || Some(count(number)) != most);
            }
        }
    }
}
