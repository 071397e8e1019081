//! An archive that comes by once, from a pipe or compressed, its entries in any order.
//!
//! Every file that may be a layer goes through the pipeline as it comes: hashed, kept, unpacked. What image it
//! belongs to, and what is below it there, is known when the last document has come; until then it is a pair of
//! temporaries of the store, which cost no second copy, since naming them is a rename. Documents, too, are kept
//! as temporaries. So an archive of many platforms is unpacked for all of them and the rest thrown away; from a
//! file that can be sought in, [`crate::image::archive::seekable`] reads what is needed and no more. Called by [`crate::image::archive::load`].

use crate::image::archive::entries::{Members, refuse};
use crate::image::archive::source::{
    ArchiveError, Found, Kept, START, Source, begins_layer, fill, is_layers_own, layer_error, named_digest,
    row_id,
};
use crate::image::pull::pipeline::{Pipeline, Sink};
use sampan_ipc::engine::Phase;
use sampan_job::cancel::Cancel;
use sampan_job::limits::Limits;
use sampan_job::progress::Progress;
use sampan_layer::tar::{Entry, TarError, TarReader};
use sampan_oci as oci;
use sampan_store::{Pin, Store, Temp, file_error};
use std::io::{self, BufRead, BufReader, Cursor, Read};

/// Longest document that is kept, in bytes: no manifest or config is longer.
const DOCUMENT_MAX: u64 = oci::CONFIG_MAX;

/// Bytes that are read at a time.
const PIECE: usize = 64 << 10;

/// Most layers of one archive: twenty images with as many layers as an image may have would have more.
const LAYERS_MAX: usize = 4096;

/// Most bytes that are read behind the end mark; tars are filled up to 10 KiB, with odd settings to 1 MiB.
const TRAILER_MAX: u64 = 2 << 20;

/// What its files become on the way.
pub struct Staging<'a> {
    /// Where the temporaries are.
    pub store: &'a Store,
    /// Whose processors are used.
    pub limits: &'a Limits,
    /// A row a layer, as they come.
    pub progress: &'a Progress,
    /// Ends it.
    pub cancel: &'a Cancel,
    /// Unpack layers.
    pub unpack: bool,
}

/// An archive that has come by.
#[derive(Default)]
pub struct Staged {
    members: Members<Piece>,
    pins: Vec<Pin>,
    layers: usize,
}

/// One file of it.
enum Piece {
    Document(Temp, u64),
    /// Neither a layer nor short enough for a document.
    Long(u64),
    Layer(Box<Kept>),
    Stored(oci::digest::Digest, u64),
    /// A layer that is no good; the error is told if an image needs it.
    Broken(Box<ArchiveError>),
    /// A layer that was given away.
    Gone,
}

