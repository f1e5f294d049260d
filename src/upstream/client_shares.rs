//! How much of a limited resource each client holds, and which item gives way when the limit is reached: the oldest one
//! of the client that holds the most.
//!
//! Every operation takes constant time, whatever the number of clients: clients are in lists by how many items they hold.

use std::collections::HashMap;
use std::net::IpAddr;

/// No item, no client.
const NONE: u32 = u32::MAX;

/// Items by client. An item is a small number that its owner chooses, such as its place in a table.
#[derive(Debug, Default)]
pub struct ClientShares {
    items: Vec<Item>,
    /// Clients in places that are used again; those of no address are free.
    clients: Vec<Client>,
    free: Vec<u32>,
    by_address: HashMap<IpAddr, u32, foldhash::fast::RandomState>,
    /// The clients that hold so many items, by that number. The first list is always empty.
    by_count: Vec<List>,
    /// The largest number of items that a client holds.
    most: usize,
    len: usize,
}

/// A doubly linked list; new members are added at the end.
#[derive(Clone, Copy, Debug)]
struct List {
    first: u32,
    last: u32,
}

/// An item among those of its client.
#[derive(Clone, Copy, Debug)]
struct Item {
    /// [`NONE`] while the number is not in use.
    client: u32,
    older: u32,
    newer: u32,
}

/// A client that holds at least one item.
#[derive(Clone, Copy, Debug)]
struct Client {
    address: IpAddr,
    count: usize,
    /// Oldest first.
    items: List,
    /// Its neighbours among the clients that hold as many items.
    previous: u32,
    next: u32,
}

const EMPTY: List = List { first: NONE, last: NONE };
const UNUSED: Item = Item { client: NONE, older: NONE, newer: NONE };

impl ClientShares {
    /// Adds the newest item of a client. IPv6 addresses count singly, since the Pods of a node share a /64; an IPv4
    /// address written as IPv6 is the IPv4 address.
    ///
    /// # Panics
    /// When the item is there already.
    pub fn insert(&mut self, item: u32, address: IpAddr) {
        let address = address.to_canonical();
        let place = item as usize;
        if place >= self.items.len() {
            self.items.resize(place + 1, UNUSED);
        }
        assert_eq!(self.items[place].client, NONE, "an item is held once");
        let number = match self.by_address.get(&address) {
            Some(&number) => number,
            None => self.add_client(address),
        };
        let client = &mut self.clients[number as usize];
        let older = std::mem::replace(&mut client.items.last, item);
        match older {
            NONE => client.items.first = item,
            older => self.items[older as usize].newer = item,
        }
        self.items[place] = Item { client: number, older, newer: NONE };
        self.len += 1;
        let count = client.count + 1;
        self.set_count(number, count);
    }

    /// Removes an item, if it is there.
    pub fn remove(&mut self, item: u32) {
        let Some(Item { client: number, older, newer }) = self.items.get(item as usize).copied() else { return };
        if number == NONE {
            return;
        }
        self.items[item as usize] = UNUSED;
        let client = &mut self.clients[number as usize];
        match older {
            NONE => client.items.first = newer,
            older => self.items[older as usize].newer = newer,
        }
        match newer {
            NONE => client.items.last = older,
            newer => self.items[newer as usize].older = older,
        }
        self.len -= 1;
        let count = client.count - 1;
        self.set_count(number, count);
    }

    /// The item that gives way first: the oldest one of the client that holds the most. Of several clients that hold as
    /// much, the one that has held it longest.
    pub fn heaviest(&self) -> Option<u32> {
        let client = self.by_count.get(self.most)?.first;
        Some(self.clients.get(client as usize)?.items.first)
    }

    /// The oldest item of a client.
    pub fn oldest_of(&self, address: IpAddr) -> Option<u32> {
        let &number = self.by_address.get(&address.to_canonical())?;
        Some(self.clients[number as usize].items.first)
    }

