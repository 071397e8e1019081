//! Downloads of one file by several hosts at a limited rate, through a supernode.

use crate::table::{number, print, row};
use sampan_tests::dragonfly::{Counts, End, Peer, Wish};
use sampan_tests::origin_server::{Origin, Resource};
use sampan_tests::random::Random;
use sampan_tests::supernode::{Supernode, address};
use std::io;

/// Bytes of the file.
const LENGTH: usize = 80 << 20;
/// Most bytes a second of each client.
const RATE: u64 = 5 << 20;
/// Number of clients that begin at once.
const CLIENTS: [u8; 4] = [1, 4, 8, 16];

/// Measures and prints the table of swarms.
///
/// # Errors A download fails.
pub fn run() -> io::Result<()> {
    let mut rows = vec![row([
        "clients",
        "fastest s",
        "slowest s",
        "from origin",
        "from supernode",
        "from peers %",
        "requests/client",
    ])];
    for clients in CLIENTS {
        let origin = Origin::start();
        origin.put("/file", Resource::of(Random::new(1).bytes(LENGTH)));
        let supernode = Supernode::start(1, &[]);
        let peers: Vec<Peer> = (0..clients).map(|nth| Peer::new(address(10 + nth))).collect();
        let wish = Wish { rate: Some(RATE), ..Wish::of(&origin.url("/file")) };
        let supernodes = [supernode.control()];
        let downloads: Vec<_> = peers.iter().map(|peer| peer.download(&supernodes, wish.clone())).collect();
        let mut sum = Counts::default();
        let (mut fastest, mut slowest) = (f64::INFINITY, 0.0_f64);
        for download in downloads {
            let outcome = download.wait();
            if outcome.end != End::Complete {
                return Err(io::Error::other(format!("{:?}\n{}", outcome.end, supernode.logs())));
            }
            fastest = fastest.min(outcome.time.as_secs_f64());
            slowest = slowest.max(outcome.time.as_secs_f64());
            sum.from_supernode += outcome.counts.from_supernode;
            sum.from_peers += outcome.counts.from_peers;
            sum.registrations += outcome.counts.requests();
        }
        let pieces = (sum.pieces() / u64::from(clients)).max(1) as f64;
        rows.push(row([
            &clients.to_string(),
            &number(fastest),
            &number(slowest),
            &format!("{} ×", number(origin.served("/file").bytes as f64 / LENGTH as f64)),
            &format!("{} ×", number(sum.from_supernode as f64 / pieces)),
            &number(sum.from_peers as f64 * 100.0 / sum.pieces() as f64),
            &number(sum.registrations as f64 / f64::from(clients)),
        ]));
    }
    print("Supernode: 80 MiB for clients at 5 MiB/s each, all at once (16 s at best)", &rows);
    Ok(())
}
