//! One fetch: what it writes, and what becomes of faults of the origin and the disk.

use super::*;
use crate::cdn::CdnStatus;
use crate::hex;

#[test]
fn a_file_is_fetched_by_one_request_and_has_all_digests() {
    let home = home();
    for len in [1, 1000, piece_len() - 1, piece_len(), piece_len() + 1, 3 * piece_len() + 25] {
        let mut rig = Rig::new(home.path(), bytes(len, len as u64));
        let numbers = rig.fetch();
        assert!(numbers.iter().copied().eq(0..PIECES.count(len as u64)));
        assert_eq!((rig.origin.requests(), rig.origin.sent()), (vec![(0, None)], len as u64));
        assert_eq!(rig.cdn.origin_bytes(), len as u64);
        assert_eq!(rig.trigger(), TriggerOutcome::Complete);
        rig.cdn.delete(&task(), true);
        rig.settle();
        assert_eq!(leftovers(home.path()).1, 0);
    }
}

#[test]
fn an_empty_file_has_one_empty_piece() {
    for states_length in [true, false] {
        let home = home();
        let mut rig = Rig::new(home.path(), Vec::new());
        rig.origin.set(|state| state.states_length = states_length);
        assert_eq!(rig.fetch(), [0]);
        let md5 = rig.cdn.piece(&task(), 0).expect("a piece").md5_hex();
        // printf '\x01\x00\x00\x00\x7f' | md5sum
        assert_eq!(md5, "5b1130e7b4a795ec5a3c21d8f128ba28");
        assert!(rig.restart(home.path()).trigger() == TriggerOutcome::Complete);
    }
}

#[test]
fn a_file_of_unknown_length_is_complete_at_its_end() {
    for len in [1, piece_len() - 1, piece_len(), piece_len() + 1, 2 * piece_len() + 70_000] {
        let home = home();
        let mut rig = Rig::new(home.path(), bytes(len, 3));
        rig.origin.set(|state| state.states_length = false);
        let numbers = rig.fetch();
        assert!(numbers.iter().copied().eq(0..PIECES.count(len as u64)), "{len}");
        assert_eq!(rig.origin.sent(), len as u64);
        assert_eq!(rig.restart(home.path()).trigger(), TriggerOutcome::Complete);
    }
}

#[test]
fn a_length_that_only_the_download_tells_is_announced() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(piece_len() + 9, 4));
    let file = FileInfo { length: None, ..rig.file() };
    rig.trigger_file(file);
    let CdnEvent::Length { length, .. } = rig.event() else { panic!("no length") };
    assert_eq!(length, piece_len() as u64 + 9);
    assert!(matches!(rig.event(), CdnEvent::Started { length: Some(started), .. } if started == length));
    rig.end().0.expect("fetched");
    rig.assert_complete();
}

#[test]
fn a_broken_connection_is_continued_at_the_exact_byte() {
    let len = 2 * piece_len() + 1000;
    for cut in [0, 1, 65_536, 65_537, piece_len() - 1, piece_len(), piece_len() + 1, len - 1] {
        let home = home();
        let mut rig = Rig::new(home.path(), bytes(len, 5));
        rig.origin.set(|state| state.faults = [Fault::Cut(cut as u64), Fault::Status(503)].into());
        rig.fetch();
        let at = cut as u64;
        assert_eq!(rig.origin.requests(), [(0, None), (at, None), (at, None)], "cut at {cut}");
        assert_eq!(rig.origin.sent(), len as u64, "cut at {cut}: no byte is sent twice");
    }
}

#[test]
fn a_broken_connection_of_unknown_length_is_continued_too() {
    let len = piece_len() + 1000;
    for cut in [0, 1, 65_537, piece_len(), piece_len() + 1, len] {
        let home = home();
        let mut rig = Rig::new(home.path(), bytes(len, 6));
        rig.origin.set(|state| {
            state.states_length = false;
            state.faults = [Fault::Cut(cut as u64)].into();
        });
        rig.fetch();
        // The byte before is sent again, because there may be none behind it.
        assert_eq!(rig.origin.sent(), (len + cut.min(1)) as u64, "cut at {cut}");
    }
}

#[test]
fn a_length_that_becomes_known_after_a_cut_is_used() {
    for cut in [400, piece_len() + 400] {
        let home = home();
        let mut rig = Rig::new(home.path(), bytes(piece_len() + 1000, 7));
        rig.origin.set(|state| {
            state.states_length = false;
            let change = |state: &mut OriginState| state.states_length = true;
            state.faults = [Fault::CutThen(cut as u64, Box::new(change))].into();
        });
        assert_eq!(rig.fetch(), [0, 1]);
    }
}

