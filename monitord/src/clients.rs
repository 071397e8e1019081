//! The table of clients, and how they are served.
//!
//! Owned by the event loop. Serves each client from its cursor, on a budget: from memory in one write, from
//! the journal's file by sendfile(2), and through a filter by one scratch batch that all clients with the same
//! wish share. A client whose socket is full waits for the poll to say otherwise; nobody waits for it.

use crate::client::{Client, Select, State, Subscription, Wish};
use crate::ring::Cursor;
use crate::segment::Segment;
use crate::store::{Read, Store};
use nix::errno::Errno;
use nix::sys::sendfile::sendfile;
use sampan_ipc::event::{EMITTED_TAG, EVENT_TAG, EventView};
use sampan_ipc::frame;
use sampan_ipc::watch::{End, Item};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, Write};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

/// Bytes of frames that one client is served, or that are filtered for it, per turn.
const BYTES_PER_TURN: u64 = 256 << 10;
/// Least time between two positions that a client is told.
const POSITION_SPACING: Duration = Duration::from_secs(1);
/// Bytes of frames that are filtered at a time.
const FILTER_CHUNK: u64 = 64 << 10;

/// All clients, by token.
#[derive(Debug, Default)]
pub struct Clients {
    table: BTreeMap<usize, Client>,
    wishes: Vec<Weak<Select>>,
    classes: u64,
    scratch: Scratch,
    /// Events that clients were told are gone.
    pub lost: u64,
}

/// What one call of [`Clients::serve`] leaves to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Some client could take more at once.
    pub more: bool,
    /// Clients whose stream is over or broken.
    pub gone: Vec<usize>,
    /// Clients that wait for room from now on, or no longer.
    pub room: Vec<usize>,
    /// When a client that has all there is may be told its position.
    pub position_at: Option<Instant>,
}

/// Frames that passed a filter, ready to be written to everyone with the same wish at the same place.
#[derive(Debug, Default)]
struct Scratch {
    class: u64,
    from: u64,
    to: Cursor,
    bytes: Vec<u8>,
    /// For each frame in `bytes`: where it ends there, and the cursor behind it.
    ends: Vec<(usize, Cursor)>,
    input: Vec<u8>,
}

/// How far a client got in one step.
enum Step {
    /// On; there may be more.
    On,
    /// It has all there is.
    UpToDate,
    /// Its socket is full.
    Blocked,
}

impl Clients {
    /// Takes in a client.
    pub fn insert(&mut self, token: usize, client: Client) {
        self.table.insert(token, client);
    }

    /// Lets a client go.
    pub fn remove(&mut self, token: usize) -> Option<Client> {
        self.table.remove(&token)
    }

    /// The client, if it is still here.
    pub fn get_mut(&mut self, token: usize) -> Option<&mut Client> {
        self.table.get_mut(&token)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Client)> {
        self.table.iter().map(|(token, client)| (*token, client))
    }

