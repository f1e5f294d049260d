//! Tests of batches of datagrams.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;

/// A server's and a client's socket, and a batch with three datagrams of the client.
fn three(one_by_one: bool) -> (UdpSocket, UdpSocket, Batch) {
    let server = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    client.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    for byte in 0..3 {
        client.send_to(&[byte; 5], server.local_addr().expect("an address")).expect("sent");
    }
    let mut batch = Batch::new();
    batch.one_by_one = one_by_one;
    assert_eq!(batch.receive(server.as_fd(), true).expect("datagrams"), 3);
    (server, client, batch)
}

#[test]
fn a_refused_answer_is_passed_over_and_slots_are_used_again() {
    for one_by_one in [false, true] {
        let (server, client, mut batch) = three(one_by_one);
        for round in 0..3 {
            for slot in 0..3 {
                let (datagram, out) = batch.slot(slot);
                let datagram = datagram.expect("a datagram");
                assert_eq!(datagram.bytes, [slot as u8; 5]);
                assert_eq!(datagram.remote, client.local_addr().expect("an address"));
                out[0] = slot as u8;
                batch.queue(slot, 1);
            }
            // SAFETY: in bounds and not referred to. The kernel knows no such address.
            unsafe { (*batch.memory.as_ptr()).names[1] = SocketName([0xff; NAME_LEN]) };
            assert_eq!(batch.send(server.as_fd()), SendOutcome { sent: 2, failed: 1 });
            assert_eq!(batch.one_by_one, one_by_one);
            for byte in [0, 2] {
                let mut answer = [9; 2];
                assert_eq!(client.recv(&mut answer).expect("an answer"), 1);
                assert_eq!(answer[0], byte);
            }
            assert!(round == 2 || batch.receive(server.as_fd(), false).is_err());
            for byte in 0..3 {
                client.send_to(&[byte; 5], server.local_addr().expect("an address")).expect("sent");
            }
            assert_eq!(batch.receive(server.as_fd(), true).expect("datagrams"), 3);
        }
    }
}

#[test]
fn a_long_datagram_is_marked() {
    let (server, client, mut batch) = three(false);
    for len in [MAX_QUESTION, MAX_QUESTION + 1, 0] {
        client.send_to(&vec![7; len], server.local_addr().expect("an address")).expect("sent");
        assert_eq!(batch.receive(server.as_fd(), true).expect("a datagram"), 1);
        let datagram = batch.slot(0).0.expect("a datagram");
        assert_eq!((datagram.bytes.len(), datagram.truncated), (len.min(MAX_QUESTION), len > MAX_QUESTION));
    }
}