#[test]
fn an_origin_without_ranges_sends_all_again_and_is_compared() {
    let (len, cut) = (3 * piece_len(), 2 * piece_len() + 500);
    for has_etag in [true, false] {
        let home = home();
        let mut rig = Rig::new(home.path(), bytes(len, 8));
        rig.origin.set(|state| {
            (state.takes_ranges, state.has_etag) = (false, has_etag);
            state.faults = [Fault::Cut(cut as u64)].into();
        });
        assert_eq!(rig.fetch(), [0, 1, 2]);
        assert_eq!(rig.origin.sent(), (cut + len) as u64);
    }
    // This origin does not tell one version from another, but a byte of a finished piece is another one.
    let (home, mut content) = (home(), bytes(len, 10));
    let mut rig = Rig::new(home.path(), content.clone());
    content[piece_len() + 5] ^= 1;
    rig.origin.set(|state| {
        (state.takes_ranges, state.has_etag) = (false, false);
        let change = |state: &mut OriginState| state.content = content;
        state.faults = [Fault::CutThen(cut as u64, Box::new(change))].into();
    });
    let error = rig.fail();
    assert!(matches!(error, CdnError::Origin(OriginError::Changed { .. })), "{error:?}");
}

#[test]
fn a_file_that_changes_in_mid_fetch_is_an_error_and_leaves_nothing() {
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(2 * piece_len(), 11));
    rig.origin.set(|state| {
        let change = |state: &mut OriginState| {
            state.content = bytes(2 * piece_len(), 12);
            state.version += 1;
        };
        state.faults = [Fault::CutThen(piece_len() as u64 + 9, Box::new(change))].into();
    });
    let error = rig.fail();
    assert!(matches!(error, CdnError::Origin(OriginError::Changed { .. })), "{error:?}");
    assert!(error.is_of_source() && error.is_of_content());
    assert_eq!(rig.cdn.status(&task()), Some(CdnStatus::SourceError));
    assert_eq!(rig.lost, [0]);
    rig.settle();
    assert_eq!((rig.cdn.has_files(), open_files(home.path())), (false, 1), "only the lock is open");
    // The next registration asks for the version that is there now.
    assert_eq!(rig.fetch(), [0, 1]);
    assert_eq!(rig.origin.requests().len(), 3);
}

#[test]
fn lengths_that_do_not_agree_are_an_error_of_the_origin() {
    let len = piece_len() as u64 + 10;
    for (probed, is_stated) in [(len + 1, true), (len - 1, true), (len - 1, false)] {
        let home = home();
        let mut rig = Rig::new(home.path(), bytes(len as usize, 14));
        rig.origin.set(|state| state.states_length = is_stated);
        let file = FileInfo { length: Some(probed), ..rig.file() };
        rig.trigger_file(file);
        let error = rig.end().0.expect_err("lengths differ");
        assert!(matches!(error, CdnError::Length { .. }), "{error:?}");
        assert_eq!(rig.cdn.status(&task()), Some(CdnStatus::SourceError));
        assert!(!rig.cdn.has_files());
    }
    // An origin that sends too little for ever is given up.
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(len as usize, 14));
    rig.origin.set(|state| state.states_length = false);
    let file = FileInfo { length: Some(len + 1), ..rig.file() };
    rig.trigger_file(file);
    let error = rig.end().0.expect_err("a byte is missing");
    assert!(error.is_of_source(), "{error:?}");
}

#[test]
fn only_attempts_without_progress_are_counted() {
    let home = home();
    let len = 3 * piece_len() as u64;
    let mut rig = Rig::new(home.path(), bytes(len as usize, 15));
    // Each connection breaks after 100 KiB: more often than a request without progress is tried.
    rig.origin.set(|state| state.faults = (0..100).map(|_| Fault::Cut(100 << 10)).collect());
    rig.fetch();
    assert_eq!(rig.origin.sent(), len);
    assert_eq!(rig.origin.requests().len() as u64, len.div_ceil(100 << 10));

    rig.cdn.delete(&task(), true);
    rig.origin.set(|state| state.faults = (0..100).map(|_| Fault::Cut(10)).collect());
    let error = rig.fail();
    assert!(matches!(error, CdnError::Cut { at: 50, .. }), "{error:?}");
    rig.origin.set(|state| state.faults = [Fault::Status(404)].into());
    assert!(rig.fail().is_of_source(), "no other attempt is made");
    assert_eq!(rig.origin.set(|state| state.faults.clear()), ());
    rig.fetch();
}

