//! All connected clients, and the code that sends each client the events after its cursor.
//!
//! The event loop owns the clients. Each client gets bytes up to a budget in each turn: frames in memory by one write,
//! frames of the journal by sendfile(2), filtered frames from a batch that all clients with equal criteria share. A
//! client whose socket is full is skipped until the poll reports that the socket can be written; no other client waits
//! for it.

use crate::client::{Client, Criteria, SharedCriteria, State};
use crate::ring::Cursor;
use crate::segment::Segment;
use crate::store::{Read, Store};
use nix::errno::Errno;
use nix::sys::sendfile::sendfile;
use sampan_ipc::event::{EMITTED_TAG, EVENT_TAG, EventView};
use sampan_ipc::frame;
use sampan_ipc::watch::Item;
use std::collections::BTreeMap;
use std::io::{self, IoSlice, Write};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// Most bytes of frames that are sent to one client, or filtered for it, in one turn.
const BYTES_PER_TURN: u64 = 256 << 10;
/// Least time between two position frames to one client, so that filtered events do not wake the client each time.
const POSITION_SPACING: Duration = Duration::from_secs(1);
/// Number of bytes of frames that are filtered in one step.
const FILTER_CHUNK: u64 = 64 << 10;

/// All clients, by token.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    table: BTreeMap<usize, Client>,
    /// The criteria of present subscribers.
    criteria: Vec<Weak<SharedCriteria>>,
    last_criteria_id: u64,
    batch: Batch,
    /// Number of events that clients were told are lost.
    pub(crate) lost: u64,
}

/// The work that the caller of [`Clients::serve`] must do next.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Served {
    /// Whether a client has used up its budget, so that the caller must call again without sleeping.
    pub(crate) more: bool,
    /// Clients whose stream is complete or broken, and whose connection must be closed.
    pub(crate) gone: Vec<usize>,
    /// Clients whose poll interest must change, since [`Client::blocked`] has changed.
    pub(crate) interest_changed: Vec<usize>,
    /// When the next position frame must be sent, unless an event comes first.
    pub(crate) position_at: Option<Instant>,
}

/// The frames of a range of events that match some criteria, for all clients with these criteria and a cursor in the
/// range.
#[derive(Debug, Default)]
struct Batch {
    criteria_id: u64,
    /// Position at which the range begins; `u64::MAX` if the batch must not be used again.
    from: u64,
    /// The end of the range.
    to: Cursor,
    /// The matching frames.
    bytes: Vec<u8>,
    /// For each frame in `bytes`: the offset of its end in `bytes`, and the store's cursor after the frame.
    ends: Vec<(usize, Cursor)>,
    /// The unfiltered frames of the range. The buffer is kept only so that its memory is reused.
    input: Vec<u8>,
}

/// The outcome of one read and write for a client.
enum Step {
    /// The client has advanced, and there may be more to read.
    Advanced,
    /// The client has every visible event.
    UpToDate,
    /// The client's socket is full.
    Blocked,
}

impl Clients {
    pub(crate) fn insert(&mut self, token: usize, client: Client) {
        self.table.insert(token, client);
    }

    pub(crate) fn remove(&mut self, token: usize) -> Option<Client> {
        self.table.remove(&token)
    }

    pub(crate) fn get_mut(&mut self, token: usize) -> Option<&mut Client> {
        self.table.get_mut(&token)
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// All clients, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &Client)> {
        self.table.iter().map(|(token, client)| (*token, client))
    }