    /// How many items a client holds.
    pub fn count_of(&self, address: IpAddr) -> usize {
        self.by_address.get(&address.to_canonical()).map_or(0, |&number| self.clients[number as usize].count)
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn add_client(&mut self, address: IpAddr) -> u32 {
        let client = Client { address, count: 0, items: EMPTY, previous: NONE, next: NONE };
        let number = match self.free.pop() {
            Some(number) => {
                self.clients[number as usize] = client;
                number
            }
            None => {
                self.clients.push(client);
                (self.clients.len() - 1) as u32
            }
        };
        self.by_address.insert(address, number);
        number
    }

    /// Moves a client to the list of those that hold so many items; forgets it when it holds none.
    fn set_count(&mut self, number: u32, count: usize) {
        let Client { address, count: before, previous, next, .. } = self.clients[number as usize];
        if before > 0 {
            let list = &mut self.by_count[before];
            match previous {
                NONE => list.first = next,
                previous => self.clients[previous as usize].next = next,
            }
            match next {
                NONE => list.last = previous,
                next => self.clients[next as usize].previous = previous,
            }
        }
        if count == 0 {
            self.by_address.remove(&address);
            self.free.push(number);
        } else {
            if count >= self.by_count.len() {
                self.by_count.resize(count + 1, EMPTY);
            }
            let list = &mut self.by_count[count];
            let previous = std::mem::replace(&mut list.last, number);
            match previous {
                NONE => list.first = number,
                previous => self.clients[previous as usize].next = number,
            }
            let client = &mut self.clients[number as usize];
            (client.count, client.previous, client.next) = (count, previous, NONE);
        }
        // A count changes by one, so that the list below the largest one has a member as soon as that one has none.
        if count > self.most || self.by_count[self.most].first == NONE {
            self.most = count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    #[test]
    fn the_oldest_item_of_the_client_that_holds_most_gives_way() {
        let mut shares = ClientShares::default();
        assert_eq!(shares.heaviest(), None);
        for (item, client) in [(0, 1), (1, 2), (2, 2), (3, 1), (4, 2), (5, 3)] {
            shares.insert(item, address(client));
        }
        assert_eq!((shares.heaviest(), shares.oldest_of(address(1)), shares.len()), (Some(1), Some(0), 6));
        shares.remove(1);
        // Two hold two; the first has held them longer.
        assert_eq!((shares.heaviest(), shares.count_of(address(2))), (Some(0), 2));
        shares.remove(0);
        assert_eq!(shares.heaviest(), Some(2));
        for item in [2, 3, 4, 5, 5, 99] {
            shares.remove(item);
        }
        assert_eq!((shares.heaviest(), shares.len(), shares.count_of(address(2))), (None, 0, 0));
    }

    #[test]
    fn an_ipv4_address_in_ipv6_form_is_the_same_client() {
        let mut shares = ClientShares::default();
        shares.insert(0, address(1));
        shares.insert(1, "::ffff:10.0.0.1".parse().expect("an address"));
        assert_eq!(shares.count_of(address(1)), 2);
    }

    #[test]
    fn any_order_of_operations_agrees_with_a_plain_search() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut shares = ClientShares::default();
        let mut held: BTreeMap<u32, (IpAddr, usize)> = BTreeMap::new();
        for time in 0..2_000 {
            let item = random.u32(..200);
            if held.remove(&item).is_some() {
                shares.remove(item);
            } else {
                let client = address(random.u8(..12).min(random.u8(..12)));
                held.insert(item, (client, time));
                shares.insert(item, client);
            }
            let count = |client: IpAddr| held.values().filter(|(of, _)| *of == client).count();
            let most = held.values().map(|(of, _)| count(*of)).max().unwrap_or(0);
            let Some(heaviest) = shares.heaviest() else {
                assert!(held.is_empty());
                continue;
            };
            let (client, since) = held[&heaviest];
            assert_eq!(count(client), most);
            assert!(
                held.values().all(|(of, other)| *of != client || *other >= since),
                "it is the oldest of its client"
            );
            assert_eq!((shares.len(), shares.count_of(client)), (held.len(), most));
        }
    }
}
