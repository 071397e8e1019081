//! The files of an archive by name, and the targets of its links. None of these names becomes a path on this host.
//!
//! This module compares names and never opens them: it accepts a link in a tar only if the link leads to another name
//! in that tar. Used by [`crate::image::archive::streamed`] and [`crate::image::archive::seekable`]. Never touches a
//! file.

use sampan_layer::tar::{Entry, Kind};
use std::collections::HashMap;

/// Most files and links of one archive; `docker save` of a hundred large images writes fewer.
pub const ENTRIES_MAX: usize = 32_768;
/// Longest accepted name in an archive, in bytes; image tools write at most 150.
const NAME_MAX: usize = 256;
/// Most links that are followed from one name.
const LINKS_MAX: usize = 8;

/// Why an archive, or a name in it, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} {reason}")]
pub struct EntryError {
    /// The name, cut to 300 characters.
    pub name: String,
    /// The reason; completes a sentence that begins with the name.
    pub reason: &'static str,
}

/// Makes the error that refuses `name`; the name is cut to 300 characters.
pub fn refuse(name: &str, reason: &'static str) -> EntryError {
    EntryError { name: name.chars().take(300).collect(), reason }
}

/// The files of an archive by name; for each file, this holds data `T` of the archive's reader.
pub struct Entries<T> {
    members: HashMap<String, EntryKind<T>>,
    directories: usize,
}

enum EntryKind<T> {
    File(T),
    Link(String),
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Entries { members: HashMap::new(), directories: 0 }
    }
}

impl<T> Entries<T> {
    /// Registers an entry's name before the entry's content is read. For a file, returns the name that the caller
    /// passes to [`Entries::put`] later. Links are recorded here; directories are only counted.
    ///
    /// # Errors
    /// [`EntryError`]: the name or the link leads out of the archive, the name is a duplicate, the entry is a special
    /// file, or there are more than [`ENTRIES_MAX`] entries.
    pub fn admit(&mut self, entry: &Entry) -> Result<Option<String>, EntryError> {
        let text = String::from_utf8_lossy(&entry.path);
        if entry.kind == Kind::Directory {
            self.directories += 1;
            if self.directories > ENTRIES_MAX {
                return Err(refuse(&text, "is one too many: an archive may have 32768 directories"));
            }
            return check_length(&text).map(|()| None);
        }
        let name = clean(&text, "")?;
        if name.is_empty() {
            return Err(refuse(&text, "is no name of a file"));
        }
        if self.members.contains_key(&name) {
            return Err(refuse(&name, "is in the archive twice"));
        }
        if self.members.len() >= ENTRIES_MAX {
            return Err(refuse(&name, "is one too many: an archive may have 32768 files"));
        }
        let target = String::from_utf8_lossy(&entry.link);
        let link = match entry.kind {
            Kind::Regular if entry.sparse.is_some() => {
                return Err(refuse(&name, "is a sparse file, which no image tool writes"));
            }
            Kind::Regular => return Ok(Some(name)),
            Kind::Symlink => clean(&target, parent(&name))?,
            // A hard link's target is a name from the archive's root. POSIX.1, pax, "linkname".
            Kind::HardLink => clean(&target, "")?,
            _ => return Err(refuse(&name, "is neither file, directory nor link")),
        };
        self.members.insert(name, EntryKind::Link(link));
        Ok(None)
    }

    /// Records the reader's data for the file `name`; [`Entries::admit`] has returned that name.
    pub fn put(&mut self, name: String, known: T) {
        self.members.insert(name, EntryKind::File(known));
    }

    /// Follows links from `name`, a name in a document, to a file, and returns the file's name; `None` if the archive
    /// has no such file.
    ///
    /// # Errors
    /// [`EntryError`]: the name leads out of the archive, or the links form a circle.
    pub fn resolve(&self, name: &str) -> Result<Option<String>, EntryError> {
        let mut at = clean(name, "")?;
        for _ in 0..=LINKS_MAX {
            match self.members.get(&at) {
                None => return Ok(None),
                Some(EntryKind::File(_)) => return Ok(Some(at)),
                Some(EntryKind::Link(to)) => at.clone_from(to),
            }
        }
        Err(refuse(name, "is a link that is part of a circle"))
    }

