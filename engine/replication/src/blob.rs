//! Copies one blob: asks whether it is there, mounts it, or sends it in chunks.
//!
//! A chunk is read whole from the source before a request to the destination is opened, so that a broken source never
//! breaks an upload session. Each acknowledged chunk is in the journal before the next one is sent: an interrupted
//! upload continues at that byte, also after a restart of the engine. The digest is compared before the blob is
//! finished, so wrong bytes never become visible.
//!
//! ```text
//!        there                        mounted
//! ask ──────────▶ unchanged    ┌────────────────▶ mounted
//!  │ absent                    │
//!  └───▶ resume, or begin ─────┤ session at byte N
//!              ▲               ▼
//!              │      read a chunk ──▶ send ──▶ journal ──▶ … ──▶ digest is right ──▶ finish ──▶ copied
//!     session  │            ▲            │                              │ wrong
//!      lost    └────────────┴─ offset? ◀─┘ broken                       └──▶ delete the session, failed
//! ```

use crate::attempts::Attempts;
use crate::blob_reader::ChunkReader;
use crate::record::{Record, SavedSession};
use crate::rows::BlobRow;
use crate::run::{Halt, Run};
use crate::side::{Begin, FailureKind, Repository, Session, SideError};
use sampan_ipc::engine::Phase;
use sampan_ipc::replication::Outcome;
use sampan_ipc::report;
use sampan_oci::Descriptor;
use std::sync::Arc;

/// Size of a chunk in bytes, unless the destination demands larger ones.
pub const CHUNK: u64 = 8 << 20;
/// Largest chunk that a destination may demand, in bytes.
const CHUNK_MAX: u64 = 64 << 20;
/// Progress in bytes after which earlier failures no longer count.
const PROGRESS: u64 = 1 << 20;
/// How often the upload of one blob may begin anew because the destination forgot its session.
const LOST_MAX: u32 = 5;

/// Both sides of a task.
#[derive(Clone)]
pub struct Sides {
    /// The repository that is read.
    pub source: Arc<dyn Repository>,
    /// Its name at its place.
    pub source_name: String,
    /// The repository that is written.
    pub destination: Arc<dyn Repository>,
    /// Its name at its place.
    pub destination_name: String,
}

/// Copies `blob`, unless the destination has it. Counts its bytes in the summary row.
///
/// # Errors
/// [`Halt::Side`]: the copy failed. [`Halt::Stopped`]: the upload session stays, and the journal knows it.
pub fn copy(run: &Run<'_>, sides: &Sides, blob: &Descriptor) -> Result<Outcome, Halt> {
    let about = format!("blob {} to {}", blob.digest, sides.destination.name());
    if run.persist(&about, || sides.destination.has_blob(blob))? {
        run.rows.need_not_send(blob.size);
        return Ok(Outcome::Unchanged);
    }
    // While another task sends the same blob to another repository of the destination, wait: it can be mounted then.
    let key = format!("{} {}", run.destination_key, blob.digest);
    let _claim = run.limits.claim(&key, &run.soft, &|_| ())?;
    let mut copy = Copy { run, sides, blob, about, attempts: Attempts::default(), failed_at: 0, lost: 0 };
    let outcome = copy.run()?;
    run.known.add(&blob.digest.to_string(), &sides.destination_name);
    Ok(outcome)
}

/// A running copy of one blob.
struct Copy<'a> {
    run: &'a Run<'a>,
    sides: &'a Sides,
    blob: &'a Descriptor,
    /// Names the copy in messages.
    about: String,
    attempts: Attempts,
    /// Bytes at the destination when the last attempt failed.
    failed_at: u64,
    /// How often the destination has forgotten the session.
    lost: u32,
}

/// An upload session, and the number of bytes that the destination has acknowledged.
struct Open {
    session: Session,
    at: u64,
}

