//! Random faults of two supernodes, their clients and the origin, all at once. No client may get wrong content, hang or
//! crash, and afterwards everything works.

use sampan_supernode::task_id::TaskId;
use sampan_tests::dragonfly::{Download, End, Peer, Upload, Wish, assert_complete};
use sampan_tests::origin_server::{Fault, Origin};
use sampan_tests::random::Random;
use sampan_tests::rounds;
use sampan_tests::supernode::{Supernode, address};

const MIB: usize = 1 << 20;
/// Number of clients of a round.
const CLIENTS: usize = 8;
/// Number of faults of a round.
const FAULTS: usize = 4;

#[test]
fn random_faults_give_no_client_wrong_content() {
    let seed = u64::from(std::process::id());
    for round in 0..rounds(30) as u64 {
        println!("seed {seed}, round {round}");
        play(&mut Random::new(seed ^ round << 32));
    }
}

fn play(random: &mut Random) {
    let (origin, content) = Origin::with_file(24 * MIB);
    let nodes: Vec<String> = (1..3).map(|nth| format!("{}:8002", address(nth))).collect();
    let args: Vec<&str> = nodes.iter().flat_map(|node| ["--supernode", node]).collect();
    let mut supernodes: Vec<Supernode> = (1..3).map(|nth| Supernode::start(nth, &args)).collect();
    let addresses: Vec<_> = supernodes.iter().map(Supernode::control).collect();
    let wish = Wish { rate: Some(8 << 20), ..Wish::of(&origin.url("/file")) };
    let peers: Vec<Peer> = (0..CLIENTS).map(|nth| Peer::new(address(11 + nth as u8))).collect();
    let downloads: Vec<Download> = peers
        .iter()
        .map(|peer| {
            let mut order = addresses.clone();
            order.rotate_left(random.below(2));
            peer.download(&order, wish.clone())
        })
        .collect();
    let pieces = |downloads: &[Download]| downloads.iter().map(|d| d.counts().pieces()).sum::<u64>();
    let all = (CLIENTS * (content.len() / (4 * MIB - 5) + 1)) as u64;
    let mut faults = Vec::new();
    for nth in 1..=FAULTS as u64 {
        let target = random.below((all / FAULTS as u64) as usize) as u64 + (nth - 1) * all / FAULTS as u64;
        supernodes[0].wait_until("the time of a fault", || {
            pieces(&downloads) >= target || downloads.iter().all(Download::has_ended)
        });
        let (victim, kind) = (random.below(2), random.below(5));
        faults.push((victim, kind, pieces(&downloads)));
        match kind {
            0 => {
                supernodes[victim].kill9();
                supernodes[victim].start_again();
            }
            1 => {
                supernodes[victim].term();
                supernodes[victim].start_again();
            }
            2 => peers[random.below(CLIENTS)].die(),
            3 => peers[random.below(CLIENTS)].set(*random.pick(&[
                Upload::Corrupt,
                Upload::Missing,
                Upload::Cut,
            ])),
            _ => origin.fail("/file", [Fault::Cut(random.below(content.len()) as u64), Fault::Status(503)]),
        }
    }
    for download in downloads {
        let outcome = download.wait();
        match &outcome.end {
            End::Complete => assert_complete(&[outcome], &content),
            // A client that has tried both supernodes goes to the origin.
            End::Killed | End::Source(3, _) => {}
            other => {
                let task = TaskId::new(&origin.url("/file"), "", "");
                let tell = |supernode: &Supernode| {
                    let metrics = supernode.http().get("/metrics").expect("an answer").text();
                    let gauges =
                        metrics.lines().filter(|line| line.contains("_tasks{") || line.contains("cdn_"));
                    let task =
                        supernode.http().get(&format!("/api/v1/tasks/{task}")).expect("an answer").text();
                    format!("{task}\n{}", gauges.collect::<Vec<_>>().join("\n"))
                };
                let told: Vec<String> = supernodes.iter().map(tell).collect();
                panic!("{other:?} after {:?} and {faults:?}\n{}", outcome.counts, told.join("\n\n"))
            }
        }
    }
    drop(peers);
    for (nth, address_of) in addresses.iter().enumerate() {
        let peer = Peer::new(address(31 + nth as u8));
        assert_complete(&[peer.download(&[*address_of], Wish::of(&origin.url("/file"))).wait()], &content);
    }
}