    /// All clients for changes, oldest first.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.table.values_mut()
    }

    /// Number of clients of user `uid`.
    pub(crate) fn count_of_uid(&self, uid: u32) -> usize {
        self.table.values().filter(|client| client.peer.uid == uid).count()
    }

    /// Returns the shared form of `criteria`, or `None` if they match every event.
    pub(crate) fn share_criteria(&mut self, criteria: Criteria) -> Option<Rc<SharedCriteria>> {
        if criteria.is_all() {
            return None;
        }
        self.criteria.retain(|known| known.strong_count() > 0);
        let known = self.criteria.iter().filter_map(Weak::upgrade).find(|known| known.criteria == criteria);
        Some(known.unwrap_or_else(|| {
            self.last_criteria_id += 1;
            let shared = Rc::new(SharedCriteria { id: self.last_criteria_id, criteria });
            self.criteria.push(Rc::downgrade(&shared));
            shared
        }))
    }

    /// Prepares the removal of the journal's oldest segments: if a client is inside a frame of such a segment, reads
    /// the rest of the frame into [`Client::out`].
    ///
    /// Returns the clients whose frame could not be read, and whose connections must be closed.
    pub(crate) fn finish_frames(&mut self, store: &Store) -> Vec<usize> {
        let mut broken = Vec::new();
        for (token, client) in &mut self.table {
            let inside = matches!(&client.state, State::Subscribed(subscription) if subscription.inside);
            if inside && let Err(error) = finish_frame(client, store) {
                log::error!("connection {token}: closed within an event, cannot read the journal: {error}");
                broken.push(*token);
            }
        }
        broken
    }

    /// Sends bytes to every client that has unsent events and whose socket has room, up to the client's budget.
    pub(crate) fn serve(&mut self, store: &Store) -> Served {
        let visible = store.visible();
        let now = Instant::now();
        let is_due = |(token, client): (&usize, &Client)| due(client, *token, visible, now);
        let mut due: Vec<Due> = self.table.iter().filter_map(is_due).collect();
        let mut served = Served::default();
        while !due.is_empty() {
            if due.iter().any(|due| due.criteria_id != 0) {
                // Sorting puts clients with equal criteria and near places next to each other, so that they share a
                // batch.
                due.sort_unstable();
            }
            due.retain_mut(|due| self.serve_one(due, store, &mut served));
        }
        // Later events may belong to the range of this batch, so the next call must read the range again.
        self.batch.from = u64::MAX;
        served.position_at = self.table.values().filter_map(|client| next_position(client, visible)).min();
        served
    }

    /// Sends bytes to one client: its whole budget, or one batch if it has criteria. Returns whether the client must
    /// get another turn.
    fn serve_one(&mut self, due: &mut Due, store: &Store, served: &mut Served) -> bool {
        let Some(client) = self.table.get_mut(&due.token) else { return false };
        let stays = match advance(client, due, store, &mut self.batch, &mut self.lost) {
            Ok(Progress::Again) => return true,
            Ok(Progress::OutOfBudget) => {
                served.more = true;
                true
            }
            Ok(Progress::Waits) => matches!(client.state, State::Subscribed(_)) || !client.out.is_empty(),
            Err(error) => {
                log::debug!("connection {}: closed: {error}", due.token);
                false
            }
        };
        if !stays {
            served.gone.push(due.token);
        }
        if client.blocked != client.polled_for_write {
            served.interest_changed.push(due.token);
        }
        false
    }
}

/// A client that can be sent bytes now. Clients are sorted by the fields in this order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    /// ID of the client's criteria; 0 for a client without criteria.
    criteria_id: u64,
    pos: u64,
    token: usize,
    /// Bytes that are left of the client's budget in this turn.
    budget: u64,
}

/// The outcome of a client's turn.
enum Progress {
    /// The client can accept more bytes, and has budget left.
    Again,
    /// The client can accept more bytes, but its budget for this turn is used up.
    OutOfBudget,
    /// The client has every visible event, its socket is full, or its stream is complete.
    Waits,
}

/// When a client that has every visible event must get the next position frame; `None` if it knows its position.
fn next_position(client: &Client, visible: Cursor) -> Option<Instant> {
    let State::Subscribed(subscription) = &client.state else { return None };
    let known = subscription.known.as_ref().filter(|_| !client.blocked && client.out.is_empty())?;
    let is_idle = subscription.at.seq >= visible.seq && subscription.unreported_position().is_some();
    // Without an earlier position frame there is nothing to wait for: `send_position` sends the first frame at once.
    is_idle.then(|| known.sent_at.map(|at| at + POSITION_SPACING)).flatten()
}

