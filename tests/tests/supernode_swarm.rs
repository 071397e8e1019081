//! Downloads through a supernode by 1 to 32 clients of Dragonfly's wire: what they get, and what the origin sends.

use md5::{Digest, Md5};
use sampan_supernode::task_id::TaskId;
use sampan_tests::dragonfly::{Counts, End, Outcome, Peer, Upload, Wish, assert_complete};
use sampan_tests::http_client::HttpClient;
use sampan_tests::origin_server::{Origin, Resource};
use sampan_tests::supernode::{Supernode, address};

const MIB: usize = 1 << 20;

/// Hosts with the numbers 11 and up.
fn peers(count: u8) -> Vec<Peer> {
    (0..count).map(|nth| Peer::new(address(11 + nth))).collect()
}

/// All peers download at once.
fn download(supernode: &Supernode, peers: &[Peer], wish: &Wish) -> Vec<Outcome> {
    let downloads: Vec<_> =
        peers.iter().map(|peer| peer.download(&[supernode.control()], wish.clone())).collect();
    downloads.into_iter().map(|download| download.wait()).collect()
}

fn sum(outcomes: &[Outcome], value: fn(&Counts) -> u64) -> u64 {
    outcomes.iter().map(|outcome| value(&outcome.counts)).sum()
}

fn md5_of(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn any_number_of_clients_costs_the_origin_one_file() {
    for (clients, mib) in [(1, 20), (4, 20), (12, 20), (32, 20)] {
        let (origin, content) = Origin::with_file(mib * MIB);
        let supernode = Supernode::start(1, &[]);
        let wish = Wish { rate: Some(10 << 20), ..Wish::of(&origin.url("/file")) };
        let peers = peers(clients);
        let outcomes = download(&supernode, &peers, &wish);
        assert_complete(&outcomes, &content);
        let bytes = origin.served("/file").bytes as f64;
        assert!(bytes <= 1.05 * content.len() as f64, "{clients} clients: {bytes}");
        assert_eq!(sum(&outcomes, |counts| counts.failures), 0, "{clients} clients");
        if clients >= 12 {
            let (own, all) = (sum(&outcomes, |counts| counts.from_supernode), sum(&outcomes, Counts::pieces));
            assert!(own * 2 < all, "{clients} clients: {own} of {all} pieces from the supernode");
        }
    }
}

#[test]
fn files_of_any_length_arrive_whole() {
    let supernode = Supernode::start(1, &[]);
    let piece = 4 * MIB - 5;
    for (nth, len) in [0, 1, 25, piece - 1, piece, piece + 1, 2 * piece, 201 * MIB].into_iter().enumerate() {
        let (origin, content) = Origin::with_file(len);
        let peers = [Peer::new(address(11 + nth as u8))];
        let outcomes = download(&supernode, &peers, &Wish::of(&origin.url("/file")));
        assert_complete(&outcomes, &content);
    }
}

#[test]
fn a_file_of_unknown_length_arrives_whole() {
    let supernode = Supernode::start(1, &[]);
    for (nth, len) in [0, 100, 4 * MIB - 5, 9 * MIB].into_iter().enumerate() {
        let (origin, content) = Origin::with_file(len);
        origin.put(
            "/file",
            Resource { tells_length: false, takes_ranges: false, ..Resource::of(content.clone()) },
        );
        let peers = [Peer::new(address(11 + 2 * nth as u8)), Peer::new(address(12 + 2 * nth as u8))];
        let outcomes = download(&supernode, &peers, &Wish::of(&origin.url("/file")));
        assert_complete(&outcomes, &content);
    }
}

#[test]
fn clients_that_begin_at_once_cause_one_fetch() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let peers = peers(8);
    let outcomes = download(&supernode, &peers, &Wish::of(&origin.url("/file")));
    assert_complete(&outcomes, &content);
    let served = origin.served("/file");
    assert_eq!((served.gets, served.bytes), (1, content.len() as u64));
    assert!(served.heads <= 1, "{served:?}");
}

#[test]
fn a_second_download_needs_no_fetch() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let first = peers(1);
    assert_complete(&download(&supernode, &first, &Wish::of(&origin.url("/file"))), &content);
    first[0].leave();
    let second = [Peer::new(address(12))];
    let outcomes = download(&supernode, &second, &Wish::of(&origin.url("/file")));
    assert_complete(&outcomes, &content);
    assert_eq!(outcomes[0].counts.failures, 0, "a peer that left is not offered");
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}