impl Staging<'_> {
    /// Reads all of `from`, a tar.
    ///
    /// # Errors
    /// [`ArchiveError`]; nothing is left then.
    pub fn read(&self, from: impl Read + Send) -> Result<Staged, ArchiveError> {
        let mut staged = Staged::default();
        let mut tarball = TarReader::new(BufReader::with_capacity(PIECE, from));
        while let Some(entry) = tarball.next_entry()? {
            self.cancel.check()?;
            if let Some(name) = staged.members.admit(&entry)? {
                let piece = self.file(&name, &entry, &mut tarball, &mut staged.pins)?;
                staged.layers += usize::from(!matches!(piece, Piece::Document(..) | Piece::Long(_)));
                if staged.layers > LAYERS_MAX {
                    return Err(refuse(&name, "is one layer too many: an archive may have 4096").into());
                }
                staged.members.put(name, piece);
            }
        }
        // Writers fill their last record with zeroes; they are to be let finish, but not for ever.
        let mut rest = tarball.into_inner().take(TRAILER_MAX);
        io::copy(&mut rest, &mut io::sink()).map_err(ArchiveError::Read)?;
        Ok(staged)
    }

    fn file<R: BufRead + Send>(
        &self,
        name: &str,
        entry: &Entry,
        tarball: &mut TarReader<R>,
        pins: &mut Vec<Pin>,
    ) -> Result<Piece, ArchiveError> {
        let mut start = [0; START];
        let len = fill(&mut Content(tarball), &mut start).map_err(|source| content_error(name, source))?;
        let start = start.get(..len).unwrap_or_default();
        let all = Cursor::new(start).chain(Content(tarball));
        if !begins_layer(start) {
            return self.document(name, entry.size, all);
        }
        if let Some(digest) = named_digest(name) {
            let pin = self.store.pin([digest.clone()]);
            if self.store.has_blob(&digest, entry.size) {
                pins.push(pin);
                return Ok(Piece::Stored(digest, entry.size));
            }
        }
        match self.layer(name, entry.size, all) {
            Err(error) if is_layers_own(&error) => Ok(Piece::Broken(Box::new(error))),
            other => other.map(|kept| Piece::Layer(Box::new(kept))),
        }
    }

    fn document(&self, name: &str, size: u64, mut from: impl Read) -> Result<Piece, ArchiveError> {
        if size > DOCUMENT_MAX {
            return Ok(Piece::Long(size));
        }
        let (temp, mut file) = self.store.temp_file("document")?;
        io::copy(&mut from, &mut file).map_err(|source| content_error(name, source))?;
        Ok(Piece::Document(temp, size))
    }

    fn layer(&self, name: &str, size: u64, from: impl Read + Send) -> Result<Kept, ArchiveError> {
        let row = self.progress.append(row_id(name), size);
        self.progress.phase(row, Phase::Downloading);
        let pipeline = Pipeline {
            store: self.store,
            limits: self.limits,
            cancel: self.cancel,
            expected: None,
            untar: self.unpack,
            on_bytes: &|bytes| self.progress.add(row, bytes),
            on_phase: &|phase| self.progress.phase(row, phase),
        };
        let (blob, mut file) = self.store.temp_file("blob")?;
        let streamed = pipeline.run(from, Sink::File(&mut file)).map_err(|error| {
            self.progress.fail(row, &sampan_ipc::report::chain(&error));
            layer_error(name, error)
        })?;
        self.progress.note_skipped(streamed.digest.short(), streamed.skipped);
        self.progress.phase(row, Phase::Complete);
        Ok(Kept { blob, streamed })
    }
}

/// The content of a tar's current entry.
struct Content<'a, R>(&'a mut TarReader<R>);

impl<R: BufRead> Read for Content<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read_content(into).map_err(|error| match error {
            TarError::Read(source) => source,
            other => io::Error::other(other),
        })
    }
}

fn content_error(name: &str, source: io::Error) -> ArchiveError {
    match source.downcast::<TarError>() {
        Ok(error) => error.into(),
        Err(source) => ArchiveError::File { name: name.to_owned(), source },
    }
}

impl Source for Staged {
    fn resolve(&self, name: &str) -> Result<Option<String>, ArchiveError> {
        Ok(self.members.resolve(name)?)
    }

    fn document(&mut self, name: &str, max: u64) -> Result<Vec<u8>, ArchiveError> {
        let too_long = |size| ArchiveError::TooLong { name: name.to_owned(), size, max };
        match self.members.get(name) {
            Some(Piece::Document(temp, size)) if *size <= max => {
                let read = std::fs::read(temp.path()).map_err(file_error("read", temp.path()));
                read.map_err(ArchiveError::from)
            }
            Some(Piece::Document(_, size) | Piece::Long(size)) => Err(too_long(*size)),
            Some(_) => Err(refuse(name, "is a tar and should be a document").into()),
            None => Err(crate::image::archive::source::missing(name)),
        }
    }

    fn layer(&mut self, name: &str) -> Result<Found<'_>, ArchiveError> {
        let piece = self.members.get_mut(name).ok_or_else(|| crate::image::archive::source::missing(name))?;
        match std::mem::replace(piece, Piece::Gone) {
            Piece::Layer(kept) => Ok(Found::Kept(kept)),
            Piece::Stored(digest, size) => Ok(Found::Stored(digest, size)),
            Piece::Broken(error) => Err(*error),
            Piece::Document(..) | Piece::Long(_) => {
                Err(refuse(name, "is a layer by its manifest, and no tar").into())
            }
            Piece::Gone => Err(crate::image::archive::source::missing(name)),
        }
    }
}