fn due(client: &Client, token: usize, visible: Cursor, now: Instant) -> Option<Due> {
    if client.blocked {
        return None;
    }
    let (criteria_id, pos) = match &client.state {
        State::Subscribed(subscription) => {
            let has_more = subscription.at.seq < visible.seq || subscription.stop.is_some();
            let is_position_due = || next_position(client, visible).is_some_and(|at| at <= now);
            if !has_more && client.out.is_empty() && !is_position_due() {
                return None;
            }
            (subscription.criteria.as_ref().map_or(0, |criteria| criteria.id), subscription.at.pos)
        }
        State::Leaving => (0, 0),
        State::Opening(_) => return None,
    };
    Some(Due { criteria_id, pos, token, budget: BYTES_PER_TURN })
}

fn advance(
    client: &mut Client,
    due: &mut Due,
    store: &Store,
    batch: &mut Batch,
    lost: &mut u64,
) -> io::Result<Progress> {
    loop {
        if !client.flush()? {
            return Ok(Progress::Waits);
        }
        let State::Subscribed(subscription) = &mut client.state else { return Ok(Progress::Waits) };
        if let Some(stop) = subscription.stop
            && subscription.at.pos >= stop.pos
        {
            client.out = subscription.unreported_position().map_or(Vec::new(), position_frame);
            client.out.extend(item_frame(&Item::End(stop.reason)));
            client.state = State::Leaving;
            client.flush()?;
            return Ok(Progress::Waits);
        }
        if due.budget == 0 {
            return Ok(Progress::OutOfBudget);
        }
        // The stop is the end of a frame. No byte after it may be read, so that the end frame follows a complete
        // frame.
        let left = subscription.stop.map_or(u64::MAX, |stop| stop.pos - subscription.at.pos);
        let step = match subscription.criteria.clone() {
            None => send_all(client, store, due.budget.min(left), lost)?,
            Some(criteria) => send_filtered(client, store, &criteria, batch, lost)?,
        };
        let State::Subscribed(subscription) = &client.state else { return Ok(Progress::Waits) };
        let advanced = subscription.at.pos.saturating_sub(due.pos);
        (due.budget, due.pos) = (due.budget.saturating_sub(advanced), subscription.at.pos);
        match step {
            Step::Advanced if due.criteria_id == 0 => {}
            // Return to the queue: clients with equal criteria and an earlier place come first, so that all of them
            // share a batch.
            Step::Advanced => return Ok(Progress::Again),
            Step::UpToDate => {
                send_position(client);
                client.flush()?;
                return Ok(Progress::Waits);
            }
            Step::Blocked => {
                client.blocked = true;
                return Ok(Progress::Waits);
            }
        }
    }
}

/// Encodes an item that is not an event. Returns no bytes if that fails, which only a bug can cause.
pub(crate) fn item_frame(item: &Item) -> Vec<u8> {
    frame::encode(item).unwrap_or_else(|error| {
        log::error!("cannot encode a reply, the client will not receive it: {error}");
        Vec::new()
    })
}

fn position_frame(seq: u64) -> Vec<u8> {
    item_frame(&Item::Position { seq })
}

/// Queues a position frame for a client that has every visible event. Does nothing if the client knows its position,
/// or if its last position frame is more recent than [`POSITION_SPACING`].
fn send_position(client: &mut Client) {
    let State::Subscribed(subscription) = &mut client.state else { return };
    let Some(seq) = subscription.unreported_position() else { return };
    let Some(known) = &mut subscription.known else { return };
    let now = Instant::now();
    if known.sent_at.is_none_or(|at| now >= at + POSITION_SPACING) {
        (known.seq, known.sent_at) = (seq, Some(now));
        client.out = position_frame(seq);
    }
}

/// Queues a frame that reports the events between the client's cursor and `next` as lost, and moves the cursor to
/// `next`.
fn send_gap(client: &mut Client, next: Cursor, lost: &mut u64) -> Step {
    let State::Subscribed(subscription) = &mut client.state else {
        return Step::UpToDate;
    };
    let (first, last) = (subscription.at.seq, next.seq - 1);
    subscription.at = next;
    if let Some(known) = &mut subscription.known {
        known.seq = last;
    }
    *lost += last - first + 1;
    client.out = item_frame(&Item::Lost { first, last });
    Step::Advanced
}

