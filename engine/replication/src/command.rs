//! What an order selects: places, repositories, artifacts, and their names at the destination.
//!
//! An order comes from a command or from a policy. [`Wanted::of`] parses it, before anything is opened; the execution
//! asks it for the tasks and artifacts. Pure.
//!
//! | written | place | repositories |
//! |---|---|---|
//! | `docker://HOST/PATH[:TAG\|@DIGEST]`, or without `docker://` | registry | the path without the host; may be a glob |
//! | `oci:DIR[:NAME]` | OCI layout | `PATH`, from names `PATH:TAG`; empty for names that are only a tag |
//! | `store:[REFERENCE]` | this host's store | the name with the host |

use crate::policy::Policy;
use crate::policy::glob::Glob;
use crate::policy::place_name::PlaceName;
use crate::record::Order;
use sampan_ipc::replication::{is_pattern, split_name};
use sampan_oci::reference::{self, Reference};
use std::path::PathBuf;

/// A place, without a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A registry, by its host and port.
    Registry(String),
    /// The directory of an OCI image layout.
    OciLayout(PathBuf),
    /// The store of this host.
    Store,
}

/// What an order selects.
#[derive(Debug)]
pub struct Wanted {
    /// Where artifacts come from.
    pub source: Location,
    /// Where artifacts go to.
    pub destination: Location,
    repositories: Repositories,
    artifacts: Artifacts,
    naming: Naming,
}

#[derive(Debug)]
enum Repositories {
    One(String),
    Matching(Glob),
    OfPolicy(Box<Policy>),
}

#[derive(Debug)]
enum Artifacts {
    /// One tag or digest, and its name at the destination.
    One(String, String),
    All,
}

/// How a repository is named at the destination.
#[derive(Debug)]
enum Naming {
    /// By this name.
    As(String),
    /// By its own name without this prefix, below this path.
    Below {
        base: String,
        strip: String,
    },
    OfPolicy,
}

/// Why an order cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommandError(pub String);

fn wrong(why: impl Into<String>) -> CommandError {
    CommandError(why.into())
}

/// The full name of a repository of the place that `side` names, as reports show it: `HOST/PATH`, `oci:DIR:PATH` or
/// `store:HOST/PATH`.
pub fn full_name(side_text: &str, repository: &str) -> String {
    match side(side_text).map(|side| side.location) {
        Ok(Location::Registry(host)) => format!("{host}/{repository}"),
        Ok(Location::OciLayout(directory)) if repository.is_empty() => format!("oci:{}", directory.display()),
        Ok(Location::OciLayout(directory)) => format!("oci:{}:{repository}", directory.display()),
        Ok(Location::Store) => format!("store:{repository}"),
        Err(_) => repository.to_owned(),
    }
}

/// A side of a command as it was written.
struct Side {
    location: Location,
    /// A repository, a front part of one, or a glob; may be empty.
    path: String,
    target: Option<String>,
}

impl Wanted {
    /// Parses an order.
    ///
    /// # Errors
    /// [`CommandError`]: a side is malformed, or the two do not fit together.
    pub fn of(order: &Order) -> Result<Self, CommandError> {
        match order.policy_text.is_empty() {
            true => Wanted::of_command(&order.source, &order.destination, order.options.all_tags),
            false => Wanted::of_policy(order),
        }
    }

