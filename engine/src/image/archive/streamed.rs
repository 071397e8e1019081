//! An archive that is read a single time from start to end, from a pipe or compressed. The archive's entries may be in
//! any order.
//!
//! The pipeline hashes, stores and unpacks every file that may be a layer as the file arrives. Which image needs the
//! layer is known only after the last document. Until then the layer is two temporaries in the store, the blob and the
//! unpacked tree; a rename, not a copy, later gives them their final names. Documents are temporaries as well. An
//! archive of many platforms is therefore unpacked for all of them, and the unneeded layers are removed. In an
//! uncompressed archive file, [`crate::image::archive::seekable`] reads only the needed files. Called by
//! [`crate::image::archive::load`].

use crate::image::archive::entries::{Entries, refuse};
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

/// Longest document of an archive that is stored, in bytes. No manifest and no config may be longer.
const DOCUMENT_MAX: u64 = oci::CONFIG_MAX;

/// Size of the read buffer, in bytes.
const PIECE: usize = 64 << 10;

/// Most layers of one archive, which bounds the number of temporaries. Eight images of 500 layers stay below this
/// bound.
const LAYERS_MAX: usize = 4096;

/// Most bytes that are read after the end mark. Tar pads archives to 10 KiB, with unusual settings to 1 MiB.
const TRAILER_MAX: u64 = 2 << 20;

/// Reads a streamed archive and stages its files as temporaries of the store.
pub struct StreamReader<'a> {
    /// The store that holds the temporaries.
    pub store: &'a Store,
    /// The limits that bound the processors in use.
    pub limits: &'a Limits,
    /// The job's progress, which gets a row for each layer as soon as the layer arrives.
    pub progress: &'a Progress,
    /// Cancels the reading.
    pub cancel: &'a Cancel,
    /// Whether to unpack layers.
    pub unpack: bool,
}

/// A streamed archive that was read to its end.
#[derive(Default)]
pub struct StreamedArchive {
    members: Entries<Piece>,
    pins: Vec<Pin>,
    layers: usize,
}

/// One file of the archive.
enum Piece {
    Document(Temp, u64),
    /// The size of a file that is no layer and too long for a document.
    Long(u64),
    Layer(Box<Kept>),
    Stored(oci::digest::Digest, u64),
    /// A layer that cannot be used; the error is reported only if an image needs the layer.
    Broken(Box<ArchiveError>),
    /// A layer that [`Source::layer`] has handed out.
    Gone,
}

impl StreamReader<'_> {
    /// Reads the tar `from` to its end.
    ///
    /// # Errors
    /// [`ArchiveError`]: the archive cannot be read, or is refused. All temporaries are removed.
    pub fn read(&self, from: impl Read + Send) -> Result<StreamedArchive, ArchiveError> {
        let mut staged = StreamedArchive::default();
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
        // Tar pads its last record with zeroes. Read the zeroes, up to a bound, so that the writer of a pipe does not
        // fail.
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

/// Reads the content of a tar's current entry.
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

impl Source for StreamedArchive {
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
            Some(_) => Err(refuse(name, "is a tar, expected a document").into()),
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
                Err(refuse(name, "is listed as a layer and is no tar").into())
            }
            Piece::Gone => Err(crate::image::archive::source::missing(name)),
        }
    }
}
