//! The transitions of a replication task, and their drawing.
//!
//! The driver (`task`) builds its machine from these tables and from nothing else; [`graph`] prints the same tables.
//! The states and edges are those of Harbor's first job machine.

use sampan_ipc::replication::{Operation, State};
use std::fmt::Write;

/// An edge: from, to.
pub type Edge = (State, State);

/// The edges of every task.
const COMMON: [Edge; 2] = [(State::Pending, State::Running), (State::Retrying, State::Running)];

/// The edges of a transfer.
const TRANSFER: [Edge; 7] = [
    (State::Running, State::Initialize),
    (State::Initialize, State::Check),
    (State::Check, State::PullManifest),
    (State::PullManifest, State::TransferBlob),
    (State::PullManifest, State::Finished),
    (State::TransferBlob, State::PushManifest),
    (State::PushManifest, State::PullManifest),
];

/// The edges of a deletion.
const DELETE: [Edge; 2] = [(State::Running, State::Delete), (State::Delete, State::Finished)];

/// The states that can be entered from every other state.
pub const FORCED: [State; 4] = [State::Retrying, State::Stopped, State::Canceled, State::Error];

/// The edges of a task.
pub fn edges(operation: Operation) -> impl Iterator<Item = Edge> {
    let own: &[Edge] = match operation {
        Operation::Transfer => &TRANSFER,
        Operation::Delete => &DELETE,
    };
    COMMON.iter().chain(own).copied()
}

/// Draws both machines in the language of Graphviz, dot(1).
pub fn graph() -> String {
    let mut text = String::from("digraph replication {\n  rankdir=LR;\n  node [shape=box];\n");
    for state in State::ALL.iter().filter(|state| state.is_final() && **state != State::Skipped) {
        let _ = writeln!(text, "  {state} [peripheries=2];");
    }
    for (name, operation) in [("transfer", Operation::Transfer), ("delete", Operation::Delete)] {
        let _ = writeln!(text, "  // {name}");
        for (from, to) in edges(operation).filter(|edge| name == "transfer" || !COMMON.contains(edge)) {
            let _ = writeln!(text, "  {from} -> {to};");
        }
    }
    text.push_str("  // from every state\n  any [shape=plaintext, label=\"any state\"];\n");
    for state in FORCED {
        let _ = writeln!(text, "  any -> {state} [style=dashed];");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_of_a_table_can_be_reached_and_left() {
        for operation in [Operation::Transfer, Operation::Delete] {
            for (from, _) in edges(operation) {
                let reached = edges(operation).any(|(_, to)| to == from);
                assert!(reached || from == State::Pending || FORCED.contains(&from), "{from}");
            }
            for (_, to) in edges(operation) {
                assert!(to.is_final() || edges(operation).any(|(from, _)| from == to), "{to}");
            }
        }
    }

    #[test]
    fn the_drawing_in_the_docs_is_the_table() {
        let page = include_str!("../../../docs/replication.md");
        assert!(page.contains(&format!("```dot\n{}```", graph())), "write this into the page:\n{}", graph());
    }
}
