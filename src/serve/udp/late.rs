//! The responses of pending queries of UDP clients that do not wait for an upstream: tasks of the runtime send them.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use super::mmsg::{ReturnPath, is_full};
use crate::chain::Pending;
use crate::serve::pending::{self, PendingPermit};
use crate::serve::{Service, Shared};
use crate::wire::MAX_UDP;

/// The maximum number of retries, a millisecond apart, to send the response of a pending query when the socket is full.
const LATE_RETRIES: usize = 5;

/// Waits for a pending query, and sends its response by the return path.
pub(super) async fn answer(
    pending: Pending, mut permit: PendingPermit, path: ReturnPath, socket: Arc<UdpSocket>, service: Arc<Service>,
    shared: Arc<Shared>,
) {
    let packet = pending.query.packet().into();
    let answer = pending::answer(pending, &mut permit, packet, MAX_UDP, service, &shared.counters).await;
    if let Some(answer) = answer {
        let mut result = path.send(socket.as_fd(), &answer);
        for _ in 0..LATE_RETRIES {
            if !result.as_ref().is_err_and(is_full) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
            result = path.send(socket.as_fd(), &answer);
        }
        match result {
            Ok(()) => shared.counters.answered.add(1),
            Err(_) => shared.counters.send_failed.add(1),
        }
    } else {
        shared.counters.unanswered.add(1);
    }
    // When the server stops, it waits for permits: this one is held until the response is sent.
    drop(permit);
}
