//! Batches of datagrams: a safe wrapper of `recvmmsg` and `sendmmsg`, and the only `unsafe` code of the crate.
//!
//! ```text
//!  slot i:  peer address ─┐   question bytes      answer bytes
//!           control ──────┤        ▲                    │
//!                         │   recvmmsg             sendmmsg
//!                         └────────────── both use the same peer address and control message
//! ```
//!
//! A response is sent with the addresses in the slot of its question, so that they are not copied. All memory is
//! allocated once. The kernel fills slots from the first one on, so that only the pages of the largest batch are ever
//! used.

#![expect(unsafe_code, reason = "recvmmsg and sendmmsg have no safe form that reuses its memory")]

use std::io;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{NonNull, addr_of_mut};

use crate::wire::MAX_UDP;

/// The number of datagrams that are read or written with one system call. Knot uses 10, sdns 16, quinn 32.
pub(crate) const BATCH: usize = 32;
/// The maximum length of a question in bytes. A longer datagram is truncated and marked.
pub(crate) const MAX_QUESTION: usize = 4_096;
/// The distance between the starts of two buffers: not a power of two, or the first lines of all buffers would share
/// one set of the processor's cache.
const STRIDE: usize = 4_096 + 128;
/// The size of a peer address: that of an `AF_INET6` one.
const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// The start of a control message's data: `CMSG_LEN(0)`.
const CONTROL_DATA: usize = size_of::<libc::cmsghdr>().next_multiple_of(size_of::<usize>());
/// The size of a control message with the larger of both kinds of packet information.
const CONTROL_LEN: usize = (CONTROL_DATA + size_of::<libc::in6_pktinfo>()).next_multiple_of(size_of::<usize>());
/// The maximum number of retries, 2 ms apart, when the socket's buffer is full, before the response is dropped.
const FULL_RETRIES: usize = 3;

/// Bytes of a `sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct SocketName([u8; NAME_LEN]);

/// Bytes of one control message.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// The memory that the kernel and this process share.
#[repr(C)]
struct Memory {
    incoming: [libc::mmsghdr; BATCH],
    outgoing: [libc::mmsghdr; BATCH],
    questions_at: [libc::iovec; BATCH],
    answers_at: [libc::iovec; BATCH],
    names: [SocketName; BATCH],
    controls: [Control; BATCH],
    questions: [[u8; STRIDE]; BATCH],
    answers: [[u8; STRIDE]; BATCH],
}

/// The slots of one worker.
pub(crate) struct Batch {
    /// Owned; a raw pointer, since `Memory` points into itself and no reference to the whole of it may exist.
    memory: NonNull<Memory>,
    /// The number of slots that the last receive filled.
    received: usize,
    /// The number of responses that are queued.
    queued: usize,
    /// The kernel refuses `recvmmsg` or `sendmmsg` (ENOSYS, or EPERM from a seccomp filter).
    one_by_one: bool,
}

// SAFETY: `memory` is owned by this value alone and nothing in it belongs to a thread.
unsafe impl Send for Batch {}

/// A datagram that was received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    /// The bytes, at most the first [`MAX_QUESTION`].
    pub bytes: &'a [u8],
    /// The datagram was longer.
    pub truncated: bool,
    /// The address of the sender.
    pub remote: SocketAddr,
    /// The address that it was sent to, on a socket that has packet information.
    pub local: Option<IpAddr>,
}

/// The result of sending a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SendOutcome {
    /// The number of responses that were sent.
    pub sent: usize,
    /// The number of responses that the kernel refused.
    pub failed: usize,
}

impl Batch {
    /// Allocates the memory.
    pub(crate) fn new() -> Batch {
        let memory = Box::<Memory>::new_zeroed();
        // SAFETY: `Memory` is integers, raw pointers and C structs of these, for all of which zero is a value.
        let at = Box::into_raw(unsafe { memory.assume_init() });
        let memory = NonNull::new(at).expect("a box has an address");
        for slot in 0..BATCH {
            // SAFETY: `at` is valid and owned, `slot` is in bounds, and no reference into the memory exists yet. The
            // pointers stored stay valid as long as the memory, which never moves.
            unsafe {
                (*at).questions_at[slot] =
                    libc::iovec { iov_base: addr_of_mut!((*at).questions[slot]).cast(), iov_len: MAX_QUESTION };
                (*at).answers_at[slot].iov_base = addr_of_mut!((*at).answers[slot]).cast();
                let header = addr_of_mut!((*at).incoming[slot].msg_hdr);
                (*header).msg_name = addr_of_mut!((*at).names[slot]).cast();
                (*header).msg_iov = addr_of_mut!((*at).questions_at[slot]);
                (*header).msg_iovlen = 1;
                (*header).msg_control = addr_of_mut!((*at).controls[slot]).cast();
                let header = addr_of_mut!((*at).outgoing[slot].msg_hdr);
                (*header).msg_iov = addr_of_mut!((*at).answers_at[slot]);
                (*header).msg_iovlen = 1;
            }
        }
        Batch { memory, received: BATCH, queued: 0, one_by_one: false }
    }

