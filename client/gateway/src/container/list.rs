//! `GET /containers/json`.
//!
//! The engine applies the filters that it knows; this module applies those that are about ports and about Windows.

use crate::call::{self, Call, Started};
use crate::engine_call::{EngineCall, Then};
use crate::exchange::Shared;
use crate::image::selection::boolean;
use crate::json;
use crate::query::{Filters, Query};
use crate::refusal::Refusal;
use sampan_client::docker::container_row::ContainerRow;
use sampan_client::engine::{Answer, ContainerDetail, Request};
use sampan_client::time;
use sampan_ipc::container::Listing;
use std::ops::RangeInclusive;

/// The filters of a list of containers.
const KEYS: [&str; 15] = [
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
/// The filters that the engine does not know.
const OWN: [&str; 4] = ["expose", "publish", "is-task", "isolation"];
/// The states of health that a filter may name.
const HEALTH: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];

/// Lists the containers that the filters select, the newest first.
///
/// # Errors
/// A filter or the limit is not valid.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let (listing, own) = listing(&call.query)?;
    Ok(Started::Operation(EngineCall::start(Request::ContainerDetails(listing), move |answers, _| {
        let mut details = details(answers);
        details.retain(|detail| own.contains(detail));
        let now = time::now();
        let rows: Vec<ContainerRow> = details.iter().map(|detail| ContainerRow::new(detail, now)).collect();
        Ok(Then::Answer(json::answer(&rows)?))
    })))
}

/// The containers in the engine's answers.
pub fn details(answers: Vec<Answer>) -> Vec<ContainerDetail> {
    let details = answers.into_iter().filter_map(|answer| match answer {
        Answer::ContainerDetails(part) => Some(part),
        _ => None,
    });
    details.flatten().collect()
}

/// Reads the parameters: what the engine selects, and what this module selects.
fn listing(query: &Query) -> Result<(Listing, OwnFilters), Refusal> {
    let filters = query.filters_among(&KEYS)?;
    // docker-py sends -1 for no limit.
    let last = query.number("limit")?.and_then(|limit| u32::try_from(limit).ok()).unwrap_or(0);
    for value in filters.get("health").into_iter().flatten() {
        if !HEALTH.contains(&value.as_str()) {
            return Err(Refusal::bad(format!(
                "invalid filter 'health={value}': expected {}",
                HEALTH.join(", ")
            )));
        }
    }
    let own = OwnFilters::parse(&filters)?;
    let of_engine = filters.iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
    let pairs = of_engine.flat_map(|(key, values)| values.iter().map(move |value| format!("{key}={value}")));
    let listing =
        Listing { all: query.is_set("all"), last, filters: pairs.collect(), size: query.is_set("size") };
    Ok((listing, own))
}

/// Ports that a filter names, and their protocol.
type Ports = (RangeInclusive<u16>, String);

/// The filters that the engine does not know.
#[derive(Debug, Default)]
struct OwnFilters {
    exposed: Option<Vec<Ports>>,
    publishes: bool,
    is_task: Option<bool>,
}

impl OwnFilters {
    fn parse(filters: &Filters) -> Result<Self, Refusal> {
        let ports = |key: &str| {
            let values = filters.get(key).filter(|values| !values.is_empty());
            let read = values.map(|values| values.iter().map(|value| ports(key, value)).collect());
            read.transpose()
        };
        let is_task = filters.get("is-task").map(|values| boolean("is-task", values)).transpose()?;
        Ok(OwnFilters {
            exposed: ports("expose")?,
            publishes: ports("publish")?.is_some_and(|ports: Vec<Ports>| !ports.is_empty()),
            is_task,
        })
    }

    /// No container is a task of a swarm, and none publishes a port. Isolation means something only on Windows, where
    /// docker regards this filter.
    fn contains(&self, detail: &ContainerDetail) -> bool {
        let exposes = |ports: &Vec<Ports>| detail.exposed.iter().any(|port| is_among(ports, port));
        self.is_task != Some(true) && !self.publishes && self.exposed.as_ref().is_none_or(exposes)
    }
}

/// Reads `80`, `80/tcp` or `80-90/udp`.
fn ports(key: &str, text: &str) -> Result<Ports, Refusal> {
    let invalid = || Refusal::bad(format!("invalid filter '{key}={text}': expected PORT[-PORT][/PROTOCOL]"));
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    let (first, last) = (number(first)?, number(last)?);
    if first > last || !["tcp", "udp", "sctp"].contains(&protocol) {
        return Err(invalid());
    }
    Ok((first..=last, protocol.to_owned()))
}

/// Whether a filter names the port of an image, `80/tcp` for example.
fn is_among(filters: &[Ports], exposed: &str) -> bool {
    let Ok((port, protocol)) = ports("expose", exposed) else { return false };
    filters
        .iter()
        .any(|(wanted, of)| *of == protocol && port.start() <= wanted.end() && wanted.start() <= port.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<(Listing, OwnFilters), Refusal> {
        listing(&Query::parse(query))
    }

    #[test]
    fn the_engine_gets_the_filters_that_it_knows() {
        let (listing, own) = read(
            r#"all=1&limit=-1&size=True&filters={"name":["a","b"],"label":{"x=y":true},"is-task":["false"]}"#,
        )
        .expect("valid");
        assert!(listing.all && listing.size && listing.last == 0);
        assert_eq!(listing.filters, ["label=x=y", "name=a", "name=b"]);
        assert!(own.contains(&ContainerDetail::default()));
        assert_eq!(read("limit=3").expect("valid").0.last, 3);
    }

    #[test]
    fn exposed_ports_are_compared_as_ranges_of_a_protocol() {
        let detail =
            |port: &str| ContainerDetail { exposed: vec![port.to_owned()], ..ContainerDetail::default() };
        for (filter, port, expected) in [
            ("80", "80/tcp", true),
            ("80", "80/udp", false),
            ("70-90/udp", "80/udp", true),
            ("81-90", "80/tcp", false),
            ("80", "nonsense", false),
        ] {
            let own = read(&format!(r#"filters={{"expose":["{filter}"]}}"#)).expect("valid").1;
            assert_eq!(own.contains(&detail(port)), expected, "{filter} {port}");
        }
        let own = read(r#"filters={"publish":["80"]}"#).expect("valid").1;
        assert!(!own.contains(&detail("80/tcp")));
    }

    #[test]
    fn filters_that_are_not_valid_are_refused() {
        for query in [
            r#"filters={"colour":["red"]}"#,
            r#"filters={"health":["ill"]}"#,
            r#"filters={"is-task":["x"]}"#,
            r#"filters={"expose":["90-80"]}"#,
            r#"filters={"publish":["80/x"]}"#,
            "filters=x",
            "limit=x",
        ] {
            assert_eq!(read(query).expect_err(query).status, 400, "{query}");
        }
    }
}
