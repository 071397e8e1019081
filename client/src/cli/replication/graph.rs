//! `sampan replication graph`: prints the state machine of replication, which the engine draws from its own table.

use crate::cli::args::replication::Graph;
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::output;
use sampan_client::engine::{Answer, Request};

pub(crate) fn run(args: &Graph) -> Result<(), Failure> {
    let mut graph = String::new();
    for answer in engine(&args.socket).request(Request::ReplicationGraph, &[])? {
        if let Answer::Text(text) = answer? {
            graph += &text;
        }
    }
    if !graph.ends_with('\n') {
        graph.push('\n');
    }
    output::print(&graph)
}