    fn of_command(source: &str, destination: &str, all_tags: bool) -> Result<Self, CommandError> {
        let from = side(source)?;
        let to = side(destination)?;
        let is_glob = is_pattern(&from.path) || (from.path.is_empty() && from.target.is_none());
        if is_glob
            && (from.path.contains('@') || from.path.rsplit('/').next().unwrap_or_default().contains(':'))
        {
            return Err(wrong(format!(
                "{source:?} is a pattern with a tag or a digest, but a pattern copies all tags"
            )));
        }
        if (is_glob || all_tags) && from.target.is_some() {
            return Err(wrong(format!("{source:?} has a tag or a digest, but all tags are wanted")));
        }
        if let (Some(tag), true) = (&to.target, is_glob || all_tags) {
            return Err(wrong(format!("the destination has the tag {tag:?}, but several tags are copied")));
        }
        let (repositories, naming) = if is_glob {
            let pattern = if from.path.is_empty() { "**".to_owned() } else { from.path.clone() };
            let strip = match to.path.is_empty() {
                true => String::new(),
                false => fixed_prefix(&pattern),
            };
            let glob = Glob::parse(&pattern).map_err(|error| wrong(error.to_string()))?;
            (Repositories::Matching(glob), Naming::Below { base: to.path.clone(), strip })
        } else {
            // `oci:DIR:TAG` names exactly that entry of the layout.
            let is_bare_tag = matches!(to.location, Location::OciLayout(_)) && to.target.is_some();
            let naming = match !is_bare_tag && (to.path.is_empty() || to.path.ends_with('/')) {
                true => Naming::Below { base: to.path.clone(), strip: String::new() },
                false => Naming::As(to.path.clone()),
            };
            (Repositories::One(from.path.clone()), naming)
        };
        let artifacts = match is_glob || all_tags {
            true => Artifacts::All,
            false => {
                let target = from.target.clone().unwrap_or_else(|| "latest".to_owned());
                Artifacts::One(target.clone(), to.target.unwrap_or(target))
            }
        };
        if from.location == to.location && matches!(&naming, Naming::Below { base, .. } if base.is_empty()) {
            return Err(wrong("source and destination are the same"));
        }
        Ok(Wanted { source: from.location, destination: to.location, repositories, artifacts, naming })
    }

    fn of_policy(order: &Order) -> Result<Self, CommandError> {
        let path = PathBuf::from(format!("{}.toml", order.policy));
        let zone = |_: Option<&str>| Ok(crate::policy::schedule::Zone::utc());
        let policy = Policy::parse(&order.policy, &path, &order.policy_text, zone)
            .map_err(|error| wrong(sampan_ipc::report::chain(&error)))?;
        Ok(Wanted {
            source: location(&policy.source),
            destination: location(&policy.destination),
            repositories: Repositories::OfPolicy(Box::new(policy)),
            artifacts: Artifacts::All,
            naming: Naming::OfPolicy,
        })
    }

    /// The only repository; `None` if the place must be asked for its repositories.
    pub fn only_repository(&self) -> Option<&str> {
        match &self.repositories {
            Repositories::One(name) => Some(name),
            _ => None,
        }
    }

    /// The repositories that the source need not be asked for; `None` if its list is needed.
    pub fn fixed_repositories(&self) -> Option<Vec<String>> {
        match &self.repositories {
            Repositories::One(name) => Some(vec![name.clone()]),
            Repositories::Matching(glob) => glob.names(),
            Repositories::OfPolicy(policy) => policy.source_glob.as_ref().and_then(Glob::names),
        }
    }

    /// Whether a repository of the source is wanted.
    pub fn has_repository(&self, name: &str) -> bool {
        match &self.repositories {
            Repositories::One(only) => only == name,
            Repositories::Matching(glob) => glob.is_match(name),
            Repositories::OfPolicy(policy) => policy.has_repository(name),
        }
    }

    /// The policy, if the order comes from one.
    pub fn policy(&self) -> Option<&Policy> {
        match &self.repositories {
            Repositories::OfPolicy(policy) => Some(policy),
            _ => None,
        }
    }

    /// The only artifact of each repository, as source and target; `None` if all tags are wanted.
    pub fn only_artifact(&self) -> Option<(String, String)> {
        match &self.artifacts {
            Artifacts::One(source, target) => Some((source.clone(), target.clone())),
            Artifacts::All => None,
        }
    }