/// Sends the next bytes to a client without criteria, unchanged.
fn send_all(client: &mut Client, store: &Store, budget: u64, lost: &mut u64) -> io::Result<Step> {
    let State::Subscribed(subscription) = &mut client.state else {
        return Ok(Step::UpToDate);
    };
    let at = subscription.at;
    match store.read(at, budget, subscription.inside) {
        Read::End => Ok(Step::UpToDate),
        // Another process has removed the segment's file. The client has received half of a frame, so close its
        // connection.
        Read::Gap(_) if subscription.inside => Err(io::ErrorKind::UnexpectedEof.into()),
        Read::Gap(next) => Ok(send_gap(client, next, lost)),
        Read::Ring((one, two), to) => {
            let sent = match write(&mut client.stream, &[IoSlice::new(one), IoSlice::new(two)])? {
                None => return Ok(Step::Blocked),
                Some(sent) => at.pos + sent as u64,
            };
            if sent == to.pos {
                subscription.at = to;
            } else {
                let (aligned, (one, two)) = store.align_in_ring(at, sent);
                subscription.at = aligned;
                client.out = [one, two].concat();
            }
            Ok(Step::Advanced)
        }
        Read::File(segment, to) => {
            let Some(sent) = send_file(client, segment, at.pos, to.pos)? else { return Ok(Step::Blocked) };
            let State::Subscribed(subscription) = &mut client.state else { return Ok(Step::UpToDate) };
            // A search for the end of the frame would cost a read. The next step continues at this byte instead.
            subscription.inside = sent != to.pos || to.seq == 0;
            subscription.at = if subscription.inside { Cursor { pos: sent, seq: at.seq } } else { to };
            Ok(Step::Advanced)
        }
    }
}

/// If a client is inside a frame, reads the rest of the frame into its `out`, so that the journal may remove the file.
fn finish_frame(client: &mut Client, store: &Store) -> io::Result<()> {
    let State::Subscribed(subscription) = &mut client.state else { return Ok(()) };
    let sent = subscription.at.pos;
    let segment =
        store.journal().and_then(|journal| journal.at(sent)).filter(|segment| segment.first().pos <= sent);
    let Some(segment) = segment else { return Err(io::ErrorKind::NotFound.into()) };
    let at = segment.align(sent)?;
    let mut rest = vec![0; at.pos.saturating_sub(sent) as usize];
    if segment.read(sent, &mut rest)? != rest.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    client.out.extend(rest);
    (subscription.at, subscription.inside) = (at, false);
    Ok(())
}

