//! `info`, `version` and `monitor status`: the daemons' reports about themselves.

use crate::cli::args::socket::EngineSocket;
use crate::cli::args::system::{Info, MonitorStatus, Version};
use crate::cli::engine::engine;
use crate::cli::error::Failure;
use crate::cli::format::{self, ObjectFormat};
use crate::cli::human_units;
use crate::cli::json;
use crate::cli::output;
use crate::cli::table::Table;
use sampan_client::docker;
use sampan_client::docker::host::Host;
use sampan_client::docker::version::API_VERSION;
use sampan_client::engine::{self, Answer, Request};
use sampan_client::{Paths, status, time};
use sampan_ipc::details::EngineDetails;
use sampan_ipc::watch::{Extent, Status};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

pub(crate) fn info(args: &Info) -> Result<(), Failure> {
    let shape = ObjectFormat::parse(args.format.as_deref())?;
    if !matches!(shape, ObjectFormat::Own) {
        let listeners = status(&Paths::from_env().events_socket()).ok();
        let listeners = listeners.map(|status| status.subscribers.len() as u64 + status.subscribers_left_out);
        let details = request_details(&args.socket)?;
        let info = docker::info::Info::new(&details, listeners, &Host::read(), time::now());
        return format::print(&shape.text(&object(&info)?)?.unwrap_or_default());
    }
    let info = request_info(&args.socket)?;
    if args.json {
        return print(&json_info(&info));
    }
    let mut text = String::new();
    let up = human_units::time(Duration::from_millis(info.uptime_ms));
    let (containers, running, paused) = info.containers;
    let (cgroup, driver) = &info.cgroup;
    let _ = writeln!(text, "engine      {}, process {}, up {up}", info.version, info.pid);
    let _ = writeln!(text, "runtime     {}", info.runtime);
    let _ = writeln!(text, "containers  {containers}, {running} running, {paused} paused");
    let _ = writeln!(text, "store       {}", info.store);
    let _ = writeln!(text, "images      {}", info.images);
    let _ = writeln!(text, "rootfs      {}", info.rootfs);
    let _ = writeln!(text, "cgroup      {cgroup}, driver {driver}");
    let _ = writeln!(text, "logs        {}", info.log_driver);
    let _ = writeln!(text, "security    {}", info.security.join(", "));
    let _ = writeln!(text, "jobs        {} at work", info.jobs);
    let _ = writeln!(text, "events      {} waiting, {} lost", info.events_spooled, info.events_lost);
    // Parts of the answer may come from files and programs that Sampan does not control.
    let mut shown = String::new();
    for line in text.lines() {
        sampan_ipc::event::escape(&mut shown, line.trim_end());
        shown.push('\n');
    }
    print(&shown)
}

fn request_info(socket: &EngineSocket) -> Result<engine::Info, Failure> {
    let mut info = None;
    for answer in engine(socket).request(Request::Info, &[])? {
        if let Answer::Info(answer) = answer? {
            info = Some(answer);
        }
    }
    info.map(|info| *info).ok_or_else(|| Failure::new("the engine gave no answer"))
}

/// Returns docker's object as JSON.
fn object(value: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(value)
        .map_err(|error| Failure::new(format!("cannot describe the engine in docker's form: {error}")))
}

fn request_details(socket: &EngineSocket) -> Result<EngineDetails, Failure> {
    let mut details = None;
    for answer in engine(socket).request(Request::EngineDetails, &[])? {
        if let Answer::EngineDetails(answer) = answer? {
            details = Some(answer);
        }
    }
    details.map(|details| *details).ok_or_else(|| Failure::new("the engine gave no answer"))
}

fn json_info(info: &engine::Info) -> String {
    let value = json!({
        "version": info.version, "pid": info.pid, "uptimeMs": info.uptime_ms, "store": info.store,
        "images": info.images, "jobs": info.jobs, "runtime": info.runtime,
        "containers": info.containers.0, "containersRunning": info.containers.1,
        "containersPaused": info.containers.2, "cgroup": info.cgroup.0, "cgroupDriver": info.cgroup.1,
        "rootfs": info.rootfs, "logDriver": info.log_driver, "security": info.security,
        "eventsSpooled": info.events_spooled, "eventsLost": info.events_lost,
    });
    json::line(&value) + "\n"
}

/// Prints the versions of this program and of the running daemons.
pub(crate) fn version(args: &Version) -> Result<(), Failure> {
    let shape = ObjectFormat::parse(args.format.as_deref())?;
    if !matches!(shape, ObjectFormat::Own) {
        return format::print(&shape.text(&docker_version()?)?.unwrap_or_default());
    }
    let monitord = status(&Paths::from_env().events_socket()).ok().map(|status| status.version);
    let engine = request_info(&EngineSocket { socket: None }).ok().map(|info| info.version);
    let own = env!("CARGO_PKG_VERSION");
    if args.json {
        return print(
            &(json::line(&json!({ "sampan": own, "monitord": monitord, "engine": engine })) + "\n"),
        );
    }
    let word = |version: Option<String>| version.unwrap_or_else(|| "not running".to_owned());
    print(&format!("sampan    {own}\nmonitord  {}\nengine    {}\n", word(monitord), word(engine)))
}