impl Copy<'_> {
    fn run(&mut self) -> Result<Outcome, Halt> {
        let Some(mut open) = self.open()? else {
            self.run.rows.need_not_send(self.blob.size);
            return Ok(Outcome::Mounted);
        };
        let run = self.run;
        let mut row = run.rows.blob(self.blob.digest.short(), self.blob.size);
        let mut reader = ChunkReader::new(run, self.sides.source.as_ref(), self.blob);
        loop {
            row.set(open.at);
            let sent = self.send_rest(&mut open, &mut reader, &mut row);
            reader.free();
            let halt = match sent {
                Ok(()) => {
                    row.set(self.blob.size);
                    row.end(Phase::Complete);
                    return Ok(Outcome::Copied);
                }
                Err(Halt::Side(error)) => match self.recover(&mut open, error, &row) {
                    Ok(()) => continue,
                    Err(halt) => halt,
                },
                Err(halt) => halt,
            };
            row.fail(&report::chain(&halt));
            return Err(halt);
        }
    }

    /// The session of an earlier attempt or an earlier engine, or a new one; `None` if the blob was mounted instead.
    fn open(&mut self) -> Result<Option<Open>, Halt> {
        if let Some(open) = self.resume()? {
            return Ok(Some(open));
        }
        // The session of a refused mount is as good as any other, so only one mount is tried.
        let Some(from) = self.mount_candidate() else { return self.begin(None) };
        let open = self.begin(Some(&from))?;
        if open.is_some() {
            self.run.known.forget(&self.blob.digest.to_string(), &from);
        }
        Ok(open)
    }

    fn resume(&mut self) -> Result<Option<Open>, Halt> {
        let key = (self.sides.destination_name.clone(), self.blob.digest.to_string());
        let saved = self.run.journal.read(|model| model.sessions.get(&key).cloned());
        let Some(saved) = saved else { return Ok(None) };
        let mut session = Session { location: saved.location, chunk_min: saved.chunk_min };
        let has = self.run.persist(&self.about, || self.sides.destination.offset(&mut session))?;
        match has.filter(|has| self.is_plausible(*has, saved.offset)) {
            Some(at) => {
                self.save(&session, at)?;
                log::info!("replication {}: {}: continues at byte {at}", self.run.journal.id(), self.about);
                Ok(Some(Open { session, at }))
            }
            None => {
                self.drop_session(&session)?;
                Ok(None)
            }
        }
    }

    /// Whether the destination can have `has` bytes after it has acknowledged `acknowledged`. A registry says `0-0` for
    /// no byte and for one.
    fn is_plausible(&self, has: u64, acknowledged: u64) -> bool {
        has <= self.blob.size && (has >= acknowledged || acknowledged <= 1)
    }

    /// Begins an upload, or asks for a mount; `None` if the destination has mounted the blob.
    fn begin(&mut self, from: Option<&str>) -> Result<Option<Open>, Halt> {
        match self.run.persist(&self.about, || self.sides.destination.begin(self.blob, from))? {
            Begin::Mounted => Ok(None),
            Begin::Session(session) => {
                self.save(&session, 0)?;
                Ok(Some(Open { session, at: 0 }))
            }
        }
    }

    /// Another repository of the destination that should have the blob.
    fn mount_candidate(&self) -> Option<String> {
        let own = &self.sides.destination_name;
        let source = self.run.is_same_place.then(|| self.sides.source_name.clone());
        let known = self.run.known.repositories_with(&self.blob.digest.to_string(), 2);
        source.into_iter().chain(known).find(|repository| repository != own)
    }

    /// Sends the blob from the session's offset on, and finishes it.
    fn send_rest(
        &mut self,
        open: &mut Open,
        reader: &mut ChunkReader<'_>,
        row: &mut BlobRow<'_>,
    ) -> Result<(), Halt> {
        let (size, run) = (self.blob.size, self.run);
        let chunk = CHUNK.max(open.session.chunk_min.min(CHUNK_MAX));
        let share = usize::try_from(size.min(chunk)).unwrap_or(usize::MAX);
        // A pause of one host must hold neither memory nor a slot that another host's transfers need.
        self.sides.source.wait_until_open();
        self.sides.destination.wait_until_open();
        let _share = run.buffers.take(share, &run.soft)?;
        let _slot = run.limits.slot(&run.soft)?;
        let destination = &self.sides.destination;
        if open.at == 0 && size <= chunk {
            reader.fill(0, size)?;
            self.check_digest(open, reader)?;
            run.check()?;
            destination.send_whole(&mut open.session, self.blob, reader.bytes_from(0))?;
            return self.end_session(false);
        }
        while open.at < size {
            run.check()?;
            let at = open.at;
            reader.fill(at, (size - at).min(chunk))?;
            run.check()?;
            let rest = reader.bytes_from(at);
            let end = at + rest.len() as u64;
            let has = destination.send(&mut open.session, self.blob, at, rest)?;
            if has <= at || has > end {
                let digest = &self.blob.digest;
                let why =
                    format!("the destination claims {has} bytes of blob {digest} after byte {end} was sent");
                return Err(SideError::new(FailureKind::LostSession, why).into());
            }
            self.save(&open.session, has)?;
            open.at = has;
            row.set(has);
            if has.saturating_sub(self.failed_at) >= PROGRESS {
                self.attempts.reset();
            }
        }
        self.check_digest(open, reader)?;
        destination.finish(&open.session, self.blob)?;
        self.end_session(false)
    }

    /// Compares the digest of all bytes. If it is wrong, nothing of the upload may be used.
    fn check_digest(&self, open: &Open, reader: &mut ChunkReader<'_>) -> Result<(), Halt> {
        let found = reader.digest()?;
        if found == self.blob.digest {
            return Ok(());
        }
        self.drop_session(&open.session)?;
        let (name, digest) = (self.sides.source.name(), &self.blob.digest);
        let why = format!("{name} sends bytes with digest {found} for blob {digest}");
        Err(SideError::new(FailureKind::Corrupt, why).into())
    }

    /// Decides at which byte to go on after a failure, and waits.
    fn recover(&mut self, open: &mut Open, error: SideError, row: &BlobRow<'_>) -> Result<(), Halt> {
        self.failed_at = open.at;
        row.retry(&report::chain(&error));
        let is_lost = error.kind == FailureKind::LostSession;
        self.run.wait_for_next(&self.about, error, &mut self.attempts)?;
        let destination = &self.sides.destination;
        let has = match is_lost {
            true => None,
            false => self.run.persist(&self.about, || destination.offset(&mut open.session))?,
        };
        if let Some(at) = has.filter(|has| self.is_plausible(*has, open.at)) {
            self.save(&open.session, at)?;
            open.at = at;
            return Ok(());
        }
        self.drop_session(&open.session)?;
        self.lost += 1;
        if self.lost > LOST_MAX {
            let why = format!("{}: the destination has lost the upload {LOST_MAX} times", self.about);
            return Err(SideError::new(FailureKind::Temporary(None), why).into());
        }
        match self.begin(None)? {
            Some(new) => *open = new,
            None => {
                let why = format!("{}: the destination mounts what it was not asked to", self.about);
                return Err(SideError::new(FailureKind::Refused, why).into());
            }
        }
        Ok(())
    }

    /// Deletes a session that cannot be used, if the destination still knows it.
    fn drop_session(&self, session: &Session) -> Result<(), Halt> {
        // Without an answer the session counts as lost, so that the report names it.
        let is_deleted = self.sides.destination.cancel(session).unwrap_or(false);
        self.end_session(!is_deleted)
    }

    fn save(&self, session: &Session, offset: u64) -> Result<(), Halt> {
        self.run.record(Record::Session(SavedSession {
            repository: self.sides.destination_name.clone(),
            digest: self.blob.digest.to_string(),
            size: self.blob.size,
            location: session.location.clone(),
            chunk_min: session.chunk_min,
            offset,
        }))
    }

    fn end_session(&self, is_lost: bool) -> Result<(), Halt> {
        let (repository, digest) = (self.sides.destination_name.clone(), self.blob.digest.to_string());
        self.run.record(Record::SessionEnded { repository, digest, is_lost })
    }
}