    /// The reader's data for the file with exactly this name.
    pub fn get(&self, name: &str) -> Option<&T> {
        match self.members.get(name) {
            Some(EntryKind::File(known)) => Some(known),
            _ => None,
        }
    }

    /// Mutable form of [`Entries::get`].
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        match self.members.get_mut(name) {
            Some(EntryKind::File(known)) => Some(known),
            _ => None,
        }
    }
}

fn check_length(text: &str) -> Result<(), EntryError> {
    if text.len() > NAME_MAX { Err(refuse(text, "is longer than 256 bytes")) } else { Ok(()) }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Resolves `text` relative to the directory `base`, removing `.` and `..`.
///
/// # Errors
/// [`EntryError`]: the name is absolute, leads out of the archive, or is too long.
pub fn clean(text: &str, base: &str) -> Result<String, EntryError> {
    check_length(text)?;
    if text.starts_with('/') {
        return Err(refuse(text, "leads out of the archive: it is absolute"));
    }
    if text.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER) {
        return Err(refuse(text, "has bytes that no name in an image archive has"));
    }
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in text.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match part {
            ".." if parts.pop().is_none() => return Err(refuse(text, "leads out of the archive")),
            ".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, path: &str, link: &str) -> Entry {
        Entry {
            kind,
            path: path.into(),
            link: link.into(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            size: 0,
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    fn file(members: &mut Entries<u8>, path: &str) {
        let name = members.admit(&entry(Kind::Regular, path, "")).expect("good").expect("a file");
        members.put(name, 1);
    }

    #[test]
    fn a_link_leads_to_a_file_of_the_archive_wherever_that_stands() {
        let mut members = Entries::default();
        members.admit(&entry(Kind::Symlink, "./b/layer.tar", "../a/layer.tar")).expect("good");
        members.admit(&entry(Kind::HardLink, "c.tar", "b/layer.tar")).expect("good");
        assert_eq!(members.resolve("c.tar"), Ok(None));
        file(&mut members, "a/layer.tar");
        assert_eq!(members.resolve("c.tar"), Ok(Some("a/layer.tar".to_owned())));
    }

    #[test]
    fn what_leads_outside_or_nowhere_is_refused_by_name() {
        let mut members = Entries::<u8>::default();
        let mut why = |kind, path: &str, link: &str| match members.admit(&entry(kind, path, link)) {
            Ok(_) => "taken".to_owned(),
            Err(error) => error.to_string(),
        };
        assert_eq!(why(Kind::Regular, "../x", ""), r#""../x" leads out of the archive"#);
        assert!(why(Kind::Regular, "a/../../x", "").contains("leads out"));
        assert!(why(Kind::Regular, "/etc/x", "").contains("absolute"));
        assert!(why(Kind::Symlink, "a/b", "../../x").contains("leads out"));
        assert!(why(Kind::Symlink, "a/c", "/x").contains("absolute"));
        assert!(why(Kind::HardLink, "a/d", "../x").contains("leads out"));
        assert!(why(Kind::Char, "null", "").contains("neither"));
        assert!(why(Kind::Regular, &"x".repeat(300), "").contains("longer"));
        assert!(why(Kind::Regular, "a\nb", "").contains("bytes"));
        assert_eq!(why(Kind::Symlink, "one", "two"), "taken");
        assert_eq!(why(Kind::Symlink, "two", "one"), "taken");
        assert!(why(Kind::Regular, "./one", "").contains("twice"));
        assert!(members.resolve("one").expect_err("a circle").to_string().contains("circle"));
        let many =
            (0..=ENTRIES_MAX).try_for_each(|_| members.admit(&entry(Kind::Directory, "d/", "")).map(drop));
        assert!(many.expect_err("too many").to_string().contains("one too many"));
    }
}
