//! Nothing is left of clients that came and died: no slot, descriptor, thread, map entry or memory.

use sampan_tests::dragonfly::{End, Peer, Pull, Pulled, Wire, Wish};
use sampan_tests::host::wait_until;
use sampan_tests::leaks::{anonymous, descriptors, threads};
use sampan_tests::origin_server::{Origin, Resource};
use sampan_tests::random::Random;
use sampan_tests::supernode::{Supernode, address, registration};

/// Memory that a thousand clients may leave, in KiB: the allocator's holes.
const GROWTH_KIB: usize = 4 << 10;

#[test]
fn a_thousand_joins_and_deaths_leave_nothing() {
    let origin = Origin::start();
    let content = Random::new(17).bytes(9 << 20);
    origin.put("/file", Resource::of(content.clone()));
    let supernode = Supernode::start(1, &["--task-idle", "1s"]);
    let pid = supernode.pid().cast_signed();
    let join = |round: usize| {
        let ip = address(11 + (round % 200) as u8);
        let cid = format!("{ip}-{round:06}-1795229659.132");
        let mut wire = Wire::new(ip, supernode.control());
        let body = registration(&supernode, ip, 20_000 + round as u16, &cid, &origin.url("/file"));
        let task = wire.register(&body).expect("an answer").1.expect("a task").task_id;
        let pull = Pull { result: 502, status: 700, task: task.clone(), ..Pull::default() };
        // Some die before they are told, some with pieces in hand, and some after a piece.
        let way = round % 3;
        if way == 0 {
            return;
        }
        if let Ok(Pulled::Get(offers)) = wire.pull(&cid, &pull)
            && way == 1
        {
            wire.success(&task, &cid, &offers[0].cid, &offers[0].range);
        }
    };
    let gauges = || {
        let text = supernode.http().get("/metrics").expect("an answer").text();
        let is_gauge = |line: &&str| {
            line.starts_with("dragonfly_supernode_dfgettasks{")
                || line.starts_with("dragonfly_supernode_peers ")
        };
        text.lines().filter(is_gauge).map(str::to_owned).collect::<Vec<_>>()
    };
    // Whatever is left is told by the test that fails.
    let await_gone = |what: &str| {
        let logs = || format!("{:?}\n{}", gauges(), supernode.logs());
        wait_until(what, logs, || gauges().iter().all(|line| line.ends_with(" 0")));
    };
    // The first clients fill caches and pools.
    (0..50).for_each(join);
    await_gone("the first clients to be forgotten");
    let before = (descriptors(pid), threads(pid), anonymous(pid));
    (50..1050).for_each(join);
    await_gone("all clients to be forgotten");
    supernode.wait_until("their descriptors to be closed", || descriptors(pid) <= before.0);
    supernode.wait_until("threads to end", || threads(pid) <= before.1);
    let after = anonymous(pid);
    assert!(after <= before.2 + GROWTH_KIB, "{after} KiB after {} KiB", before.2);
    // The file is still there, and all places for transfers are free.
    let peer = Peer::new(address(11));
    let outcome = peer.download(&[supernode.control()], Wish::of(&origin.url("/file"))).wait();
    assert_eq!(outcome.end, End::Complete);
    assert_eq!(origin.served("/file").bytes, content.len() as u64);
}