/// Returns the versions of this program and of the engine in docker's form. `Server` is null without an engine.
fn docker_version() -> Result<Value, Failure> {
    let host = Host::read();
    let monitord = status(&Paths::from_env().events_socket()).ok().map(|status| status.version);
    let server = match request_details(&EngineSocket { socket: None }) {
        Ok(details) => object(&docker::version::Version::new(&details, monitord.as_deref(), &host))?,
        Err(_) => Value::Null,
    };
    Ok(json!({
        "Client": {
            "Platform": {"Name": "Sampan"}, "Version": env!("CARGO_PKG_VERSION"), "ApiVersion": API_VERSION,
            "DefaultAPIVersion": API_VERSION, "Os": "linux", "Arch": host.go_architecture(), "Context": "default",
        },
        "Server": server,
    }))
}

pub(crate) fn monitor(args: &MonitorStatus) -> Result<(), Failure> {
    let socket = args.socket.socket.clone().unwrap_or_else(|| Paths::from_env().events_socket());
    let status = status(&socket)?;
    print(&if args.json { json::line(&json_status(&status)) + "\n" } else { text_status(&status) })
}

fn text_status(status: &Status) -> String {
    let mut text = String::new();
    let up = human_units::time(Duration::from_millis(status.uptime_ms));
    let rate = rate(status);
    let _ = writeln!(text, "monitord     {}, process {}, up {up}", status.version, status.pid);
    let _ = writeln!(text, "events       seq {}, {} since start, {rate}/s", status.seq, status.events);
    let _ = writeln!(
        text,
        "lost         {} by writers, {} for subscribers; {} bytes skipped, {} records repeated",
        status.writers_lost, status.subscribers_lost, status.skipped_bytes, status.repeated
    );
    let _ = writeln!(text, "ring         {}", extent(&status.ring));
    let _ = match &status.journal {
        None => writeln!(text, "journal      off"),
        Some(journal) => {
            let segments = match journal.segments {
                1 => "1 segment".to_owned(),
                count => format!("{count} segments"),
            };
            let failed = journal.failed.as_ref().map_or(String::new(), |why| format!("; FAILED: {why}"));
            writeln!(text, "journal      {}, {segments}{failed}", extent(&journal.extent))
        }
    };
    let connected = status.subscribers.len() as u64 + status.subscribers_left_out;
    let _ = writeln!(text, "subscribers  {connected}, {} refused", status.refused);
    if !status.subscribers.is_empty() {
        let mut table = Table::new(&["  UID", "PID", "LAG", "AGE", "FILTERS"]);
        for subscriber in &status.subscribers {
            table.row(vec![
                format!("  {}", subscriber.uid),
                subscriber.pid.to_string(),
                subscriber.lag.to_string(),
                human_units::time(Duration::from_millis(subscriber.age_ms)),
                subscriber.filters.join(" "),
            ]);
        }
        text.push_str(&table.text());
    }
    text
}

fn rate(status: &Status) -> String {
    format!("{}.{:03}", status.events_per_1000s / 1000, status.events_per_1000s % 1000)
}

fn extent(extent: &Extent) -> String {
    let (bytes, max) = (human_units::bytes(extent.bytes), human_units::bytes(extent.bytes_max));
    match extent.last {
        0 => format!("empty, {bytes} of {max}"),
        last => format!("seq {} to {last}, {bytes} of {max}", extent.first),
    }
}

fn json_status(status: &Status) -> Value {
    let extent = |extent: &Extent| json!({ "first": extent.first, "last": extent.last, "bytes": extent.bytes, "bytesMax": extent.bytes_max });
    let journal = status.journal.as_ref().map(|journal| {
        let Extent { first, last, bytes, bytes_max } = journal.extent;
        json!({
            "first": first, "last": last, "bytes": bytes, "bytesMax": bytes_max,
            "segments": journal.segments, "failed": journal.failed,
        })
    });
    let subscribers = status.subscribers.iter().map(|subscriber| {
        json!({
            "uid": subscriber.uid, "pid": subscriber.pid, "lag": subscriber.lag,
            "ageMs": subscriber.age_ms, "filters": subscriber.filters,
        })
    });
    json!({
        "version": status.version, "pid": status.pid, "uptimeMs": status.uptime_ms,
        "seq": status.seq, "events": status.events, "eventsPerSecond": status.events_per_1000s as f64 / 1000.0,
        "skippedBytes": status.skipped_bytes, "repeated": status.repeated,
        "writersLost": status.writers_lost, "subscribersLost": status.subscribers_lost, "refused": status.refused,
        "ring": extent(&status.ring), "journal": journal,
        "subscribers": subscribers.collect::<Vec<_>>(), "subscribersLeftOut": status.subscribers_left_out,
    })
}

fn print(text: &str) -> Result<(), Failure> {
    output::print(text)
}
