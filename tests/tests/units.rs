//! The units as a product: installed by `make install`, under a real systemd as process 1.

use sampan_tests::machine::Machine;

#[test]
fn a_first_emit_and_a_first_subscriber_start_monitord_and_a_first_command_the_engine() {
    Machine::installed(|machine| {
        machine.systemctl(&["enable", "--now", "sampan-monitord.socket", "sampan-emit.socket"]);
        machine.systemctl(&["enable", "--now", "sampan-events.socket", "sampan-engine.socket"]);
        assert_eq!(machine.main_pid("sampan-monitord.service"), None);
        machine.says(&["sampan", "emit", "a", "b", "c"]);
        machine.await_unit("sampan-monitord.service", "active");
        machine.systemctl(&["stop", "sampan-monitord.service"]);
        let events = machine.says(&["sampan", "events", "--after", "0", "--no-follow"]);
        assert!(events.contains("a b c"), "{events}");
        machine.await_unit("sampan-monitord.service", "active");
        assert_eq!(machine.main_pid("sampan-engine.service"), None);
        machine.says(&["sampan", "images"]);
        machine.await_unit("sampan-engine.service", "active");
    });
}
