//! Frame Streams, the framing of dnstap: data frames between control frames that begin and end a stream
//! (<https://github.com/farsightsec/fstrm>). This server sends; the other side reads.
//!
//! ```text
//! we     READY ──►          START ──► data … ──► STOP ──►
//! peer          ◄── ACCEPT                            ◄── FINISH
//! ```

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The content type of dnstap.
const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";
/// The type of the only field of control frames.
const CONTENT_TYPE_FIELD: u32 = 1;
/// The maximum length of a control frame (fstrm `FSTRM_CONTROL_FRAME_LENGTH_MAX`).
const MAX_CONTROL: usize = 512;
const ACCEPT: u32 = 1;
const START: u32 = 2;
const STOP: u32 = 3;
const READY: u32 = 4;
const FINISH: u32 = 5;

/// Begins a stream: offers the content type, waits until the peer accepts it, and starts.
pub(super) async fn begin(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&control(READY, true)).await?;
    stream.flush().await?;
    let frame = read_control(stream).await?;
    let (kind, fields) = split_u32(&frame).ok_or_else(|| invalid("the control frame is too short"))?;
    if kind != ACCEPT {
        return Err(invalid("the peer does not accept the stream"));
    }
    if !accepts_content(fields) {
        return Err(invalid("the peer does not accept dnstap messages"));
    }
    stream.write_all(&control(START, true)).await?;
    stream.flush().await
}

/// Ends a stream, and waits until the peer has read it.
pub(super) async fn end(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.write_all(&control(STOP, false)).await?;
    stream.flush().await?;
    let frame = read_control(stream).await?;
    match split_u32(&frame) {
        Some((FINISH, _)) => Ok(()),
        _ => Err(invalid("the peer does not finish the stream")),
    }
}

/// Appends a data frame.
pub(super) fn append(frames: &mut Vec<u8>, data: &[u8]) {
    // A message is shorter than 2^32 bytes.
    frames.extend((data.len() as u32).to_be_bytes());
    frames.extend(data);
}

/// The number of bytes of a data frame besides its data.
pub(super) const OVERHEAD: usize = 4;

/// Returns a control frame.
fn control(kind: u32, has_content_type: bool) -> Vec<u8> {
    let mut body = kind.to_be_bytes().to_vec();
    if has_content_type {
        body.extend(CONTENT_TYPE_FIELD.to_be_bytes());
        append(&mut body, CONTENT_TYPE);
    }
    // The escape: a data frame without data.
    let mut frame = vec![0; 4];
    append(&mut frame, &body);
    frame
}

/// Reads a control frame.
async fn read_control(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    if stream.read_u32().await? != 0 {
        return Err(invalid("the peer sends data"));
    }
    let len = stream.read_u32().await? as usize;
    if len > MAX_CONTROL {
        return Err(invalid("the control frame is too long"));
    }
    let mut frame = vec![0; len];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

/// Returns whether the fields of an ACCEPT frame allow the content type: one of them names it, or none names any.
fn accepts_content(mut fields: &[u8]) -> bool {
    let mut has_content_type = false;
    while let Some((field, rest)) = split_u32(fields) {
        let Some((len, rest)) = split_u32(rest) else { return false };
        let Some((value, rest)) = rest.split_at_checked(len as usize) else { return false };
        if field == CONTENT_TYPE_FIELD {
            if value == CONTENT_TYPE {
                return true;
            }
            has_content_type = true;
        }
        fields = rest;
    }
    !has_content_type
}

fn split_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*number), rest))
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the result of [`begin`] with a peer that sends these bytes.
    fn begin_with(peer: &[u8]) -> Result<Vec<u8>, String> {
        let mut written = Vec::new();
        let mut stream = tokio::io::join(peer, &mut written);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(begin(&mut stream)).map_err(|error| error.to_string())?;
        Ok(written)
    }

    #[test]
    fn a_peer_has_to_accept_the_content_type() {
        let mut expected = control(READY, true);
        expected.extend(control(START, true));
        assert_eq!(begin_with(&control(ACCEPT, true)), Ok(expected.clone()));
        assert_eq!(begin_with(&control(ACCEPT, false)), Ok(expected));
        for (peer, error) in [
            (control(READY, true), "the peer does not accept the stream"),
            (vec![0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0], "early eof"),
            (vec![0, 0, 0, 1, 0], "the peer sends data"),
            (vec![0, 0, 0, 0, 0, 0, 2, 1], "the control frame is too long"),
            (vec![0, 0, 0, 0, 0, 0, 0, 0], "the control frame is too short"),
            (
                [0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, b'x'].to_vec(),
                "the peer does not accept dnstap messages",
            ),
            (
                [0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9].to_vec(),
                "the peer does not accept dnstap messages",
            ),
        ] {
            assert_eq!(begin_with(&peer), Err(error.to_owned()), "{peer:?}");
        }
    }
}