    /// Receives the datagrams that have arrived; waits for the first one if `wait`. Returns the number of filled slots.
    /// Responses that were queued and not sent are dropped.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>, wait: bool) -> io::Result<usize> {
        let at = self.memory.as_ptr();
        for slot in 0..self.received {
            // SAFETY: in bounds, and no reference into the memory outlives a call of this type's methods. The kernel
            // has put in the lengths of what it wrote; they are set back to what fits.
            unsafe {
                let header = addr_of_mut!((*at).incoming[slot].msg_hdr);
                (*header).msg_namelen = NAME_LEN as _;
                (*header).msg_controllen = CONTROL_LEN as _;
                (*header).msg_flags = 0;
            }
        }
        (self.received, self.queued) = (0, 0);
        if !self.one_by_one {
            let flags = if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
            // SAFETY: `incoming` holds BATCH headers, each of which points to a name, one buffer and a control buffer
            // of the lengths given, all owned by `memory`; there is no reference to any of them now.
            let received = retried(|| unsafe {
                let headers = addr_of_mut!((*at).incoming).cast();
                libc::recvmmsg(socket.as_raw_fd(), headers, BATCH as _, flags as _, std::ptr::null_mut()) as isize
            });
            match received {
                Err(error) if is_refusal(&error) => self.one_by_one = true,
                other => {
                    self.received = other?;
                    return Ok(self.received);
                }
            }
        }
        while self.received < BATCH {
            let flags = if wait && self.received == 0 { 0 } else { libc::MSG_DONTWAIT };
            // SAFETY: as above, for one header.
            let read = retried(|| unsafe {
                libc::recvmsg(socket.as_raw_fd(), addr_of_mut!((*at).incoming[self.received].msg_hdr), flags)
            });
            match read {
                // SAFETY: in bounds, and not referred to.
                Ok(len) => unsafe { (*at).incoming[self.received].msg_len = len as _ },
                Err(error) if self.received == 0 => return Err(error),
                Err(_) => break,
            }
            self.received += 1;
        }
        Ok(self.received)
    }

    /// Returns the datagram in a slot, if its sender has an IP address, and the buffer for its answer.
    ///
    /// # Panics
    /// When the last receive did not fill the slot.
    pub(crate) fn slot(&mut self, slot: usize) -> (Option<Datagram<'_>>, &mut [u8]) {
        assert!(slot < self.received);
        let at = self.memory.as_ptr();
        // SAFETY: in bounds. The references are to distinct fields, last no longer than the borrow of `self`, and the
        // kernel writes only within calls that borrow `self` uniquely.
        let (incoming, name, control, question, answer) = unsafe {
            (
                &(*at).incoming[slot],
                &(*at).names[slot],
                &(*at).controls[slot],
                &(*at).questions[slot],
                &mut (*at).answers[slot],
            )
        };
        let header = &incoming.msg_hdr;
        let datagram = name.address(header.msg_namelen as usize).map(|remote| Datagram {
            bytes: &question[..(incoming.msg_len as usize).min(MAX_QUESTION)],
            truncated: header.msg_flags & libc::MSG_TRUNC != 0,
            remote,
            local: control.local(control_len(header)),
        });
        (datagram, &mut answer[..MAX_UDP])
    }

    /// Queues the first `len` bytes of a slot's answer.
    ///
    /// # Panics
    /// When the last receive did not fill the slot, more is queued than was received, or `len` is too large.
    pub(crate) fn queue(&mut self, slot: usize, len: usize) {
        assert!(slot < self.received && self.queued < BATCH && len <= MAX_UDP);
        let at = self.memory.as_ptr();
        // SAFETY: in bounds and not referred to. What is stored points into the owned memory.
        unsafe {
            let received = addr_of_mut!((*at).incoming[slot].msg_hdr);
            let control = addr_of_mut!((*at).controls[slot]);
            let control_len = control_len(&*received);
            if control_len > 0 {
                (*control).leave_by_any_interface();
            }
            (*at).answers_at[slot].iov_len = len;
            let header = addr_of_mut!((*at).outgoing[self.queued].msg_hdr);
            (*header).msg_name = addr_of_mut!((*at).names[slot]).cast();
            (*header).msg_namelen = (*received).msg_namelen;
            (*header).msg_iov = addr_of_mut!((*at).answers_at[slot]);
            (*header).msg_control = if control_len > 0 { control.cast() } else { std::ptr::null_mut() };
            (*header).msg_controllen = control_len as _;
        }
        self.queued += 1;
    }

    /// Queues the first `len` bytes of a slot's answer to whom `path` leads.
    ///
    /// # Panics
    /// As [`Batch::queue`].
    pub(crate) fn queue_to(&mut self, slot: usize, len: usize, path: &ReturnPath) {
        assert!(slot < self.received && self.queued < BATCH && len <= MAX_UDP);
        let at = self.memory.as_ptr();
        // SAFETY: in bounds and not referred to. The slot's own peer address and control message are needed no more.
        unsafe {
            (*at).names[slot] = path.name;
            (*at).controls[slot] = path.control;
            (*at).answers_at[slot].iov_len = len;
            let header = addr_of_mut!((*at).outgoing[self.queued].msg_hdr);
            (*header).msg_name = addr_of_mut!((*at).names[slot]).cast();
            (*header).msg_namelen = path.name_len as _;
            (*header).msg_iov = addr_of_mut!((*at).answers_at[slot]);
            let has_control = path.control_len > 0;
            (*header).msg_control =
                if has_control { addr_of_mut!((*at).controls[slot]).cast() } else { std::ptr::null_mut() };
            (*header).msg_controllen = path.control_len as _;
        }
        self.queued += 1;
    }

    /// Sends what is queued. An answer that the kernel does not take is skipped; the others are still sent.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> SendOutcome {
        let at = self.memory.as_ptr();
        let mut outcome = SendOutcome::default();
        let mut next = 0;
        let mut full = 0;
        while next < self.queued {
            let left = if self.one_by_one { 1 } else { self.queued - next };
            // SAFETY: the headers from `next` on, `left` of them, were filled by `queue` and point into the owned
            // memory, to which there is no reference now.
            let one = |next: usize| {
                retried(|| unsafe {
                    let header = addr_of_mut!((*at).outgoing[next].msg_hdr);
                    libc::sendmsg(socket.as_raw_fd(), header, libc::MSG_DONTWAIT)
                })
                .map(|_| 1)
            };
            // SAFETY: as above.
            let many = |next: usize| {
                retried(|| unsafe {
                    let headers = addr_of_mut!((*at).outgoing[next]);
                    libc::sendmmsg(socket.as_raw_fd(), headers, left as _, libc::MSG_DONTWAIT as _) as isize
                })
            };
            let mut sent = if self.one_by_one { one(next) } else { many(next) };
            if sent.as_ref().is_err_and(is_refusal) && !self.one_by_one {
                // A packet filter that drops one response results in EPERM, too; `sendmsg` distinguishes the two cases.
                sent = one(next);
                self.one_by_one = sent.is_ok();
            }
            match sent {
                Ok(sent) => {
                    next += sent;
                    outcome.sent += sent;
                }
                Err(error) if is_full(&error) && full < FULL_RETRIES => {
                    full += 1;
                    wait_writable(socket);
                }
                Err(_) => {
                    next += 1;
                    outcome.failed += 1;
                }
            }
        }
        self.queued = 0;
        outcome
    }

    /// Returns the way back to the sender of a slot, for an answer that is sent later.
    ///
    /// # Panics
    /// When the last receive did not fill the slot.
    pub(crate) fn return_path(&self, slot: usize) -> ReturnPath {
        assert!(slot < self.received);
        let at = self.memory.as_ptr();
        // SAFETY: in bounds, and copied while nothing writes.
        let (header, name, mut control) =
            unsafe { ((*at).incoming[slot].msg_hdr, (*at).names[slot], (*at).controls[slot]) };
        let control_len = control_len(&header);
        if control_len > 0 {
            control.leave_by_any_interface();
        }
        ReturnPath { name, name_len: header.msg_namelen as usize, control, control_len }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: it came from a `Box` in `new`, and is freed once.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

/// Datagrams that are sent through sockets with a peer.
pub(crate) struct Outbox {
    /// Owned; a raw pointer, since it points into itself.
    memory: NonNull<Outgoing>,
    /// How many there are.
    len: usize,
    /// The kernel refuses `sendmmsg`.
    one_by_one: bool,
}

/// The memory that the kernel reads.
#[repr(C)]
struct Outgoing {
    headers: [libc::mmsghdr; BATCH],
    at: [libc::iovec; BATCH],
    bytes: [[u8; STRIDE]; BATCH],
}

// SAFETY: `memory` is owned by this value alone and nothing in it belongs to a thread.
unsafe impl Send for Outbox {}

impl Outbox {
    /// Allocates the memory.
    pub(crate) fn new() -> Outbox {
        let memory = Box::<Outgoing>::new_zeroed();
        // SAFETY: `Outgoing` is integers, raw pointers and C structs of these, for all of which zero is a value.
        let at = Box::into_raw(unsafe { memory.assume_init() });
        for slot in 0..BATCH {
            // SAFETY: valid, owned, in bounds, and not referred to; the memory never moves.
            unsafe {
                (*at).at[slot].iov_base = addr_of_mut!((*at).bytes[slot]).cast();
                let header = addr_of_mut!((*at).headers[slot].msg_hdr);
                (*header).msg_iov = addr_of_mut!((*at).at[slot]);
                (*header).msg_iovlen = 1;
            }
        }
        Outbox { memory: NonNull::new(at).expect("a box has an address"), len: 0, one_by_one: false }
    }

    /// Adds a datagram, of at most [`MAX_QUESTION`] bytes.
    ///
    /// # Panics
    /// When there are [`BATCH`] already, or it is too long.
    pub(crate) fn push(&mut self, datagram: &[u8]) -> &mut [u8] {
        assert!(self.len < BATCH && datagram.len() <= MAX_QUESTION);
        let at = self.memory.as_ptr();
        // SAFETY: in bounds; the reference lasts no longer than the borrow of `self`.
        let bytes = unsafe {
            (*at).at[self.len].iov_len = datagram.len();
            &mut (*at).bytes[self.len]
        };
        self.len += 1;
        let bytes = &mut bytes[..datagram.len()];
        bytes.copy_from_slice(datagram);
        bytes
    }

    /// Sends all of them through a socket. Calls `failed` for each that it did not take, with its place.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, mut failed: impl FnMut(usize, io::Error)) {
        let at = self.memory.as_ptr();
        let len = std::mem::take(&mut self.len);
        let mut next = 0;
        let mut full = 0;
        while next < len {
            // SAFETY: the headers below `len` point to bytes of theirs in the owned memory, to which there is no
            // reference now.
            let one = |next: usize| {
                retried(|| unsafe {
                    libc::sendmsg(socket.as_raw_fd(), addr_of_mut!((*at).headers[next].msg_hdr), libc::MSG_DONTWAIT)
                })
                .map(|_| 1)
            };
            // SAFETY: as above.
            let many = |next: usize| {
                retried(|| unsafe {
                    let headers = addr_of_mut!((*at).headers[next]);
                    libc::sendmmsg(socket.as_raw_fd(), headers, (len - next) as _, libc::MSG_DONTWAIT as _) as isize
                })
            };
            let mut sent = if self.one_by_one { one(next) } else { many(next) };
            if sent.as_ref().is_err_and(is_refusal) && !self.one_by_one {
                sent = one(next);
                self.one_by_one = sent.is_ok();
            }
            match sent {
                Ok(sent) => next += sent,
                Err(error) if is_full(&error) && full < FULL_RETRIES => {
                    full += 1;
                    wait_writable(socket);
                }
                Err(error) => {
                    failed(next, error);
                    next += 1;
                }
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        // SAFETY: it came from a `Box` in `new`, and is freed once.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

/// The way back to a client: its address, and the one that it asked.
#[derive(Clone, Copy)]
pub(crate) struct ReturnPath {
    name: SocketName,
    name_len: usize,
    control: Control,
    control_len: usize,
}

impl ReturnPath {
    /// Sends one answer. It does not wait.
    pub(crate) fn send(&self, socket: BorrowedFd<'_>, answer: &[u8]) -> io::Result<()> {
        let mut bytes = libc::iovec { iov_base: answer.as_ptr().cast_mut().cast(), iov_len: answer.len() };
        // SAFETY: zero is a value of this C struct.
        let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
        header.msg_name = (&raw const self.name).cast_mut().cast();
        header.msg_namelen = self.name_len as _;
        header.msg_iov = &raw mut bytes;
        header.msg_iovlen = 1;
        if self.control_len > 0 {
            header.msg_control = (&raw const self.control).cast_mut().cast();
            header.msg_controllen = self.control_len as _;
        }
        // SAFETY: all that the header points to lives until the call ends, and `sendmsg` only reads it.
        retried(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &header, libc::MSG_DONTWAIT) }).map(|_| ())
    }
}

impl SocketName {
    /// Returns the address, if it is an IP address. An IPv4 client of a socket for both families has an IPv4 address.
    fn address(&self, len: usize) -> Option<SocketAddr> {
        let bytes = &self.0;
        if len < size_of::<libc::sockaddr_in>() {
            return None;
        }
        let family = libc::sa_family_t::from_ne_bytes(bytes[..2].try_into().ok()?);
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        match i32::from(family) {
            libc::AF_INET => Some(SocketAddr::from((ipv4(bytes, offset_of!(libc::sockaddr_in, sin_addr)), port))),
            libc::AF_INET6 if len >= NAME_LEN => {
                let ip = ipv6(bytes, offset_of!(libc::sockaddr_in6, sin6_addr));
                let scope = offset_of!(libc::sockaddr_in6, sin6_scope_id);
                let scope = u32::from_ne_bytes(bytes[scope..scope + 4].try_into().ok()?);
                match ip.to_ipv4_mapped() {
                    Some(ip) => Some(SocketAddr::from((ip, port))),
                    None => Some(SocketAddrV6::new(ip, port, 0, scope).into()),
                }
            }
            _ => None,
        }
    }
}

impl Control {
    /// Returns whether this is packet information of IPv6, and not of IPv4. Sockets of this server request no other
    /// message.
    fn is_v6(&self) -> bool {
        let at = offset_of!(libc::cmsghdr, cmsg_level);
        self.0[at..at + 4] == libc::IPPROTO_IPV6.to_ne_bytes()
    }

    /// Returns the address that the datagram was sent to.
    fn local(&self, len: usize) -> Option<IpAddr> {
        if len < CONTROL_DATA + size_of::<libc::in_pktinfo>() {
            return None;
        }
        Some(if self.is_v6() {
            ipv6(&self.0, CONTROL_DATA + offset_of!(libc::in6_pktinfo, ipi6_addr)).to_canonical()
        } else {
            ipv4(&self.0, CONTROL_DATA + offset_of!(libc::in_pktinfo, ipi_addr)).into()
        })
    }

    /// Turns the information of a question into that of its answer: the address stays, the routing table chooses the
    /// interface, as in miekg/dns `correctSource`. Only a link-local address means nothing without its interface.
    fn leave_by_any_interface(&mut self) {
        let interface = if self.is_v6() {
            if ipv6(&self.0, CONTROL_DATA + offset_of!(libc::in6_pktinfo, ipi6_addr)).is_unicast_link_local() {
                return;
            }
            CONTROL_DATA + offset_of!(libc::in6_pktinfo, ipi6_ifindex)
        } else {
            CONTROL_DATA + offset_of!(libc::in_pktinfo, ipi_ifindex)
        };
        self.0[interface..interface + 4].fill(0);
    }
}

/// How many bytes of control messages a header has.
#[allow(clippy::unnecessary_cast, reason = "it is 32 bits wide with musl")]
fn control_len(header: &libc::msghdr) -> usize {
    header.msg_controllen as usize
}

/// Returns the IPv4 address at an offset.
fn ipv4(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from_octets(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// Returns the IPv6 address at an offset.
fn ipv6(bytes: &[u8], at: usize) -> Ipv6Addr {
    Ipv6Addr::from_octets(bytes[at..at + 16].try_into().expect("sixteen bytes"))
}

/// Makes a system call, again while signals interrupt it.
fn retried(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(done) = usize::try_from(call()) {
            return Ok(done);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The kernel has no such call, or a seccomp filter does not allow it.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// The socket's or the device's buffer is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS))
}

/// Waits at most 2 ms until the socket takes more.
fn wait_writable(socket: BorrowedFd<'_>) {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one `pollfd`, which lives until the call ends.
    unsafe { libc::poll(&raw mut poll, 1, 2) };
}

#[cfg(test)]
mod tests;
