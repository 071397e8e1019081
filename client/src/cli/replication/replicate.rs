//! `sampan replicate`: asks the engine to replicate with this user's credentials, and follows the execution.

use crate::cli::args::replication::{Replicate, Sparse};
use crate::cli::engine::engine;
use crate::cli::error::{Failure, USAGE};
use crate::cli::human_units::rate;
use crate::cli::image::credentials;
use crate::cli::image::pull::detached;
use crate::cli::replication::follow::follow;
use crate::cli::replication::place::{self, Place};
use sampan_client::engine::Request;
use sampan_ipc::replication;

pub(crate) fn run(args: &Replicate) -> Result<(), Failure> {
    let (source, destination) = (place::parse(&args.source)?, place::parse(&args.destination)?);
    let options = options(args)?;
    check(args, &source)?;
    let engine = engine(&args.socket);
    let references: Vec<&str> =
        [&source, &destination].into_iter().filter_map(|place| place.reference.as_deref()).collect();
    let credentials = match references.is_empty() {
        true => Vec::new(),
        false => credentials::for_references(&engine, &references, args.authfile.as_deref())?,
    };
    let name = format!("{} to {}", source.text, destination.text);
    let request = Request::Replicate(Box::new(replication::Replicate {
        source: source.text,
        destination: destination.text,
        options,
        detach: args.detach.detach,
        credentials,
    }));
    match args.detach.detach {
        true => detached(engine.request(request, &[])?),
        false => follow(&engine, request, &name, &args.report),
    }
}

fn options(args: &Replicate) -> Result<replication::Options, Failure> {
    Ok(replication::Options {
        all_tags: args.all_tags,
        platforms: args.platforms.clone(),
        sparse: match args.sparse {
            Sparse::Rewrite => replication::Sparse::Rewrite,
            Sparse::Keep => replication::Sparse::Keep,
        },
        referrers: args.referrers,
        keep_existing: args.keep_existing,
        prune: args.prune,
        prune_max_percent: args.prune_max,
        verify: args.verify,
        dry_run: args.dry_run,
        bytes_per_second: args.limit_rate.as_deref().map_or(Ok(0), rate)?,
        requests_per_second: args.request_rate.unwrap_or(0),
        insecure_source: !args.src_tls_verify,
        insecure_destination: !args.dest_tls_verify,
    })
}

/// Checks the values that mean nothing together or by themselves.
fn check(args: &Replicate, source: &Place) -> Result<(), Failure> {
    if args.prune && !args.all_tags && !source.has_many() {
        let failure = Failure::new("--prune needs --all-tags or a pattern").status(USAGE);
        return Err(failure.hint("the destination's tags are compared with all tags of the source"));
    }
    if let Some(text) = args.platforms.iter().find(|text| !is_platform(text)) {
        let failure = Failure::new(format!("{text:?} is not a platform")).status(USAGE);
        return Err(failure.hint("write OS/ARCH or OS/ARCH/VARIANT, such as linux/arm64 or linux/arm/v7"));
    }
    Ok(())
}

/// Whether `text` is `OS/ARCH[/VARIANT]`. The engine knows which of them there are.
fn is_platform(text: &str) -> bool {
    let is_word = |word: &str| {
        (1..=32).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    (2..=3).contains(&text.split('/').count()) && text.split('/').all(is_word)
}
