//! `GET /system/df`.

use crate::call::{self, Call, Started};
use crate::container::list as containers;
use crate::engine_call::{EngineCall, Finish, Then};
use crate::exchange::Shared;
use crate::image::list as images;
use crate::json;
use crate::query::Query;
use crate::refusal::Refusal;
use sampan_client::docker::container_row::ContainerRow;
use sampan_client::docker::disk_usage::DiskUsage;
use sampan_client::engine::{Answer, ImageUsage, Request};
use sampan_client::time;
use sampan_ipc::container::Listing;

/// The types of data that a request may ask for.
const TYPES: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// Reports how much of the disk images and containers use. `type` limits the report.
///
/// # Errors
/// A type is unknown.
pub fn start(call: &Call<'_>, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let wanted = Wanted::parse(&call.query)?;
    let report = DiskUsage {
        volumes: wanted.volumes.then(Vec::new),
        build_cache: wanted.build_cache.then(Vec::new),
        ..DiskUsage::default()
    };
    let operation = match (wanted.images, wanted.containers) {
        (true, _) => {
            let finish = of_usage(report, wanted.containers);
            EngineCall::start_with(Request::Usage, finish)
        }
        (false, true) => EngineCall::start_with(all_containers(), of_containers(report)),
        (false, false) => return Ok(Started::Answer(json::answer(&report)?)),
    };
    Ok(Started::Operation(operation))
}

/// What a request asks for.
struct Wanted {
    images: bool,
    containers: bool,
    volumes: bool,
    build_cache: bool,
}

impl Wanted {
    fn parse(query: &Query) -> Result<Self, Refusal> {
        let types: Vec<&str> = query.all("type").collect();
        if let Some(unknown) = types.iter().find(|one| !TYPES.contains(one)) {
            return Err(Refusal::bad(format!("unknown object type: {unknown}")));
        }
        let has = |one: &str| types.is_empty() || types.contains(&one);
        Ok(Wanted {
            images: has("image"),
            containers: has("container"),
            volumes: has("volume"),
            build_cache: has("build-cache"),
        })
    }
}

/// Takes the disk usage of the store, then asks for the images.
fn of_usage(mut report: DiskUsage, with_containers: bool) -> Finish {
    Box::new(move |answers, _: &mut Shared| {
        let answers = answers?;
        let kinds = answers.iter().filter_map(|answer| match answer {
            Answer::Usage(kinds) => Some(kinds),
            _ => None,
        });
        report.layers_size = kinds.flatten().find(|usage| usage.kind == "images").map(|usage| usage.size);
        let usage = images::usage(answers);
        Ok(Then::Call(Request::ImageDetails, of_images(report, usage, with_containers)))
    })
}

/// Takes the images, then asks for the containers.
fn of_images(mut report: DiskUsage, usage: Vec<ImageUsage>, with_containers: bool) -> Finish {
    Box::new(move |answers, _: &mut Shared| {
        let details = images::details(answers?);
        report.images = Some(details.iter().map(|detail| images::counted(detail, &usage)).collect());
        match with_containers {
            true => Ok(Then::Call(all_containers(), of_containers(report))),
            false => Ok(Then::Answer(json::answer(&report)?)),
        }
    })
}

fn all_containers() -> Request {
    Request::ContainerDetails(Listing { all: true, size: true, ..Listing::default() })
}

/// Takes the containers, and answers.
fn of_containers(mut report: DiskUsage) -> Finish {
    Box::new(move |answers, _: &mut Shared| {
        let now = time::now();
        let details = containers::details(answers?);
        report.containers = Some(details.iter().map(|detail| ContainerRow::new(detail, now)).collect());
        Ok(Then::Answer(json::answer(&report)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_limit_the_report() {
        let all = Wanted::parse(&Query::parse("")).expect("valid");
        assert!(all.images && all.containers && all.volumes && all.build_cache);
        let two = Wanted::parse(&Query::parse("type=image&type=volume")).expect("valid");
        assert!(two.images && !two.containers && two.volumes && !two.build_cache);
        assert!(Wanted::parse(&Query::parse("type=cheese")).is_err());
    }
}