/// Writes as many bytes of `parts` as the socket accepts; `None` if the socket is full.
fn write(stream: &mut mio::net::UnixStream, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
    loop {
        match stream.write_vectored(parts) {
            Ok(len) => return Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends bytes of a journal file by sendfile(2), without a copy in this process. Returns the position after the last
/// byte sent; `None` if the socket is full.
fn send_file(client: &Client, segment: &Segment, from: u64, to: u64) -> io::Result<Option<u64>> {
    let offset =
        i64::try_from(segment.offset(from)).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    loop {
        let mut offset = offset;
        return match sendfile(&client.stream, segment.file(), Some(&mut offset), (to - from) as usize) {
            // Another process has truncated the file.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => Ok(Some(from + sent as u64)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

/// Sends the next matching frames to a client with criteria, from the batch. Fills the batch first if it does not fit
/// the client.
fn send_filtered(
    client: &mut Client,
    store: &Store,
    shared: &SharedCriteria,
    batch: &mut Batch,
    lost: &mut u64,
) -> io::Result<Step> {
    let State::Subscribed(subscription) = &mut client.state else {
        return Ok(Step::UpToDate);
    };
    let at = subscription.at;
    if !batch.covers(shared.id, at.pos) {
        match store.read(at, FILTER_CHUNK, false) {
            Read::End => return Ok(Step::UpToDate),
            Read::Gap(next) => return Ok(send_gap(client, next, lost)),
            read => batch.fill(read, at, shared)?,
        }
    }
    let from = batch.offset_after(at.pos);
    let unsent = batch.bytes.get(from..).unwrap_or_default();
    if unsent.is_empty() {
        subscription.at = batch.to;
        return Ok(Step::Advanced);
    }
    let sent = match write(&mut client.stream, &[IoSlice::new(unsent)])? {
        None => return Ok(Step::Blocked),
        Some(sent) => from + sent,
    };
    let nth = batch.ends.partition_point(|(end, _)| *end < sent);
    // The last frame ends where `bytes` ends, so the frame with the last sent byte is always found.
    let Some((end, after)) = batch.ends.get(nth).copied() else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if let Some(known) = &mut subscription.known {
        known.seq = after.seq - 1;
    }
    if sent == batch.bytes.len() {
        subscription.at = batch.to;
        return Ok(Step::Advanced);
    }
    subscription.at = after;
    client.out = batch.bytes.get(sent..end).unwrap_or_default().to_vec();
    Ok(Step::Advanced)
}

impl Batch {
    /// Whether the batch was filtered by these criteria and its range contains `pos`.
    fn covers(&self, criteria_id: u64, pos: u64) -> bool {
        self.criteria_id == criteria_id && (self.from..self.to.pos).contains(&pos)
    }

    /// Offset in `bytes` of the first frame whose position in the store is `pos` or later.
    fn offset_after(&self, pos: u64) -> usize {
        let nth = self.ends.partition_point(|(_, after)| after.pos <= pos);
        let before = nth.checked_sub(1).and_then(|before| self.ends.get(before));
        before.map_or(0, |(end, _)| *end)
    }

    /// Replaces the batch by the matching frames of `read`, which begins at the cursor `at`.
    fn fill(&mut self, read: Read<'_>, at: Cursor, shared: &SharedCriteria) -> io::Result<()> {
        self.input.clear();
        match read {
            Read::Ring((one, two), _) => {
                self.input.extend_from_slice(one);
                self.input.extend_from_slice(two);
            }
            Read::File(segment, to) => {
                self.input.resize(to.pos.saturating_sub(at.pos) as usize, 0);
                let got = segment.read(at.pos, &mut self.input)?;
                self.input.truncate(got);
            }
            Read::End | Read::Gap(_) => {}
        }
        self.bytes.clear();
        self.ends.clear();
        (self.criteria_id, self.from, self.to) = (shared.id, at.pos, at);
        let mut rest = self.input.as_slice();
        while let Some((frame, remaining)) = split_frame(rest) {
            self.to = Cursor { pos: self.to.pos + frame.len() as u64, seq: self.to.seq + 1 };
            let event = frame.get(frame::HEADER_LEN..).and_then(EventView::of_frame);
            if event.is_some_and(|event| shared.criteria.matches(&event)) {
                let from = self.bytes.len();
                self.bytes.extend_from_slice(frame);
                if shared.criteria.unmarked
                    && let Some(copy) = self.bytes.get_mut(from..)
                {
                    remove_mark(copy);
                }
                self.ends.push((self.bytes.len(), self.to));
            }
            rest = remaining;
        }
        if self.to == at { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Changes the frame of an event from the emit FIFO into the frame of an event from the monitor FIFO, for version 1.
fn remove_mark(frame: &mut [u8]) {
    let Some((header, body)) = frame.split_at_mut_checked(frame::HEADER_LEN) else { return };
    let Some(tag) = body.first_mut().filter(|tag| **tag == EMITTED_TAG) else { return };
    *tag = EVENT_TAG;
    // Header: length u32 LE, CRC-32C of the body u32 LE.
    if let Some(crc) = header.get_mut(4..8) {
        crc.copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    }
}

/// Splits the first frame off `bytes`. The store has already verified the frame's checksum.
fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    bytes.split_at_checked(frame::HEADER_LEN + len)
}