    /// All of them, oldest first, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Client> {
        self.table.values_mut()
    }

    /// How many of them are of user `uid`.
    pub fn of_uid(&self, uid: u32) -> usize {
        self.table.values().filter(|client| client.peer.uid == uid).count()
    }

    /// The shared form of a wish; `None` if it is for every event.
    pub fn select(&mut self, wish: Wish) -> Option<Rc<Select>> {
        if wish.is_all() {
            return None;
        }
        self.wishes.retain(|known| known.strong_count() > 0);
        let known = self.wishes.iter().filter_map(Weak::upgrade).find(|known| known.wish == wish);
        Some(known.unwrap_or_else(|| {
            self.classes += 1;
            let select = Rc::new(Select { class: self.classes, wish });
            self.wishes.push(Rc::downgrade(&select));
            select
        }))
    }

    /// Prepares every client that is inside a frame for the journal's oldest segments to go.
    ///
    /// Returns those whose stream is broken by it.
    pub fn settle(&mut self, store: &Store) -> Vec<usize> {
        let mut broken = Vec::new();
        for (token, client) in &mut self.table {
            let inside = matches!(&client.state, State::Subscribed(subscription) if subscription.inside);
            if inside && let Err(error) = settle(client, store) {
                log::error!("subscriber {token}: cannot read the journal: {error}");
                broken.push(*token);
            }
        }
        broken
    }

    /// Serves everyone who can take something, each within its budget.
    pub fn serve(&mut self, store: &Store) -> Served {
        let visible = store.visible();
        let now = Instant::now();
        let is_due = |(token, client): (&usize, &Client)| due(client, *token, visible, now);
        let mut due: Vec<Due> = self.table.iter().filter_map(is_due).collect();
        let mut served = Served::default();
        while !due.is_empty() {
            if due.iter().any(|due| due.class != 0) {
                // Clients with the same wish at about the same place come one after the other: they share a batch.
                due.sort_unstable();
            }
            due.retain_mut(|due| self.serve_one(due, store, &mut served));
        }
        self.scratch.from = u64::MAX;
        served.position_at = self.table.values().filter_map(|client| next_position(client, visible)).min();
        served
    }

    /// Serves one client: all that it may have, or one batch if it has a filter. True if it is due again.
    fn serve_one(&mut self, due: &mut Due, store: &Store, served: &mut Served) -> bool {
        let Some(client) = self.table.get_mut(&due.token) else { return false };
        let again = match advance(client, due, store, &mut self.scratch, &mut self.lost) {
            Ok(Progress::Again) => return true,
            Ok(Progress::OutOfBudget) => {
                served.more = true;
                true
            }
            Ok(Progress::Rests) => matches!(client.state, State::Subscribed(_)) || !client.out.is_empty(),
            Err(error) => {
                log::debug!("subscriber {}: {error}", due.token);
                false
            }
        };
        if !again {
            served.gone.push(due.token);
        }
        if client.blocked != client.watched_for_room {
            served.room.push(due.token);
        }
        false
    }
}

/// A client that can be served something; sorted by wish and place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    class: u64,
    pos: u64,
    token: usize,
    budget: u64,
}

/// How far a client got.
enum Progress {
    /// It can take more at once, and may.
    Again,
    /// It can take more at once, but others come first.
    OutOfBudget,
    /// It has all there is, or its socket is full, or it is done.
    Rests,
}

/// When a client that has all there is may be told its position, if it does not know it.
fn next_position(client: &Client, visible: Cursor) -> Option<Instant> {
    let State::Subscribed(subscription) = &client.state else { return None };
    let told = subscription.told.as_ref().filter(|_| !client.blocked && client.out.is_empty())?;
    let is_idle = subscription.at.seq >= visible.seq && subscription.owed_position().is_some();
    // Never told: it is told when it is served next, which is now.
    is_idle.then(|| told.at.map(|at| at + POSITION_SPACING)).flatten()
}

fn due(client: &Client, token: usize, visible: Cursor, now: Instant) -> Option<Due> {
    if client.blocked {
        return None;
    }
    let (class, pos) = match &client.state {
        State::Subscribed(subscription) => {
            let behind = subscription.at.seq < visible.seq || subscription.stop.is_some();
            let owed = || next_position(client, visible).is_some_and(|at| at <= now);
            if !behind && client.out.is_empty() && !owed() {
                return None;
            }
            (subscription.select.as_ref().map_or(0, |select| select.class), subscription.at.pos)
        }
        State::Leaving => (0, 0),
        State::Opening(_) => return None,
    };
    Some(Due { class, pos, token, budget: BYTES_PER_TURN })
}

fn advance(
    client: &mut Client,
    due: &mut Due,
    store: &Store,
    scratch: &mut Scratch,
    lost: &mut u64,
) -> io::Result<Progress> {
    loop {
        if !client.flush()? {
            return Ok(Progress::Rests);
        }
        let State::Subscribed(subscription) = &mut client.state else { return Ok(Progress::Rests) };
        if let Some((stop, end)) = subscription.stop
            && subscription.at.pos >= stop
        {
            client.out = subscription.owed_position().map_or(Vec::new(), position_frame);
            client.out.extend(item_frame(&Item::End(end)));
            client.state = State::Leaving;
            client.flush()?;
            return Ok(Progress::Rests);
        }
        if due.budget == 0 {
            return Ok(Progress::OutOfBudget);
        }
        // Not a byte beyond the stop, which is the end of a frame: nothing may follow half of another one.
        let left = subscription.stop.map_or(u64::MAX, |(stop, _)| stop - subscription.at.pos);
        let step = match subscription.select.clone() {
            None => pass_all(client, store, due.budget.min(left), lost)?,
            Some(select) => pass_some(client, store, &select, scratch, lost)?,
        };
        let State::Subscribed(subscription) = &client.state else { return Ok(Progress::Rests) };
        let passed = subscription.at.pos.saturating_sub(due.pos);
        (due.budget, due.pos) = (due.budget.saturating_sub(passed), subscription.at.pos);
        match step {
            Step::On if due.class == 0 => {}
            Step::On => return Ok(Progress::Again),
            Step::UpToDate => {
                tell_position(client);
                client.flush()?;
                return Ok(Progress::Rests);
            }
            Step::Blocked => {
                client.blocked = true;
                return Ok(Progress::Rests);
            }
        }
    }
}

