//! `sampan replication policies` and `sampan replication run`.

use crate::cli::args::display::ListFormat;
use crate::cli::args::replication::{Policies, Run};
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::human_units;
use crate::cli::image::pull::detached;
use crate::cli::job::view;
use crate::cli::json;
use crate::cli::output;
use crate::cli::replication::follow::follow;
use crate::cli::table::Table;
use sampan_client::Engine;
use sampan_client::engine::{Answer, Request};
use sampan_client::time;
use sampan_ipc::replication::Policy;
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) fn list(args: &Policies) -> Result<(), Failure> {
    let policies = all(&engine(&args.socket))?;
    if args.format == ListFormat::Json {
        return output::print(&(json::line(&policies.iter().map(json_policy).collect::<Vec<_>>()) + "\n"));
    }
    let table = table(&policies, time::now());
    output::print(&view::columns().map_or_else(|| table.text(), |columns| table.cropped(columns, 0)))?;
    for policy in policies.iter().filter(|policy| !policy.error.is_empty()) {
        output::message("error", &policy.error);
    }
    Ok(())
}

pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    let (engine, name, detach) = (engine(&args.socket), args.policy.clone(), args.detach.detach);
    let request = Request::RunPolicy { name, dry_run: args.dry_run, detach };
    match detach {
        true => engine.request(request, &[]).map_err(Failure::from).and_then(detached),
        false => follow(&engine, request, &args.policy, &args.report),
    }
    .map_err(|failure| with_reason(failure, &engine, &args.policy))
}

/// All policies of the engine, with those whose files cannot be used.
fn all(engine: &Engine) -> Result<Vec<Policy>, Failure> {
    let mut policies = Vec::new();
    for answer in engine.request(Request::Policies, &[])? {
        if let Answer::Policies(more) = answer? {
            policies.extend(more);
        }
    }
    Ok(policies)
}

/// Adds why the engine does not have the policy, if its file cannot be used.
fn with_reason(failure: Failure, engine: &Engine, name: &str) -> Failure {
    if failure.signal.is_some() || !failure.message.starts_with("there is no replication policy") {
        return failure;
    }
    let policies = all(engine).unwrap_or_default();
    match policies.into_iter().find(|policy| policy.name == name && !policy.error.is_empty()) {
        Some(policy) => failure.hint(policy.error),
        None => failure,
    }
}

fn table(policies: &[Policy], now: i64) -> Table {
    let mut table = Table::new(&["POLICY", "TRIGGER", "NEXT", "LAST", "STATE", "SOURCE", "DESTINATION"]);
    for policy in policies {
        let (last, state) = match policy.last {
            0 => ("-".to_owned(), "-"),
            last => (last.to_string(), policy.last_state.word()),
        };
        let state = match policy {
            _ if !policy.error.is_empty() => "invalid",
            _ if !policy.enabled => "disabled",
            _ => state,
        };
        let (source, destination) = (policy.source.clone(), policy.destination.clone());
        let (name, trigger) = (policy.name.clone(), policy.trigger.clone());
        table.row(vec![name, trigger, next(policy.next, now), last, state.to_owned(), source, destination]);
    }
    table
}

/// The time until the next run.
fn next(at: i64, now: i64) -> String {
    match at {
        0 => "-".to_owned(),
        at => {
            let left = u64::try_from(at.saturating_sub(now)).unwrap_or(0);
            format!("in {}", human_units::time(Duration::from_nanos(left)))
        }
    }
}

fn json_policy(policy: &Policy) -> Value {
    json!({
        "name": policy.name, "file": policy.file, "source": policy.source, "destination": policy.destination,
        "trigger": policy.trigger, "enabled": policy.enabled,
        "next": (policy.next != 0).then(|| time::local(policy.next)),
        "last": (policy.last != 0).then_some(policy.last),
        "lastState": (policy.last != 0).then(|| policy.last_state.word()), "error": policy.error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_ipc::replication::State;

    #[test]
    fn a_policy_tells_when_it_runs_next_and_what_became_of_its_last_run() {
        let of = |name: &str, enabled, error: &str| Policy {
            name: name.into(),
            trigger: "cron 0 2 * * *".into(),
            source: "a.example/x".into(),
            destination: "oci:/usb".into(),
            enabled,
            next: 90_000_000_000,
            last: 7,
            last_state: State::Finished,
            error: error.into(),
            ..Policy::default()
        };
        let never = Policy { last: 0, next: 0, ..of("never", true, "") };
        let policies = [of("on", true, ""), of("off", false, ""), of("bad", true, "line 3"), never];
        let expected = "\
POLICY  TRIGGER         NEXT       LAST  STATE     SOURCE       DESTINATION
on      cron 0 2 * * *  in 1m 00s  7     finished  a.example/x  oci:/usb
off     cron 0 2 * * *  in 1m 00s  7     disabled  a.example/x  oci:/usb
bad     cron 0 2 * * *  in 1m 00s  7     invalid   a.example/x  oci:/usb
never   cron 0 2 * * *  -          -     -         a.example/x  oci:/usb
";
        assert_eq!(table(&policies, 30_000_000_000).text(), expected);
    }
}
