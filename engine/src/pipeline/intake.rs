//! The compressed side of a layer: what comes of its blob goes to the decompressor, and into its digest and its file.
//!
//! The second need not keep the first waiting. Pieces that the decompressor is done with wait in a short queue, and whoever
//! has time takes the oldest: the thread that would wait for decompressed bytes, or else the one that decompresses, when
//! the queue is full. So both threads of a layer have as much to do, whichever of them has more of it. Owned by one run of a
//! [`Pipeline`]; knows nothing of what comes out.

use super::{LayerError, Pipeline, Sink};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::mutex::lock;
use crate::registry::RegistryError;
use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Bytes of a piece.
const PIECE: usize = 64 << 10;
/// Most pieces that wait.
const WAITING_MAX: usize = 4;

/// Where a blob's bytes go when they have been decompressed.
pub(super) struct Intake<'a> {
    pipeline: &'a Pipeline<'a>,
    waiting: Mutex<VecDeque<Vec<u8>>>,
    /// Taken before `waiting`.
    done: Mutex<Done<'a>>,
    /// Something went wrong: nothing more is to come.
    is_over: AtomicBool,
    failed: Mutex<Option<LayerError>>,
}

/// What was made of the pieces so far.
struct Done<'a> {
    hasher: Hasher,
    sink: Sink<'a>,
    size: u64,
    used: Vec<Vec<u8>>,
    /// The sink takes nothing more.
    is_broken: bool,
}

impl<'a> Intake<'a> {
    /// Nothing has come yet.
    pub fn new(pipeline: &'a Pipeline<'a>, sink: Sink<'a>) -> Self {
        let algorithm = pipeline.expected.as_ref().map_or(Algorithm::Sha256, |e| e.digest.algorithm());
        let done = Done { hasher: Hasher::new(algorithm), sink, size: 0, used: Vec::new(), is_broken: false };
        Intake {
            pipeline,
            waiting: Mutex::default(),
            done: Mutex::new(done),
            is_over: AtomicBool::new(false),
            failed: Mutex::default(),
        }
    }

    /// Does one of the things that wait; false if there is none that nobody else is at.
    pub fn help(&self) -> bool {
        match self.done.try_lock() {
            Ok(mut done) => self.take_one(&mut done),
            Err(_) => false,
        }
    }

    /// Gives it a piece; an empty one comes back, maybe of memory that an earlier one was in.
    fn add(&self, piece: Vec<u8>) -> Vec<u8> {
        let is_full = {
            let mut waiting = lock(&self.waiting);
            waiting.push_back(piece);
            waiting.len() > WAITING_MAX
        };
        let mut done = lock(&self.done);
        if is_full {
            self.take_one(&mut done);
        }
        done.used.pop().unwrap_or_default()
    }

    fn take_one(&self, done: &mut MutexGuard<'_, Done<'a>>) -> bool {
        let Some(piece) = lock(&self.waiting).pop_front() else { return false };
        // Whatever failed since: what has come may be kept for the next try.
        if !done.is_broken
            && let Err(error) = self.take(done, &piece)
        {
            done.is_broken = true;
            self.fail(error);
        }
        done.used.push(piece);
        true
    }

    fn take(&self, done: &mut Done<'a>, piece: &[u8]) -> Result<(), LayerError> {
        done.hasher.update(piece);
        let new = done.sink.take(done.size, piece)?;
        done.size += piece.len() as u64;
        (self.pipeline.on_bytes)(new as u64);
        Ok(())
    }

    /// The first of them is why.
    fn fail(&self, error: LayerError) {
        lock(&self.failed).get_or_insert(error);
        self.is_over.store(true, Ordering::SeqCst);
    }

    /// What went wrong, if anything has.
    ///
    /// # Errors
    /// It.
    pub fn check(&self) -> Result<(), LayerError> {
        lock(&self.failed).take().map_or(Ok(()), Err)
    }

    /// Does all that waits.
    pub fn finish(&self) {
        let mut done = lock(&self.done);
        while self.take_one(&mut done) {}
    }

    /// Digest and size of what has come.
    pub fn into_digest(self) -> (Digest, u64) {
        let done = self.done.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        (done.hasher.finish(), done.size)
    }
}

/// Where they come from, for the decompressor.
pub(super) struct Tap<'i, 'a, R> {
    intake: &'i Intake<'a>,
    from: R,
    piece: Vec<u8>,
    at: usize,
    size: u64,
}

impl<'i, 'a, R: Read> Tap<'i, 'a, R> {
    /// Nothing is read yet.
    pub fn new(intake: &'i Intake<'a>, from: R) -> Self {
        Tap { intake, from, piece: Vec::new(), at: 0, size: 0 }
    }

    /// The next piece; an empty one at the end. The last one is done with.
    fn turn(&mut self) -> Result<(), LayerError> {
        let mut piece = mem::take(&mut self.piece);
        self.at = 0;
        if !piece.is_empty() {
            piece = self.intake.add(piece);
        }
        let Pipeline { cancel, expected, .. } = self.intake.pipeline;
        cancel.check()?;
        let blob = || self.intake.pipeline.name();
        piece.resize(PIECE, 0);
        let len = loop {
            match self.from.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.map_err(|source| read_error(blob(), source))?,
            }
        };
        piece.truncate(len);
        self.size += len as u64;
        if let Some(expected) = expected.as_ref().map(|e| e.size).filter(|expected| self.size > *expected) {
            return Err(LayerError::Size { blob: blob(), found: self.size, expected });
        }
        self.piece = piece;
        Ok(())
    }
}

/// What a registry did wrong comes through readers as the inside of an I/O error.
fn read_error(blob: String, source: io::Error) -> LayerError {
    match source.downcast::<RegistryError>() {
        Ok(error) => LayerError::Registry(error),
        Err(source) => LayerError::Read { blob, source },
    }
}

impl<R: Read> BufRead for Tap<'_, '_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.intake.is_over.load(Ordering::SeqCst) {
            return Err(io::Error::other("the source failed before"));
        }
        if self.at == self.piece.len()
            && let Err(error) = self.turn()
        {
            let told = io::Error::other(error.to_string());
            self.intake.fail(error);
            return Err(told);
        }
        Ok(self.piece.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.at = self.piece.len().min(self.at + len);
    }
}

impl<R: Read> Read for Tap<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(into)?;
        self.consume(len);
        Ok(len)
    }
}