#[test]
fn a_second_client_gets_pieces_from_the_first() {
    let (origin, content) = Origin::with_file(20 * MIB);
    let supernode = Supernode::start(1, &[]);
    let peers = peers(2);
    assert_complete(&download(&supernode, &peers[..1], &Wish::of(&origin.url("/file"))), &content);
    let outcomes = download(&supernode, &peers[1..], &Wish::of(&origin.url("/file")));
    assert_complete(&outcomes, &content);
    assert!(outcomes[0].counts.from_peers >= 4, "{:?}", outcomes[0].counts);
    assert_eq!(peers[0].uploaded(), outcomes[0].counts.from_peers);
}

#[test]
fn in_the_source_pattern_pieces_come_from_the_origin_once() {
    let (origin, content) = Origin::with_file(40 * MIB);
    let supernode = Supernode::start(1, &["--cdn-pattern", "source"]);
    let peers = peers(2);
    let wish = Wish::of(&origin.url("/file"));
    let first = download(&supernode, &peers[..1], &wish);
    assert_complete(&first, &content);
    assert_eq!(first[0].counts.from_source, 10);
    let second = download(&supernode, &peers[1..], &wish);
    assert_complete(&second, &content);
    assert!(second[0].counts.from_peers > 0, "{:?}", second[0].counts);
    let bytes = origin.served("/file").bytes as f64;
    assert!(bytes <= 1.5 * content.len() as f64, "{bytes}");
}

#[test]
fn a_given_md5_is_verified() {
    let (origin, content) = Origin::with_file(5 * MIB);
    let supernode = Supernode::start(1, &[]);
    let wish = Wish { md5: Some(md5_of(&content)), ..Wish::of(&origin.url("/file")) };
    assert_complete(&download(&supernode, &peers(1), &wish), &content);
    let wrong = Wish { md5: Some(md5_of(b"else")), ..wish };
    let outcome = Peer::new(address(12)).download(&[supernode.control()], wrong).wait();
    assert!(matches!(outcome.end, End::Source(..)), "{:?}", outcome.end);
}

#[test]
fn a_protected_file_is_given_only_to_those_with_access() {
    let (origin, content) = Origin::with_file(9 * MIB);
    origin.put("/file", Resource { token: Some("good".to_owned()), ..Resource::of(content.clone()) });
    let supernode = Supernode::start(1, &[]);
    let wish = |headers: &[&str]| Wish {
        headers: headers.iter().map(|header| (*header).to_owned()).collect(),
        ..Wish::of(&origin.url("/file"))
    };
    let good = wish(&["Authorization: Bearer good"]);
    let peers = peers(5);
    assert_complete(&download(&supernode, &peers[..1], &good), &content);
    for (peer, headers) in [(&peers[1], &[][..]), (&peers[2], &["Authorization: Bearer bad"])] {
        let outcome = peer.download(&[supernode.control()], wish(headers)).wait();
        assert_eq!((outcome.end, outcome.counts.pieces()), (End::NeedsCredentials, 0));
    }
    assert_complete(&download(&supernode, &peers[3..4], &good), &content);
    // A path without its ticket is no way to the file.
    let task = TaskId::new(&origin.url("/file"), "", "").to_string();
    let path = format!("/download/{}/{task}", &task[..3]);
    let mut http = HttpClient::from(address(14), supernode.download());
    let response = http.request("GET", &path, &[("Range", "bytes=0-99")], b"").expect("an answer");
    assert!(matches!(response.status, 401 | 403 | 404), "{response:?}");
}

#[test]
fn pieces_of_a_peer_that_corrupts_them_are_fetched_elsewhere() {
    for upload in [Upload::Corrupt, Upload::Missing, Upload::Cut] {
        let (origin, content) = Origin::with_file(20 * MIB);
        let supernode = Supernode::start(1, &[]);
        let peers = peers(4);
        assert_complete(&download(&supernode, &peers[..1], &Wish::of(&origin.url("/file"))), &content);
        peers[0].set(upload);
        let outcomes = download(&supernode, &peers[1..], &Wish::of(&origin.url("/file")));
        assert_complete(&outcomes, &content);
        let failures = sum(&outcomes, |counts| counts.failures);
        assert!(failures <= 20, "{upload:?}: {failures} failures");
        assert_eq!(origin.served("/file").bytes, content.len() as u64, "{upload:?}");
    }
}

#[test]
fn clients_without_an_uploader_are_served() {
    let (origin, content) = Origin::with_file(9 * MIB);
    let supernode = Supernode::start(1, &[]);
    let peers: Vec<Peer> = (11..15).map(|host| Peer::without_uploader(address(host))).collect();
    let outcomes = download(&supernode, &peers, &Wish::of(&origin.url("/file")));
    assert_complete(&outcomes, &content);
    assert_eq!(sum(&outcomes, |counts| counts.failures), 0);
}