/// The frame of one of this process's own items.
pub fn item_frame(item: &Item) -> Vec<u8> {
    frame::encode(item).unwrap_or_else(|error| {
        log::error!("cannot encode an answer: {error}");
        Vec::new()
    })
}

fn position_frame(seq: u64) -> Vec<u8> {
    item_frame(&Item::Position { seq })
}

/// Tells a client that has all there is how far that is, if it does not know and was not told a moment ago.
fn tell_position(client: &mut Client) {
    let State::Subscribed(subscription) = &mut client.state else { return };
    let Some(seq) = subscription.owed_position() else { return };
    let Some(told) = &mut subscription.told else { return };
    let now = Instant::now();
    if told.at.is_none_or(|at| now >= at + POSITION_SPACING) {
        (told.seq, told.at) = (seq, Some(now));
        client.out = position_frame(seq);
    }
}

/// Tells a client that what is before `next` is gone.
fn tell_gap(client: &mut Client, next: Cursor, lost: &mut u64) -> Step {
    let State::Subscribed(subscription) = &mut client.state else {
        return Step::UpToDate;
    };
    let (first, last) = (subscription.at.seq, next.seq - 1);
    subscription.at = next;
    if let Some(told) = &mut subscription.told {
        told.seq = last;
    }
    *lost += last - first + 1;
    client.out = item_frame(&Item::Lost { first, last });
    Step::On
}

/// One step of a client that wants every event: bytes go out as they are.
fn pass_all(client: &mut Client, store: &Store, budget: u64, lost: &mut u64) -> io::Result<Step> {
    let State::Subscribed(subscription) = &mut client.state else {
        return Ok(Step::UpToDate);
    };
    let at = subscription.at;
    match store.read(at, budget, subscription.inside) {
        Read::End => Ok(Step::UpToDate),
        // The file went behind our back; another frame's bytes must not follow half of this one.
        Read::Gap(_) if subscription.inside => Err(io::ErrorKind::UnexpectedEof.into()),
        Read::Gap(next) => Ok(tell_gap(client, next, lost)),
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
            Ok(Step::On)
        }
        Read::File(segment, to) => {
            let Some(sent) = send_file(client, segment, at.pos, to.pos)? else { return Ok(Step::Blocked) };
            let State::Subscribed(subscription) = &mut client.state else { return Ok(Step::UpToDate) };
            // Where frames end is not looked up: the next step goes on from the same byte.
            subscription.inside = sent != to.pos || to.seq == 0;
            subscription.at = if subscription.inside { Cursor { pos: sent, seq: at.seq } } else { to };
            Ok(Step::On)
        }
    }
}

/// Reads the rest of the frame that a client is inside of, so that the file behind it is needed no more.
fn settle(client: &mut Client, store: &Store) -> io::Result<()> {
    let State::Subscribed(subscription) = &mut client.state else { return Ok(()) };
    let sent = subscription.at.pos;
    let segment =
        store.journal().and_then(|journal| journal.at(sent)).filter(|segment| segment.first().pos <= sent);
    let Some(segment) = segment else { return Err(io::ErrorKind::NotFound.into()) };
    let at = segment.align(sent)?;
    let mut rest = vec![0; (at.pos - sent) as usize];
    if segment.read(sent, &mut rest)? != rest.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    client.out.extend(rest);
    (subscription.at, subscription.inside) = (at, false);
    Ok(())
}

/// Writes the parts; `None` if the socket is full.
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

