//! DNS over QUIC (RFC 9250), where each query has a stream of its own.

use std::sync::Arc;

use hickory_server::net::quic::DoqErrorCode;
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::listener::{QuicListener, Stopping};
use super::streams::StreamLimit;
use crate::net::memory::{self, MemoryLimit, MemoryPermit};
use crate::serve::ListenerPhase;
use crate::serve::framing::{PREFIX, is_quic_query, quic_query_len};
use crate::serve::pending::Unread;
use crate::serve::request::Requester;
use crate::serve::tcp::limits::{ConnectionActivity, ConnectionPermit};

/// Answers the queries of a connection, each on its stream.
pub(crate) async fn serve(
    listener: Arc<QuicListener>, connection: Connection, requester: Requester, permit: ConnectionPermit,
    mut phase: watch::Receiver<ListenerPhase>,
) {
    let memory = MemoryLimit::of_one(memory::ONE_CONNECTION, listener.acceptor.memory.clone());
    let mut queries = JoinSet::new();
    let mut streams = StreamLimit::new(&listener.service.settings());
    // The loop reads the phase once at its start.
    phase.mark_changed();
    let mut stopping = Stopping::default();
    while !stopping.is_over(queries.is_empty()) {
        tokio::select! {
            biased;
            changed = phase.changed() => match *phase.borrow_and_update() {
                ListenerPhase::Serving if changed.is_ok() => {}
                ListenerPhase::Ending if changed.is_ok() => stopping.begin(),
                _ => return,
            },
            () = permit.activity.evicted() => {
                return connection.close(DoqErrorCode::ExcessiveLoad.into(), b"too many connections");
            }
            Some(ended) = queries.join_next() => {
                if let Ok(Err(ProtocolError)) = ended {
                    listener.service.count_reply(2);
                    return connection.close(DoqErrorCode::ProtocolError.into(), b"");
                }
            }
            accepted = connection.accept_bi(), if stopping.accepts() => match accepted {
                Ok((send, receive)) => {
                    let (listener, requester) = (listener.clone(), requester.clone());
                    let activity = permit.activity.clone();
                    let held = memory.permit();
                    let stream = QueryStream { listener, requester, activity, send, held };
                    queries.spawn(stream.answer(receive));
                    streams.record_open(queries.len(), &connection);
                }
                Err(_) => return,
            },
            () = stopping.wait() => stopping.set_quiet(),
        }
    }
    connection.close(DoqErrorCode::NoError.into(), b"");
}

/// The client breaks the protocol, which ends the connection.
struct ProtocolError;

/// A stream with its query.
struct QueryStream {
    listener: Arc<QuicListener>,
    requester: Requester,
    activity: Arc<ConnectionActivity>,
    send: SendStream,
    /// The permit for the memory of its query, and then of its response.
    held: MemoryPermit,
}

impl QueryStream {
    /// Answers the query.
    async fn answer(mut self, mut receive: RecvStream) -> Result<(), ProtocolError> {
        let listener = self.listener.clone();
        let QuicListener { service, acceptor, pending, .. } = &*listener;
        let timeouts = service.settings().timeouts;
        let reading = read(&mut receive, &mut self.held);
        let packet = match acceptor.shared.read(self.requester.client, timeouts.read, reading).await {
            Ok(Ok(packet)) => packet,
            // A client may cancel a query (RFC 9250 4.3.1), or be slow.
            Ok(Err(ReadError::Reset)) | Err(Unread::TimedOut) => return self.abandon(DoqErrorCode::InternalError),
            Ok(Err(ReadError::Full)) | Err(Unread::Evicted) => return self.abandon(DoqErrorCode::ExcessiveLoad),
            Ok(Err(ReadError::Malformed)) => return Err(ProtocolError),
        };
        // RFC 9250 4.3.3.
        if !is_quic_query(&packet) {
            return Err(ProtocolError);
        }
        let busy = self.activity.start_query();
        let answer = service.answer_request(&packet, &self.requester, &acceptor.shared, pending.as_ref()).await;
        drop(busy);
        let Some(answer) = answer.filter(|answer| self.held.resize(answer.len())) else {
            return self.abandon(DoqErrorCode::InternalError);
        };
        let send = &mut self.send;
        let written = timeout(timeouts.write, async {
            send.write_all(&(answer.len() as u16).to_be_bytes()).await?;
            send.write_all(&answer).await?;
            Ok::<_, quinn::WriteError>(())
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return self.abandon(DoqErrorCode::InternalError);
        }
        service.count_reply(0);
        // The memory is released when the client has the response.
        if self.send.finish().is_ok() {
            let _ = timeout(timeouts.write, self.send.stopped()).await;
        }
        Ok(())
    }

    /// Closes the stream without a response.
    fn abandon(mut self, code: DoqErrorCode) -> Result<(), ProtocolError> {
        self.listener.service.count_reply(1);
        let _ = self.send.reset(code.into());
        Ok(())
    }
}

/// Why there is no query on a stream.
enum ReadError {
    /// The client has cancelled it, or the connection is closed.
    Reset,
    /// The message is not a query.
    Malformed,
    /// The memory of the connection, or of all connections, is at its limit.
    Full,
}

/// Reads the query of a stream. The permit covers the bytes that have arrived, and no more.
async fn read(receive: &mut RecvStream, held: &mut MemoryPermit) -> Result<Vec<u8>, ReadError> {
    let mut prefix = [0; PREFIX];
    receive.read_exact(&mut prefix).await.map_err(|error| match error {
        quinn::ReadExactError::FinishedEarly(_) => ReadError::Malformed,
        quinn::ReadExactError::ReadError(_) => ReadError::Reset,
    })?;
    let len = quic_query_len(prefix).ok_or(ReadError::Malformed)?;
    let mut packet = Vec::new();
    while packet.len() < len {
        let piece = receive.read_chunk(len - packet.len(), true).await.map_err(|_| ReadError::Reset)?;
        packet.extend_from_slice(&piece.ok_or(ReadError::Malformed)?.bytes);
        if !held.resize(packet.len()) {
            return Err(ReadError::Full);
        }
    }
    Ok(packet)
}
