//! The journal of one execution: appends records, then applies them to the model.
//!
//! Called by the threads of the execution, which all write, and by everybody who describes it. Threads that write at
//! the same time share one fdatasync(2): the first of them writes all records that wait. Readers never wait for the
//! disk.

use super::error::JournalError;
use super::file::JournalFile;
use super::snapshot::snapshot;
use crate::model::Model;
use crate::record::Record;
use sampan_ipc::frame::{self, FrameError};
use sampan_os::mutex::{lock, wait};
use std::collections::HashMap;
use std::io;
use std::sync::{Condvar, Mutex};

/// The journal of one execution, with its model.
#[derive(Debug)]
pub struct Journal {
    id: u64,
    model: Mutex<Model>,
    queue: Mutex<Queue>,
    /// Notified when records were written, or could not be written.
    written: Condvar,
    /// The file; `None` once the execution is in the history.
    file: Mutex<Option<JournalFile>>,
}

/// Records that wait for the disk.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// The ticket of the next record.
    next: u64,
    /// Records with a smaller ticket have been written, or have failed.
    settled: u64,
    /// Why records failed, by ticket, until their writers have learned of it.
    failures: HashMap<u64, io::Error>,
    /// Whether a thread writes.
    is_writing: bool,
}

#[cfg(test)]
impl Queue {
    fn in_flight(&self) -> u64 {
        self.next - self.settled
    }
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    frame: Vec<u8>,
    record: Record,
}

impl Journal {
    /// Takes a file and the model that its records give.
    pub(super) fn new(model: Model, file: JournalFile) -> Self {
        Journal {
            id: model.execution.id,
            model: Mutex::new(model),
            queue: Mutex::default(),
            written: Condvar::new(),
            file: Mutex::new(Some(file)),
        }
    }

    /// The execution's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Calls `f` with the present state. `f` must not call this journal.
    pub fn read<T>(&self, f: impl FnOnce(&Model) -> T) -> T {
        f(&lock(&self.model))
    }

    /// Appends a record, makes it durable if it is urgent, and applies it to the model. Records of a journal that was
    /// finished are ignored, as all late news is.
    ///
    /// # Errors
    /// [`JournalError::Write`]: the disk is full or fails. The model has not changed, and the journal does not have the
    /// record; the caller waits and tries again. [`JournalError::TooLong`]: the record can never be written.
    pub fn record(&self, record: Record) -> Result<(), JournalError> {
        let frame = encode(&record, self.id)?;
        let mut queue = lock(&self.queue);
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push(Waiting { ticket, frame, record });
        loop {
            if ticket < queue.settled {
                let failure = queue.failures.remove(&ticket);
                return failure.map_or(Ok(()), |source| Err(JournalError::Write { id: self.id, source }));
            }
            if queue.is_writing {
                queue = wait(&self.written, queue);
                continue;
            }
            queue.is_writing = true;
            let (batch, end) = (std::mem::take(&mut queue.waiting), queue.next);
            drop(queue);
            let written = self.write(&batch);
            queue = lock(&self.queue);
            (queue.is_writing, queue.settled) = (false, end);
            if let Err(error) = written {
                queue.failures.extend(batch.iter().map(|failed| (failed.ticket, copy(&error))));
            }
            self.written.notify_all();
        }
    }

    fn write(&self, batch: &[Waiting]) -> io::Result<()> {
        let mut file = lock(&self.file);
        let Some(file) = &mut *file else { return Ok(()) };
        if file.is_doubtful() {
            file.rewrite(&self.read(snapshot))?;
        }
        let frames: Vec<&[u8]> = batch.iter().map(|waiting| waiting.frame.as_slice()).collect();
        file.append(&frames.concat(), batch.iter().any(|waiting| waiting.record.is_urgent()))?;
        let mut model = lock(&self.model);
        batch.iter().for_each(|waiting| model.apply(&waiting.record));
        drop(model);
        if file.is_large()
            && let Err(error) = file.rewrite(&self.read(snapshot))
        {
            log::warn!("cannot shorten the journal of execution {}, it grows on: {error}", self.id);
            file.put_off_rewrite();
        }
        Ok(())
    }

    /// Takes the file away, so that nothing is written any more. Waits for a thread that writes.
    pub(super) fn close(&self) {
        lock(&self.file).take();
    }

    /// Waits until this many records wait or are being written.
    #[cfg(test)]
    pub(super) fn wait_for_waiting(&self, most: usize) {
        while lock(&self.queue).in_flight() < most as u64 {
            std::thread::yield_now();
        }
    }

    /// Calls `f` with the open file.
    #[cfg(test)]
    pub(super) fn with_file<T>(&self, f: impl FnOnce(&mut JournalFile) -> T) -> T {
        f(lock(&self.file).as_mut().expect("an open file"))
    }
}

/// Encodes a record of execution `id`.
pub(super) fn encode(record: &Record, id: u64) -> Result<Vec<u8>, JournalError> {
    frame::encode(record).map_err(|error| match error {
        FrameError::Length { .. } => JournalError::TooLong(id),
        other => JournalError::Write { id, source: io::Error::other(other) },
    })
}

/// Another error of the same kind: one failure is reported to several threads.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