    /// The name of a repository at the destination.
    ///
    /// # Errors
    /// [`CommandError`]: the policy's rules give it no name.
    pub fn destination_of(&self, repository: &str) -> Result<String, CommandError> {
        let bare = self.without_host(repository);
        match &self.naming {
            Naming::As(name) => Ok(name.clone()),
            Naming::Below { base, strip } => {
                let stripped = repository.strip_prefix(strip.as_str()).filter(|_| !strip.is_empty());
                Ok(joined(base, stripped.unwrap_or(&bare)))
            }
            Naming::OfPolicy => match self.policy() {
                Some(policy) => {
                    policy.destination_repository(&bare).map_err(|error| wrong(error.to_string()))
                }
                None => Ok(bare),
            },
        }
    }

    /// The repository's name as the destination sees names: this host's store has names with hosts, others have none.
    fn without_host(&self, repository: &str) -> String {
        match (&self.source, &self.destination) {
            (Location::Registry(host), Location::Store) => format!("{host}/{repository}"),
            (Location::Store, Location::Store) => repository.to_owned(),
            (Location::Store, _) => {
                repository.split_once('/').map_or(repository, |(_, path)| path).to_owned()
            }
            _ => repository.to_owned(),
        }
    }
}

fn location(place: &PlaceName) -> Location {
    match place {
        PlaceName::Registry { host, .. } => Location::Registry(host.clone()),
        PlaceName::OciDirectory(directory) => Location::OciLayout(directory.clone()),
        PlaceName::Store => Location::Store,
    }
}

fn side(text: &str) -> Result<Side, CommandError> {
    if let Some(rest) = text.strip_prefix("oci:") {
        let (directory, name) = rest.split_once(':').unwrap_or((rest, ""));
        if directory.is_empty() {
            return Err(wrong(format!("{text:?} names no directory: oci:DIRECTORY[:NAME]")));
        }
        let (path, target) = match name.contains(['/', ':', '@']) || name.is_empty() {
            true => split_target(name),
            // A name without a repository is a tag, as skopeo(1) writes it.
            false => (String::new(), Some(name.to_owned())),
        };
        return Ok(Side { location: Location::OciLayout(directory.into()), path, target });
    }
    if let Some(rest) = text.strip_prefix("store:") {
        if rest.is_empty() || is_pattern(rest) || rest.ends_with('/') {
            return Ok(Side { location: Location::Store, path: rest.to_owned(), target: None });
        }
        let reference = parse(rest)?;
        let target = has_target(rest).then(|| reference.target());
        return Ok(Side { location: Location::Store, path: reference.name(), target });
    }
    let rest = text.strip_prefix("docker://").unwrap_or(text);
    let (host, path, has_many) = split_name(rest);
    if has_many {
        let host = host.unwrap_or("docker.io");
        return Ok(Side {
            location: Location::Registry(host.to_owned()),
            path: path.to_owned(),
            target: None,
        });
    }
    let reference = parse(rest)?;
    let target = has_target(rest).then(|| reference.target());
    Ok(Side {
        location: Location::Registry(reference.host().to_owned()),
        path: reference.path().to_owned(),
        target,
    })
}

fn parse(text: &str) -> Result<Reference, CommandError> {
    Reference::parse(text).map_err(|error| wrong(sampan_ipc::report::chain(&error)))
}

fn has_target(text: &str) -> bool {
    let last = text.rsplit('/').next().unwrap_or(text);
    last.contains([':', '@'])
}

/// Splits `PATH[:TAG|@DIGEST]`.
fn split_target(name: &str) -> (String, Option<String>) {
    if let Some((path, digest)) = name.split_once('@') {
        return (path.to_owned(), Some(digest.to_owned()));
    }
    match name.rsplit_once(':') {
        Some((path, tag)) if reference::is_tag(tag) => (path.to_owned(), Some(tag.to_owned())),
        _ => (name.to_owned(), None),
    }
}

