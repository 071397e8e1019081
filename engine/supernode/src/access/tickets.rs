//! Tickets: the right of one client to download one task, in a short text that only this supernode can make.
//!
//! Owned by the event loop. No ticket is stored: a check computes the HMAC of the ticket again.

use crate::hex;
use crate::task_id::TaskId;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a ticket is valid. A client gets a new one with each answer.
pub const TICKET_TIME: Duration = Duration::from_secs(3600);
/// Name of the file with the key, in the supernode's home.
const FILE: &str = "ticket.key";
/// Length of the key in bytes.
const KEY_LEN: usize = 32;
/// Bytes of the HMAC that a ticket contains: the first ones.
const TAG_LEN: usize = 16;

/// Makes and checks tickets. A ticket is `EXPIRY.HMAC`: seconds since the epoch, and 32 hexadecimal digits.
pub struct Tickets {
    key: hmac::Key,
}

impl Tickets {
    /// Reads the key in the directory `home`. Makes it if there is none, if it is damaged, or if other users could
    /// read it. So tickets stay valid when the supernode restarts.
    ///
    /// # Errors
    /// The key cannot be read or written, or the kernel has no random bytes.
    pub fn open(home: &Path) -> io::Result<Self> {
        let path = home.join(FILE);
        let key = match read(&path)? {
            Some(key) => key,
            None => make(home, &path)?,
        };
        Ok(Tickets { key: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// Makes a ticket for `client` to download `task`.
    pub fn issue(&self, task: &TaskId, client: &str, now: SystemTime) -> String {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expiry = (now + TICKET_TIME).as_secs();
        let tag = hmac::sign(&self.key, &message(task, client, expiry));
        format!("{expiry}.{}", hex::encode(tag.as_ref().get(..TAG_LEN).unwrap_or_default()))
    }

    /// Whether `ticket` was made by this supernode for `task` and `client`, and is still valid. The time of the
    /// check does not depend on how much of a wrong ticket is right.
    pub fn is_valid(&self, ticket: &str, task: &TaskId, client: &str, now: SystemTime) -> bool {
        let Some((expiry, tag)) = parse(ticket) else { return false };
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let right = hmac::sign(&self.key, &message(task, client, expiry));
        let right = right.as_ref().iter().take(TAG_LEN);
        let differ = right.zip(tag).fold(0, |differ, (right, given)| differ | (right ^ given));
        std::hint::black_box(differ) == 0 && now.as_secs() < expiry
    }
}

/// The expiry and the HMAC of a ticket.
fn parse(ticket: &str) -> Option<(u64, [u8; TAG_LEN])> {
    let (expiry, tag) = ticket.split_once('.')?;
    let is_number = expiry.len() <= 12 && expiry.bytes().all(|byte| byte.is_ascii_digit());
    let expiry = expiry.parse().ok().filter(|_| is_number)?;
    Some((expiry, hex::parse(tag)?))
}

/// The bytes that the HMAC covers. The client comes last, so that no two tickets cover equal bytes.
fn message(task: &TaskId, client: &str, expiry: u64) -> Vec<u8> {
    [task.as_bytes().as_slice(), &expiry.to_be_bytes(), client.as_bytes()].concat()
}

/// Reads the key; `None` if there is none that can be used.
fn read(path: &Path) -> io::Result<Option<[u8; KEY_LEN]>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    let mut key = [0; KEY_LEN];
    let is_whole = metadata.is_file() && metadata.len() == KEY_LEN as u64;
    if !is_whole || metadata.mode() & 0o077 != 0 {
        log::warn!(
            "{} is damaged or other users can read it, so it is replaced; clients have to register again",
            path.display()
        );
        return Ok(None);
    }
    file.read_exact(&mut key)?;
    Ok(Some(key))
}

fn make(home: &Path, path: &Path) -> io::Result<[u8; KEY_LEN]> {
    let mut key = [0; KEY_LEN];
    SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the kernel has no random bytes"))?;
    let temporary = home.join(format!("{FILE}.new"));
    // A file that a killed process left behind may have other permissions.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    rename(&temporary, path)?;
    File::open(home)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn task(n: u32) -> TaskId {
        TaskId::new(&n.to_string(), "", "")
    }

    #[test]
    fn a_ticket_is_for_one_client_one_task_and_some_time() {
        let home = tempfile::tempdir().expect("a directory");
        let tickets = Tickets::open(home.path()).expect("opened");
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let ticket = tickets.issue(&task(0), "10.0.0.1", now);
        assert!(tickets.is_valid(&ticket, &task(0), "10.0.0.1", now));
        assert!(tickets.is_valid(&ticket, &task(0), "10.0.0.1", now + TICKET_TIME - Duration::from_secs(1)));
        assert!(!tickets.is_valid(&ticket, &task(0), "10.0.0.1", now + TICKET_TIME));
        assert!(!tickets.is_valid(&ticket, &task(1), "10.0.0.1", now));
        assert!(!tickets.is_valid(&ticket, &task(0), "10.0.0.2", now));
        let other = tempfile::tempdir().expect("a directory");
        let other = Tickets::open(other.path()).expect("opened");
        assert!(!other.is_valid(&ticket, &task(0), "10.0.0.1", now), "another supernode");
    }

    #[test]
    fn a_ticket_that_was_changed_is_refused() {
        let home = tempfile::tempdir().expect("a directory");
        let tickets = Tickets::open(home.path()).expect("opened");
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let ticket = tickets.issue(&task(0), "a", now);
        for at in 0..ticket.len() {
            for byte in [b'0', b'1', b'.', b'f', b'G', b'+'] {
                let mut changed = ticket.clone().into_bytes();
                changed[at] = byte;
                let changed = String::from_utf8(changed).expect("ASCII");
                assert_eq!(tickets.is_valid(&changed, &task(0), "a", now), changed == ticket, "{changed}");
            }
            assert!(!tickets.is_valid(&ticket[..at], &task(0), "a", now));
        }
        for bad in [
            "",
            ".",
            "99999999999999999999.",
            "1700003600.\u{e9}",
            &format!("{ticket}0"),
            &format!("{ticket}00"),
        ] {
            assert!(!tickets.is_valid(bad, &task(0), "a", now), "{bad}");
        }
    }

    #[test]
    fn the_key_survives_a_restart_unless_it_was_seen() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join(FILE);
        let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let ticket = Tickets::open(home.path()).expect("opened").issue(&task(0), "a", now);
        let is_valid = || Tickets::open(home.path()).expect("opened").is_valid(&ticket, &task(0), "a", now);
        assert!(is_valid());
        assert_eq!(std::fs::metadata(&path).expect("written").mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(!is_valid(), "other users could read the key");
        assert_eq!(std::fs::metadata(&path).expect("written").mode() & 0o777, 0o600);
        std::fs::write(&path, b"short").expect("written");
        assert!(!is_valid());
        assert_eq!(std::fs::read(&path).expect("written").len(), KEY_LEN);
    }
}