#[test]
fn the_md5_of_the_client_and_the_digest_of_the_url_must_match() {
    let (home, content) = (home(), bytes(piece_len() + 3, 16));
    let mut rig = Rig::new(home.path(), content.clone());
    let md5: [u8; 16] = Md5::digest(&content).into();
    let sha256 = hex::encode(ring::digest::digest(&ring::digest::SHA256, &content).as_ref());
    let blob = |digest: &str| format!("http://origin/v2/a/b/blobs/sha256:{digest}?ns=docker.io");
    for (md5, url, is_right) in [
        (Some(md5), URL.to_owned(), true),
        (Some([1; 16]), URL.to_owned(), false),
        (None, blob(&sha256), true),
        (None, blob(&"00".repeat(32)), false),
        (Some(md5), blob(&sha256), true),
    ] {
        let file = FileInfo { md5, url: url.clone(), ..rig.file() };
        assert_eq!(rig.trigger_file(file), TriggerOutcome::Begins);
        match rig.end().0 {
            Ok(_) => assert!(is_right, "{url}"),
            Err(CdnError::Md5 { .. }) => {
                assert_eq!((is_right, md5), (false, Some([1; 16])));
                assert_eq!(rig.cdn.status(&task()), Some(CdnStatus::Failed));
            }
            Err(CdnError::Digest { .. }) => {
                assert!(!is_right && md5.is_none());
                assert_eq!(rig.cdn.status(&task()), Some(CdnStatus::SourceError));
            }
            Err(error) => panic!("{error:?}"),
        }
        assert_eq!(rig.cdn.has_files(), is_right);
        rig.cdn.delete(&task(), true);
    }
}

#[test]
fn the_digest_in_the_url_is_not_that_of_a_part_of_the_file() {
    let (home, content) = (home(), bytes(1000, 17));
    let mut rig = Rig::new(home.path(), content);
    // The source sends the part that the request names as if it were the whole, and takes no other range.
    rig.origin.set(|state| {
        state.takes_ranges = false;
        state.faults = [Fault::Cut(700)].into();
    });
    let url = format!("http://origin/v2/a/b/blobs/sha256:{}", "00".repeat(32));
    let file = FileInfo { url, range: Some("bytes=0-999".to_owned()), ..rig.file() };
    rig.trigger_file(file);
    rig.end().0.expect("fetched");
    rig.assert_complete();
    assert_eq!(rig.cdn.record(&task()).and_then(|record| record.file.range), Some("bytes=0-999".to_owned()));
}

#[test]
fn pieces_without_wrapping_have_the_md5_of_their_content() {
    let (home, content) = (home(), bytes((1 << 20) + 7, 18));
    let mut rig = Rig::new(home.path(), content.clone());
    let pieces = Pieces { is_wrapped: false, ..PIECES };
    let file = FileInfo { pieces, ..rig.file() };
    rig.trigger_file(file);
    rig.end().0.expect("fetched");
    rig.assert_has(&task(), &content, pieces);
}

#[test]
fn a_full_disk_fails_the_task_and_leaves_nothing_half_done() {
    // More than any disk of a test has.
    let home = home();
    let mut rig = Rig::new(home.path(), bytes(1000, 19));
    let file = FileInfo { length: Some(15 << 40), ..rig.file() };
    rig.trigger_file(file);
    let error = rig.end().0.expect_err("no space");
    assert!(matches!(error, CdnError::Disk { attempt: "allocate space for", .. }), "{error:?}");
    assert_eq!(rig.cdn.status(&task()), Some(CdnStatus::Failed));
    rig.settle();
    assert_eq!((rig.cdn.has_files(), open_files(home.path()), rig.origin.sent()), (false, 1, 0));
    drop(rig);

    // The disk gets full in mid-fetch. The finished piece stays, and the next attempt needs only the rest.
    let len = 3 * piece_len();
    let full = |states_length: bool| {
        let home = super::home();
        let rig = Rig::new(home.path(), bytes(len, 20));
        rig.origin.set(|state| state.states_length = states_length);
        let space = AtomicU64::new(piece_len() as u64 + 100_000);
        let mut rig = rig.restart_with(home.path(), |shared| shared.space = space);
        let error = rig.fail();
        assert!(error.is_full() && !error.is_of_content(), "{error:?}");
        assert_eq!(rig.cdn.status(&task()), Some(CdnStatus::Failed));
        rig.settle();
        assert_eq!(open_files(home.path()), 1);
        rig.origin.sent();
        (rig, home)
    };
    let (rig, home) = full(true);
    assert!(rig.lost.is_empty());
    let mut rig = rig.restart(home.path());
    assert_eq!(rig.fetch(), [1, 2]);
    assert_eq!(rig.origin.sent(), 2 * piece_len() as u64);
    // A file that may have no end leaves the disk.
    let (rig, home) = full(false);
    assert_eq!(rig.lost, [0]);
    rig.settle();
    assert_eq!(leftovers(home.path()), (0, 0));
    assert_eq!(rig.restart(home.path()).fetch(), [0, 1, 2]);
}