/// The directories at the front of a glob that have no wildcard, with the final slash.
fn fixed_prefix(pattern: &str) -> String {
    let wild = pattern.find(['*', '?', '[', '{']).unwrap_or(pattern.len());
    let front = pattern.get(..wild).unwrap_or_default();
    front.rfind('/').and_then(|slash| front.get(..=slash)).unwrap_or_default().to_owned()
}

fn joined(base: &str, name: &str) -> String {
    let base = base.trim_end_matches('/');
    if base.is_empty() { name.to_owned() } else { format!("{base}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(source: &str, destination: &str, all_tags: bool) -> Result<Wanted, CommandError> {
        Wanted::of_command(source, destination, all_tags)
    }

    #[test]
    fn a_command_names_repositories_at_the_destination() {
        for (source, destination, repository, named) in [
            ("a.example/team/app:1", "docker://b.example/team/app", "team/app", "team/app"),
            ("a.example/team/app:1", "b.example", "team/app", "team/app"),
            ("a.example/team/app:1", "b.example/mirror/", "team/app", "mirror/team/app"),
            ("docker://a.example/team/**", "b.example", "team/x/y", "team/x/y"),
            ("docker://a.example/team/**", "b.example/mirror", "team/x/y", "mirror/x/y"),
            ("docker://a.example/team/app-*", "b.example/m/", "team/app-1", "m/app-1"),
            ("docker://a.example", "b.example/m", "team/app", "m/team/app"),
            ("alpine", "b.example/", "library/alpine", "library/alpine"),
            ("alpine:3.18", "localhost:5000", "library/alpine", "library/alpine"),
            ("registry:5000/", "10.0.0.1:5000/m", "team/app", "m/team/app"),
            ("a.example/team/app:1", "oci:/stick", "team/app", "team/app"),
            ("a.example/team/app:1", "store:", "team/app", "a.example/team/app"),
            ("store:docker.io/library/alpine", "b.example", "docker.io/library/alpine", "library/alpine"),
            ("oci:/stick", "b.example/m", "team/app", "m/team/app"),
            ("oci:/stick:1.0", "b.example/team/app", "", "team/app"),
        ] {
            let wanted = wanted(source, destination, false).expect(source);
            assert!(wanted.has_repository(repository), "{source}: {repository}");
            let name = wanted.destination_of(repository).expect("a name");
            assert_eq!(name, named, "{source} to {destination}");
        }
    }

    #[test]
    fn one_artifact_keeps_its_tag_or_gets_the_one_of_the_destination() {
        for (source, destination, artifact) in [
            ("a.example/x:1", "b.example/x", ("1", "1")),
            ("a.example/x", "b.example/x", ("latest", "latest")),
            ("alpine:3", "b.example", ("3", "3")),
            ("a.example/x:1", "b.example/x:2", ("1", "2")),
            ("oci:/stick:team/x:3", "b.example/x", ("3", "3")),
            ("oci:/stick:v1", "b.example/x", ("v1", "v1")),
            ("a.example/x:1", "oci:/stick:v1", ("1", "v1")),
        ] {
            let only = wanted(source, destination, false).expect(source).only_artifact();
            assert_eq!(only, Some((artifact.0.to_owned(), artifact.1.to_owned())), "{source}");
        }
    }

    #[test]
    fn sides_that_do_not_fit_are_refused() {
        for (source, destination, all_tags) in [
            ("a.example/x:1", "b.example/x", true),
            ("a.example/x", "b.example/x:1", true),
            ("docker://a.example/**", "a.example", false),
            ("oci:", "b.example/x", false),
            ("docker://a.example/team/{web,db}:1", "b.example/x", false),
            ("docker://a.example/team/*@sha256:0", "b.example/x", false),
            ("docker://a.example/UPPER", "b.example/x", false),
        ] {
            assert!(wanted(source, destination, all_tags).is_err(), "{source} {destination}");
        }
    }
}