/// Sends from the journal's file, without a copy in this process; returns the position reached, or `None` if
/// the socket is full. sendfile(2).
fn send_file(client: &Client, segment: &Segment, from: u64, to: u64) -> io::Result<Option<u64>> {
    let offset =
        i64::try_from(segment.offset(from)).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    loop {
        let mut offset = offset;
        return match sendfile(&client.stream, segment.file(), Some(&mut offset), (to - from) as usize) {
            // Somebody cut the file behind our back.
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(sent) => Ok(Some(from + sent as u64)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno.into()),
        };
    }
}

/// One step of a client that wants some events.
fn pass_some(
    client: &mut Client,
    store: &Store,
    select: &Select,
    scratch: &mut Scratch,
    lost: &mut u64,
) -> io::Result<Step> {
    let State::Subscribed(subscription) = &mut client.state else {
        return Ok(Step::UpToDate);
    };
    let at = subscription.at;
    if !scratch.covers(select.class, at.pos) {
        match store.read(at, FILTER_CHUNK, false) {
            Read::End => return Ok(Step::UpToDate),
            Read::Gap(next) => return Ok(tell_gap(client, next, lost)),
            read => scratch.fill(read, at, select)?,
        }
    }
    let from = scratch.behind(at.pos);
    if from == scratch.bytes.len() {
        subscription.at = scratch.to;
        return Ok(Step::On);
    }
    let sent = match write(&mut client.stream, &[IoSlice::new(&scratch.bytes[from..])])? {
        None => return Ok(Step::Blocked),
        Some(sent) => from + sent,
    };
    let nth = scratch.ends.partition_point(|(end, _)| *end < sent);
    let (end, behind) = scratch.ends[nth];
    if let Some(told) = &mut subscription.told {
        told.seq = behind.seq - 1;
    }
    if sent == scratch.bytes.len() {
        subscription.at = scratch.to;
        return Ok(Step::On);
    }
    subscription.at = behind;
    client.out = scratch.bytes[sent..end].to_vec();
    Ok(Step::On)
}

impl Scratch {
    /// True if it holds what passes from `pos` on.
    fn covers(&self, class: u64, pos: u64) -> bool {
        self.class == class && (self.from..self.to.pos).contains(&pos)
    }

    /// Where in `bytes` that begins which a client at `pos` has not been given.
    fn behind(&self, pos: u64) -> usize {
        let nth = self.ends.partition_point(|(_, behind)| behind.pos <= pos);
        if nth == 0 { 0 } else { self.ends[nth - 1].0 }
    }

    /// Filters what was read at `at`.
    fn fill(&mut self, read: Read<'_>, at: Cursor, select: &Select) -> io::Result<()> {
        self.input.clear();
        match read {
            Read::Ring((one, two), _) => {
                self.input.extend_from_slice(one);
                self.input.extend_from_slice(two);
            }
            Read::File(segment, to) => {
                self.input.resize((to.pos - at.pos) as usize, 0);
                let got = segment.read(at.pos, &mut self.input)?;
                self.input.truncate(got);
            }
            Read::End | Read::Gap(_) => {}
        }
        self.bytes.clear();
        self.ends.clear();
        (self.class, self.from, self.to) = (select.class, at.pos, at);
        let mut rest = self.input.as_slice();
        while let Some((whole, behind)) = first_frame(rest) {
            self.to = Cursor { pos: self.to.pos + whole.len() as u64, seq: self.to.seq + 1 };
            if EventView::of_frame(&whole[frame::HEADER_LEN..])
                .is_some_and(|event| select.wish.matches(&event))
            {
                let from = self.bytes.len();
                self.bytes.extend_from_slice(whole);
                if select.wish.unmarked {
                    unmark(&mut self.bytes[from..]);
                }
                self.ends.push((self.bytes.len(), self.to));
            }
            rest = behind;
        }
        if self.to == at { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Makes the frame of an emitted event one of any event, which is all that version 1 knows.
fn unmark(whole: &mut [u8]) {
    let (header, body) = whole.split_at_mut(frame::HEADER_LEN);
    if body.first() == Some(&EMITTED_TAG) {
        body[0] = EVENT_TAG;
        header[4..8].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    }
}

/// Splits a whole frame off; its sum was checked when it was taken.
fn first_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    bytes.split_at_checked(frame::HEADER_LEN + len)
}

/// Ends a client's stream once it has been given what is before `stop`.
pub fn end_at(subscription: &mut Subscription, stop: u64, end: End) {
    subscription.stop.get_or_insert((stop, end));
}
