//! Which registries stand behind a name: containers-registries.conf(5), version 2, and registries.conf.d.
//!
//! Read anew for each pull by [`crate::server`]; gives [`Reference`]s for what a person typed, and [`Endpoint`]s
//! for a reference, in the order in which they are to be tried. Reads files, never the network. There is no
//! terminal in a daemon: `enforcing` refuses a short name of several registries, the other modes try all.

use crate::reference::{self, Reference};
use crate::small_file;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The file that is read if no other is named; it need not be there.
pub const CONF: &str = "/etc/containers/registries.conf";
/// The environment variable that names another one.
pub const CONF_VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";
/// What other tools have recorded when a person chose: containers-registries.conf(5), "Short-Name Aliasing".
const RECORDED_ALIASES: &str = "/var/cache/containers/short-name-aliases.conf";
/// Largest file that is read.
const FILE_MAX: u64 = 4 << 20;
/// Most files in a drop-in directory.
const FILES_MAX: usize = 1024;

/// Why the files, or a name under them, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file makes no sense.
    #[error("cannot use {}, line {line}: {why}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        why: String,
    },
    /// What was typed is no reference.
    #[error(transparent)]
    Reference(#[from] reference::ReferenceError),
    /// A short name may stand for several images, and nobody can be asked.
    #[error(
        "short name {name:?} may be of {}, and short-name-mode in {} is \"enforcing\"",
        registries.join(" or "),
        path.display()
    )]
    Ambiguous {
        /// As typed.
        name: String,
        /// Where it may be.
        registries: Vec<String>,
        /// The file that says so.
        path: PathBuf,
    },
    /// A short name, where none is wanted.
    #[error("short name {name:?} has no alias, and unqualified-search-registries in {} is empty", path.display())]
    Unqualified {
        /// As typed.
        name: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// A registry that may not be used.
    #[error("image {name} is blocked by registry {prefix:?} in {}, line {line}", path.display())]
    Blocked {
        /// The image.
        name: String,
        /// What it matches.
        prefix: String,
        /// The file that says so.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
    },
    /// A name that no longer is one once it is rewritten.
    #[error("cannot use location {location:?} of {}, line {line}, for image {name}", path.display())]
    Rewrite {
        /// The image.
        name: String,
        /// What its beginning is replaced with.
        location: String,
        /// The file that says so.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// The rule that the result breaks.
        source: reference::ReferenceError,
    },
}

impl RegistriesError {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            RegistriesError::Ambiguous { .. } | RegistriesError::Unqualified { .. } => {
                "give the name in full, as HOST/NAME, or add an alias"
            }
            RegistriesError::Parse { .. } | RegistriesError::Rewrite { .. } => {
                "see containers-registries.conf(5)"
            }
            RegistriesError::Blocked { .. } => "whoever looks after this host does not want it used",
            RegistriesError::Read { .. } | RegistriesError::Reference(_) => "",
        }
    }
}

/// One place that an image may be had from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `docker.io`, `host:5000`, `[::1]:5000`; of a socket its path, for messages.
    pub host: String,
    /// The repository there.
    pub repository: String,
    /// The tag or digest there, if it is another than was asked for.
    pub target: Option<String>,
    /// Plain HTTP, or a certificate that nobody vouches for, will do.
    pub insecure: bool,
    /// The Unix socket that it listens on, instead of a host.
    pub socket: Option<PathBuf>,
    /// It is a mirror: what it fails at, the registry itself may still do.
    pub mirror: bool,
}

impl Endpoint {
    /// The registry that a reference names.
    pub fn of(reference: &Reference) -> Self {
        Endpoint {
            host: reference.host().to_owned(),
            repository: reference.path().to_owned(),
            target: None,
            insecure: false,
            socket: None,
            mirror: false,
        }
    }
}

/// All files, as one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    search: Option<(Vec<String>, PathBuf)>,
    mode: Option<(Mode, PathBuf)>,
    credential_helpers: Vec<String>,
    /// By prefix.
    registries: BTreeMap<String, Table>,
    aliases: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Enforcing,
    Permissive,
    Disabled,
}

/// A `[[registry]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    prefix: String,
    /// `None` changes nothing.
    location: Option<Location>,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
    path: PathBuf,
    line: usize,
}

/// A `[[registry.mirror]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    location: Location,
    insecure: bool,
    pulls: Pulls,
    line: usize,
}

/// What a prefix is replaced with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Location {
    /// `host[:port][/namespace…]`.
    Host(String),
    /// `unix://PATH[:namespace…]`, ours alone.
    Socket(PathBuf, String),
}

/// Which pulls a mirror is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pulls {
    All,
    DigestOnly,
    TagOnly,
}

impl Registries {
    /// Reads `conf`, or the file that [`CONF_VARIABLE`] names, or [`CONF`]; then `*.conf` in the directory of the
    /// same name with `.d` behind, in order of their names, each winning over those before.
    ///
    /// # Errors
    /// [`RegistriesError::Read`], [`RegistriesError::Parse`]. A file that is absent is an error only if it was named.
    pub fn load(conf: Option<&Path>) -> Result<Self, RegistriesError> {
        let named = std::env::var_os(CONF_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = conf.map(Path::to_owned).or(named);
        let main = named.clone().unwrap_or_else(|| PathBuf::from(CONF));
        let mut all = Registries::default();
        match read(&main) {
            Ok(text) => all.add(&text, &main)?,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(RegistriesError::Read { path: main, source }),
        }
        for path in drop_ins(&main)? {
            let text = read(&path).map_err(|source| RegistriesError::Read { path: path.clone(), source })?;
            all.add(&text, &path)?;
        }
        if named.is_none()
            && let Ok(text) = read(Path::new(RECORDED_ALIASES))
        {
            all.add_aliases(&text, Path::new(RECORDED_ALIASES))?;
        }
        Ok(all)
    }

    /// One file's text, as if it were all there is.
    ///
    /// # Errors
    /// [`RegistriesError::Parse`], which names `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RegistriesError> {
        let mut all = Registries::default();
        all.add(text, path)?;
        Ok(all)
    }

    /// External credential stores, in order; containers-auth.json(5) is called `containers-auth.json`.
    pub fn credential_helpers(&self) -> &[String] {
        &self.credential_helpers
    }

    /// What `typed` may stand for, in the order in which it is to be tried: one reference if it has a host or an
    /// alias. Without `unqualified-search-registries` a short name is of docker.io.
    ///
    /// # Errors
    /// [`RegistriesError::Reference`], [`RegistriesError::Ambiguous`], [`RegistriesError::Unqualified`].
    pub fn candidates(&self, typed: &str) -> Result<Vec<Reference>, RegistriesError> {
        let meanings = self.meanings(typed)?;
        match &self.mode {
            Some((Mode::Enforcing, path)) if meanings.len() > 1 => {
                let registries = meanings.iter().map(|meaning| meaning.host().to_owned()).collect();
                Err(RegistriesError::Ambiguous { name: typed.to_owned(), registries, path: path.clone() })
            }
            _ => Ok(meanings),
        }
    }

    /// As [`Registries::candidates`], where nothing is fetched and so nobody needs to be asked.
    ///
    /// # Errors
    /// [`RegistriesError::Reference`], [`RegistriesError::Unqualified`].
    pub fn meanings(&self, typed: &str) -> Result<Vec<Reference>, RegistriesError> {
        let reference = Reference::parse(typed)?;
        if !reference::is_short(typed) {
            return Ok(vec![reference]);
        }
        if let Some(alias) = self.alias(typed) {
            return Ok(vec![Reference::parse(&alias)?]);
        }
        let Some((search, path)) = &self.search else {
            return Ok(vec![reference]);
        };
        if search.is_empty() {
            return Err(RegistriesError::Unqualified { name: typed.to_owned(), path: path.clone() });
        }
        let candidates = search.iter().map(|host| Reference::parse(&format!("{host}/{typed}")));
        Ok(candidates.collect::<Result<_, _>>()?)
    }

    /// The full name that a short one is an alias of, with its tag and digest.
    fn alias(&self, typed: &str) -> Option<String> {
        let (name, rest) = typed.split_at_checked(typed.find([':', '@']).unwrap_or(typed.len()))?;
        self.aliases.get(name).map(|alias| format!("{alias}{rest}"))
    }

    /// Where `reference` may be had: its mirrors in order, then where it is at home.
    ///
    /// # Errors
    /// [`RegistriesError::Blocked`], [`RegistriesError::Rewrite`].
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistriesError> {
        let Some((table, length)) = self.allowed(reference)? else {
            return Ok(vec![Endpoint::of(reference)]);
        };
        let mut endpoints = Vec::new();
        for mirror in table.mirrors.iter().filter(|mirror| mirror.serves(reference)) {
            let rewritten = rewrite(reference, length, &mirror.location);
            let rewritten =
                rewritten.map_err(|e| table.cannot_rewrite(reference, &mirror.location, mirror.line, e))?;
            endpoints.push(Endpoint { insecure: mirror.insecure, mirror: true, ..rewritten });
        }
        let home = match &table.location {
            None => Endpoint::of(reference),
            Some(location) => rewrite(reference, length, location)
                .map_err(|e| table.cannot_rewrite(reference, location, table.line, e))?,
        };
        endpoints.push(Endpoint { insecure: table.insecure, ..home });
        Ok(endpoints)
    }

    /// Where `reference` is pushed to and logged in at: there, whatever its location and mirrors are, which are for
    /// reading alone.
    ///
    /// # Errors
    /// [`RegistriesError::Blocked`].
    pub fn home(&self, reference: &Reference) -> Result<Endpoint, RegistriesError> {
        let insecure = match self.allowed(reference)? {
            Some((table, _)) => table.insecure,
            None => false,
        };
        Ok(Endpoint { insecure, ..Endpoint::of(reference) })
    }

    /// The table for `reference`, unless it is blocked.
    fn allowed(&self, reference: &Reference) -> Result<Option<(&Table, usize)>, RegistriesError> {
        match self.table(reference) {
            Some((table, _)) if table.blocked => Err(RegistriesError::Blocked {
                name: reference.to_string(),
                prefix: table.prefix.clone(),
                path: table.path.clone(),
                line: table.line,
            }),
            other => Ok(other),
        }
    }

    /// The one table for `reference`, and how many bytes of its name that matches.
    fn table(&self, reference: &Reference) -> Option<(&Table, usize)> {
        let name = reference.to_string();
        let matching = self.registries.values().filter_map(|table| {
            let length = matches(&name, reference.host(), &table.prefix)?;
            Some((table, length))
        });
        // A wildcard matches the whole host, as that host's own table does, which then is meant.
        matching.max_by_key(|(table, length)| (*length, !table.prefix.starts_with("*.")))
    }

    fn add(&mut self, text: &str, path: &Path) -> Result<(), RegistriesError> {
        let file: File = parse(text, path)?;
        warn_of_unknown_keys(text, path);
        if let Some(version_1) = &file.registries {
            let why = "[registries.…] is the format of version 1, which is not read: \
                       use unqualified-search-registries and [[registry]]";
            return Err(at(path, text, version_1.span(), why));
        }
        let mut seen = BTreeMap::new();
        for registry in file.registry {
            let (span, table) = (registry.span(), registry.into_inner().check(text, path)?);
            if seen
                .insert(table.prefix.clone(), table.unplaced())
                .is_some_and(|other| other != table.unplaced())
            {
                let why = format!("there is another [[registry]] for {:?} in this file", table.prefix);
                return Err(at(path, text, span, why));
            }
            self.registries.insert(table.prefix.clone(), table);
        }
        if let Some(search) = file.unqualified_search_registries {
            for host in &search {
                check_search(host.get_ref()).map_err(|why| at(path, text, host.span(), why))?;
            }
            let search = search.into_iter().map(Spanned::into_inner).collect();
            self.search = Some((search, path.to_owned()));
        }
        if let Some(mode) = file.short_name_mode {
            let known = match mode.get_ref().as_str() {
                "enforcing" => Some(Mode::Enforcing),
                "permissive" => Some(Mode::Permissive),
                "disabled" => Some(Mode::Disabled),
                "" => None,
                other => {
                    let why =
                        format!("short-name-mode {other:?} is none of enforcing, permissive and disabled");
                    return Err(at(path, text, mode.span(), why));
                }
            };
            self.mode = known.map(|known| (known, path.to_owned())).or(self.mode.take());
        }
        if let Some(helpers) = file.credential_helpers {
            self.credential_helpers = helpers;
        }
        self.take_aliases(file.aliases, text, path)
    }

    fn add_aliases(&mut self, text: &str, path: &Path) -> Result<(), RegistriesError> {
        #[derive(Deserialize)]
        struct Recorded {
            #[serde(default)]
            aliases: BTreeMap<String, Spanned<String>>,
        }
        let recorded: Recorded = parse(text, path)?;
        self.take_aliases(recorded.aliases, text, path)
    }

    fn take_aliases(
        &mut self,
        aliases: BTreeMap<String, Spanned<String>>,
        text: &str,
        path: &Path,
    ) -> Result<(), RegistriesError> {
        for (name, value) in aliases {
            check_alias(&name, value.get_ref()).map_err(|why| at(path, text, value.span(), why))?;
            match value.get_ref().is_empty() {
                true => self.aliases.remove(&name),
                false => self.aliases.insert(name, value.into_inner()),
            };
        }
        Ok(())
    }
}

impl Mirror {
    fn serves(&self, reference: &Reference) -> bool {
        match self.pulls {
            Pulls::All => true,
            Pulls::DigestOnly => reference.digest().is_some(),
            Pulls::TagOnly => reference.digest().is_none(),
        }
    }
}

impl Table {
    /// The same, wherever it is written.
    fn unplaced(&self) -> Table {
        let mut table = Table { line: 0, ..self.clone() };
        table.mirrors.iter_mut().for_each(|mirror| mirror.line = 0);
        table
    }

    fn cannot_rewrite(
        &self,
        reference: &Reference,
        location: &Location,
        line: usize,
        source: reference::ReferenceError,
    ) -> RegistriesError {
        let location = match location {
            Location::Host(host) => host.clone(),
            Location::Socket(path, namespace) => format!("unix://{}:{namespace}", path.display()),
        };
        RegistriesError::Rewrite {
            name: reference.to_string(),
            location,
            path: self.path.clone(),
            line,
            source,
        }
    }
}

/// How many bytes of `name`, whose host is `host`, `prefix` stands for; `None` if it is about something else.
fn matches(name: &str, host: &str, prefix: &str) -> Option<usize> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let bare = if host.starts_with('[') { host } else { host.split(':').next().unwrap_or(host) };
        return bare.ends_with(domain).then_some(bare.len());
    }
    let rest = name.strip_prefix(prefix)?;
    // Behind a host without a port, a colon is that of another host: the same name's other port.
    let separators: &[char] = if prefix.contains('/') { &['/', ':', '@'] } else { &['/'] };
    (rest.is_empty() || rest.starts_with(separators)).then_some(prefix.len())
}

/// The endpoint that `reference` becomes when `location` stands for the first `length` bytes of its name.
fn rewrite(
    reference: &Reference,
    length: usize,
    location: &Location,
) -> Result<Endpoint, reference::ReferenceError> {
    let name = reference.to_string();
    // A socket has no port that could stay behind a wildcard.
    let length =
        if matches!(location, Location::Socket(..)) { length.max(reference.host().len()) } else { length };
    let rest = name.get(length..).unwrap_or_default();
    let (text, socket) = match location {
        Location::Host(host) => (format!("{host}{rest}"), None),
        // The host is one of no meaning, for the grammar's sake.
        Location::Socket(path, namespace) => {
            let slash = if namespace.is_empty() { "" } else { "/" };
            (format!("localhost{slash}{namespace}{rest}"), Some(path.clone()))
        }
    };
    if reference::is_short(&text) {
        return Err(reference::ReferenceError { text, reason: "no repository is left behind the host" });
    }
    let there = Reference::parse(&text)?;
    let host =
        socket.as_ref().map_or_else(|| there.host().to_owned(), |path| format!("unix://{}", path.display()));
    let carried = text.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    let target = Some(there.target()).filter(|target| carried && *target != reference.target());
    Ok(Endpoint { host, repository: there.path().to_owned(), target, insecure: false, socket, mirror: false })
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    unqualified_search_registries: Option<Vec<Spanned<String>>>,
    credential_helpers: Option<Vec<String>>,
    short_name_mode: Option<Spanned<String>>,
    #[serde(default)]
    registry: Vec<Spanned<RawRegistry>>,
    #[serde(default)]
    aliases: BTreeMap<String, Spanned<String>>,
    /// Version 1.
    registries: Option<Spanned<toml::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawRegistry {
    prefix: Option<Spanned<String>>,
    location: Option<Spanned<String>>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror_by_digest_only: bool,
    #[serde(default)]
    mirror: Vec<Spanned<RawMirror>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawMirror {
    location: Spanned<String>,
    #[serde(default)]
    insecure: bool,
    pull_from_mirror: Option<Spanned<String>>,
}

impl RawRegistry {
    fn check(self, text: &str, path: &Path) -> Result<Table, RegistriesError> {
        let wrong = |span: Range<usize>, why: String| at(path, text, span, why);
        let given = |value: Option<Spanned<String>>| value.filter(|value| !value.get_ref().is_empty());
        let (prefix, location) = (given(self.prefix), given(self.location));
        let Some(named) = prefix.as_ref().or(location.as_ref()) else {
            let span = prefix.or(location).map_or(0..0, |value| value.span());
            return Err(wrong(span, "a [[registry]] has neither prefix nor location".to_owned()));
        };
        let span = named.span();
        let prefix = check_prefix(named.get_ref()).map_err(|why| wrong(span.clone(), why))?;
        let location = match location {
            Some(location) if location.get_ref() != named.get_ref() => {
                Some(check_location(location.get_ref()).map_err(|why| wrong(location.span(), why))?)
            }
            _ => None,
        };
        let mut mirrors = Vec::new();
        for mirror in self.mirror {
            mirrors.push(mirror.into_inner().check(self.mirror_by_digest_only, text, path)?);
        }
        let (insecure, blocked) = (self.insecure, self.blocked);
        Ok(Table {
            prefix,
            location,
            insecure,
            blocked,
            mirrors,
            path: path.to_owned(),
            line: line(text, &span),
        })
    }
}

impl RawMirror {
    fn check(self, by_digest_only: bool, text: &str, path: &Path) -> Result<Mirror, RegistriesError> {
        let location = check_location(self.location.get_ref())
            .map_err(|why| at(path, text, self.location.span(), why))?;
        let given = self.pull_from_mirror.filter(|value| !value.get_ref().is_empty());
        if let Some(value) = given.as_ref().filter(|_| by_digest_only) {
            let why = "pull-from-mirror and the registry's mirror-by-digest-only exclude each other";
            return Err(at(path, text, value.span(), why));
        }
        let pulls = match given.as_ref().map(|value| value.get_ref().as_str()) {
            None if by_digest_only => Pulls::DigestOnly,
            None | Some("all") => Pulls::All,
            Some("digest-only") => Pulls::DigestOnly,
            Some("tag-only") => Pulls::TagOnly,
            Some(other) => {
                let why = format!("pull-from-mirror {other:?} is none of all, digest-only and tag-only");
                return Err(at(path, text, given.as_ref().map_or(0..0, Spanned::span), why));
            }
        };
        Ok(Mirror { location, insecure: self.insecure, pulls, line: line(text, &self.location.span()) })
    }
}

/// `host[:port][/namespace…][:tag]` or `*.host`, without slashes behind.
fn check_prefix(text: &str) -> Result<String, String> {
    let prefix = text.trim_end_matches('/');
    if prefix.starts_with("unix://") {
        return Err(format!("location {text:?} is a socket: a prefix has to say for which names it is"));
    }
    if let Some(domain) = prefix.strip_prefix("*.") {
        return match Reference::parse(&format!("{domain}/x")) {
            Ok(_) if !domain.contains([':', '/', '@', '*']) => Ok(prefix.to_owned()),
            _ => Err(format!("prefix {text:?} is no \"*.\" and a host's name")),
        };
    }
    check_place(prefix, text)?;
    Ok(prefix.to_owned())
}

fn check_location(text: &str) -> Result<Location, String> {
    if let Some(rest) = text.strip_prefix("unix://") {
        let (path, namespace) = rest.split_once(':').unwrap_or((rest, ""));
        let namespace = namespace.trim_matches('/');
        if !path.starts_with('/') || path.contains('\0') {
            return Err(format!("location {text:?} is no unix:// and a path from the root"));
        }
        if !namespace.is_empty() {
            check_place(&format!("localhost/{namespace}"), text)?;
        }
        return Ok(Location::Socket(PathBuf::from(path), namespace.to_owned()));
    }
    let location = text.trim_end_matches('/');
    check_place(location, text)?;
    Ok(Location::Host(location.to_owned()))
}

/// A host, or a host and the beginning of a name.
fn check_place(place: &str, text: &str) -> Result<(), String> {
    if place.contains("://") {
        return Err(format!("{text:?} has a scheme; it is HTTPS, or HTTP where insecure = true"));
    }
    // Behind a bare host there has to be a name, for the grammar's sake; a host may also have no dot here.
    let whole = if place.contains('/') { place.to_owned() } else { format!("{place}/x") };
    match Reference::parse(&whole) {
        Ok(reference) if whole.starts_with(reference.host()) || reference.host() == "docker.io" => {
            match reference::is_short(&whole) {
                true => {
                    Err(format!("{text:?} begins with no host: that has a dot or a port, or is localhost"))
                }
                false => Ok(()),
            }
        }
        Ok(_) => Err(format!("{text:?} begins with no host")),
        Err(error) => Err(error.to_string()),
    }
}

fn check_search(host: &str) -> Result<(), String> {
    match host.contains('/') {
        true => Err(format!("unqualified-search-registries has {host:?}, which is no host[:port]")),
        false => check_place(host, host),
    }
}

fn check_alias(name: &str, value: &str) -> Result<(), String> {
    let untagged = |text: &str| !text.split('/').next_back().unwrap_or(text).contains([':', '@']);
    if Reference::parse(name).is_err() || !reference::is_short(name) || !untagged(name) {
        return Err(format!("alias {name:?} is no short name without tag and digest"));
    }
    let full = |text: &str| Reference::parse(text).is_ok() && !reference::is_short(text) && untagged(text);
    match value.is_empty() || full(value) {
        true => Ok(()),
        false => Err(format!("alias {name:?} = {value:?} is no full name without tag and digest")),
    }
}

fn read(path: &Path) -> io::Result<String> {
    // It would be waited for, and whoever reads has others to serve. /dev/null is fine.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_fifo() || kind.is_dir() {
        return Err(io::Error::other("it is no file"));
    }
    let bytes = small_file::read(std::fs::File::open(path)?, FILE_MAX)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other(format!("it has more than {} MiB", FILE_MAX >> 20)));
    }
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The files in `main`'s directory of drop-ins, in order. containers-registries.conf.d(5).
fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    let mut dir = main.as_os_str().to_owned();
    dir.push(".d");
    let dir = PathBuf::from(dir);
    let cannot = |source| RegistriesError::Read { path: dir.clone(), source };
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(cannot)?,
    };
    let mut files = BTreeSet::new();
    for entry in entries {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") && path.is_file() {
            files.insert(path);
        }
        if files.len() > FILES_MAX {
            return Err(cannot(io::Error::other(format!("it has more than {FILES_MAX} files"))));
        }
    }
    Ok(files.into_iter().collect())
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, path: &Path) -> Result<T, RegistriesError> {
    toml::from_str(text).map_err(|error| at(path, text, error.span().unwrap_or(0..0), error.message()))
}

/// A key that is misspelt must not go unnoticed; one of a newer version of the format must not end all pulls.
fn warn_of_unknown_keys(text: &str, path: &Path) {
    const TOP: [&str; 7] = [
        "unqualified-search-registries",
        "credential-helpers",
        "short-name-mode",
        "registry",
        "aliases",
        "registries",
        "additional-layer-store-auth-helper",
    ];
    const REGISTRY: [&str; 6] =
        ["prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "mirror"];
    const MIRROR: [&str; 3] = ["location", "insecure", "pull-from-mirror"];
    fn tables<'a>(table: &'a toml::Table, key: &str) -> impl Iterator<Item = &'a toml::Table> {
        table.get(key).and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_table)
    }
    let Ok(top) = text.parse::<toml::Table>() else {
        return;
    };
    let warn = |table: &toml::Table, known: &[&str]| {
        for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
            log::warn!("{}: key {key:?} is not known, and ignored", path.display());
        }
    };
    warn(&top, &TOP);
    for registry in tables(&top, "registry") {
        warn(registry, &REGISTRY);
        tables(registry, "mirror").for_each(|mirror| warn(mirror, &MIRROR));
    }
}

fn at(path: &Path, text: &str, span: Range<usize>, why: impl Into<String>) -> RegistriesError {
    RegistriesError::Parse { path: path.to_owned(), line: line(text, &span), why: why.into() }
}

/// The line that `span` begins in, counted from 1.
fn line(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start.min(text.len())).unwrap_or_default();
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conf(text: &str) -> Registries {
        Registries::parse(text, Path::new("/x.conf")).expect("a good file")
    }

    fn refusal(text: &str) -> String {
        Registries::parse(text, Path::new("/x.conf")).expect_err("a bad file").to_string()
    }

    fn names(registries: &Registries, typed: &str) -> Vec<String> {
        registries.candidates(typed).expect("candidates").iter().map(Reference::to_string).collect()
    }

    /// `host/repository`, with `!` behind where it is insecure.
    fn places(registries: &Registries, name: &str) -> Vec<String> {
        let endpoints = registries.endpoints(&Reference::parse(name).expect("good")).expect("endpoints");
        let place =
            |e: &Endpoint| format!("{}/{}{}", e.host, e.repository, if e.insecure { "!" } else { "" });
        endpoints.iter().map(place).collect()
    }

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn without_a_file_a_short_name_is_of_docker_io() {
        let none = Registries::default();
        assert_eq!(names(&none, "alpine:3"), ["docker.io/library/alpine:3"]);
        assert_eq!(names(&none, "h:1/a"), ["h:1/a:latest"]);
        assert_eq!(places(&none, "alpine"), ["docker.io/library/alpine"]);
    }

    #[test]
    fn a_short_name_is_sought_in_order_and_an_alias_ends_the_search() {
        let all = conf(
            "unqualified-search-registries = ['docker.io', 'quay.io', 'r.example:5000']\n\
             [aliases]\n\"fedora\" = \"registry.fedoraproject.org/fedora\"\n\"a/b\" = \"r.example/c/d\"\n",
        );
        assert_eq!(
            names(&all, "alpine:3"),
            ["docker.io/library/alpine:3", "quay.io/alpine:3", "r.example:5000/alpine:3"]
        );
        assert_eq!(names(&all, "fedora"), ["registry.fedoraproject.org/fedora:latest"]);
        assert_eq!(names(&all, &format!("a/b@{DIGEST}")), [format!("r.example/c/d@{DIGEST}")]);
        assert_eq!(names(&all, "quay.io/fedora"), ["quay.io/fedora:latest"]);
    }

    #[test]
    fn enforcing_refuses_what_is_ambiguous_and_an_empty_list_all_short_names() {
        let two =
            "unqualified-search-registries = ['a.example', 'b.example']\nshort-name-mode = 'enforcing'\n";
        let error = conf(two).candidates("x").expect_err("ambiguous").to_string();
        assert!(error.contains("a.example or b.example") && error.contains("/x.conf"), "{error}");
        let one = "unqualified-search-registries = ['a.example']\nshort-name-mode = 'enforcing'\n";
        assert_eq!(names(&conf(one), "x"), ["a.example/x:latest"]);
        let none = conf("unqualified-search-registries = []");
        assert!(matches!(none.candidates("x"), Err(RegistriesError::Unqualified { .. })));
    }

    #[test]
    fn the_manual_pages_example_gives_what_it_says() {
        let all = conf(
            r#"
            unqualified-search-registries = ["example.com"]
            [[registry]]
            prefix = "example.com/foo"
            insecure = false
            blocked = false
            location = "internal-registry-for-example.com/bar"
            [[registry.mirror]]
            location = "example-mirror-0.local/mirror-for-foo"
            [[registry.mirror]]
            location = "example-mirror-1.local/mirrors/foo"
            insecure = true
            [[registry]]
            location = "registry.com"
            [[registry.mirror]]
            location = "mirror.registry.com"
            "#,
        );
        assert_eq!(
            places(&all, "example.com/foo/image:latest"),
            [
                "example-mirror-0.local/mirror-for-foo/image",
                "example-mirror-1.local/mirrors/foo/image!",
                "internal-registry-for-example.com/bar/image",
            ]
        );
        assert_eq!(places(&all, "registry.com/image"), ["mirror.registry.com/image", "registry.com/image"]);
        assert_eq!(places(&all, "example.com/foobar/image"), ["example.com/foobar/image"]);
    }

    #[test]
    fn the_longest_prefix_wins_and_ends_at_a_separator() {
        let all = conf(
            r#"
            [[registry]]
            location = "a.example"
            insecure = true
            [[registry]]
            prefix = "a.example/x"
            location = "b.example/y"
            [[registry]]
            prefix = "a.example/x/one:v1"
            location = "c.example/z:v2"
            [[registry]]
            prefix = "*.wild.example"
            insecure = true
            [[registry]]
            prefix = "own.wild.example"
            location = "d.example"
            "#,
        );
        assert_eq!(places(&all, "a.example/q"), ["a.example/q!"]);
        assert_eq!(places(&all, "a.example:5000/q"), ["a.example:5000/q"]);
        assert_eq!(places(&all, "a.example/x/two"), ["b.example/y/two"]);
        assert_eq!(places(&all, "a.example/xx"), ["a.example/xx!"]);
        assert_eq!(places(&all, "a.example/x/one:v1"), ["c.example/z"]);
        let one =
            all.endpoints(&Reference::parse("a.example/x/one:v1").expect("good")).expect("good").remove(0);
        assert_eq!(one.target.as_deref(), Some("v2"));
        assert_eq!(places(&all, "a.example/x/one:v11"), ["b.example/y/one"]);
        assert_eq!(places(&all, "p.q.wild.example:5000/i"), ["p.q.wild.example:5000/i!"]);
        assert_eq!(places(&all, "own.wild.example/i"), ["d.example/i"]);
        assert_eq!(places(&all, "wild.example/i"), ["wild.example/i"]);
    }

    #[test]
    fn a_tag_and_a_digest_stay_when_a_whole_name_is_rewritten() {
        let all = conf("[[registry]]\nprefix = 'a.example/x:v1'\nlocation = 'b.example/y'\n");
        let endpoint =
            all.endpoints(&Reference::parse("a.example/x:v1").expect("good")).expect("good").remove(0);
        assert_eq!((endpoint.repository.as_str(), endpoint.target), ("y", None));
    }

    #[test]
    fn mirrors_are_for_the_pulls_that_they_are_for() {
        let all = conf(
            r#"
            [[registry]]
            location = "a.example"
            [[registry.mirror]]
            location = "digest.example"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tag.example"
            pull-from-mirror = "tag-only"
            [[registry]]
            location = "b.example"
            mirror-by-digest-only = true
            [[registry.mirror]]
            location = "m.example"
            "#,
        );
        assert_eq!(places(&all, "a.example/i"), ["tag.example/i", "a.example/i"]);
        assert_eq!(places(&all, &format!("a.example/i@{DIGEST}")), ["digest.example/i", "a.example/i"]);
        assert_eq!(places(&all, &format!("a.example/i:t@{DIGEST}")), ["digest.example/i", "a.example/i"]);
        assert_eq!(places(&all, "b.example/i"), ["b.example/i"]);
        assert_eq!(places(&all, &format!("b.example/i@{DIGEST}")), ["m.example/i", "b.example/i"]);
    }

    #[test]
    fn a_push_goes_where_the_name_says_unless_that_is_blocked() {
        let all = conf(
            "[[registry]]\nprefix = 'a.example'\nlocation = 'b.example'\ninsecure = true\n\
             [[registry]]\nlocation = 'c.example'\nblocked = true\n",
        );
        let home = |name| all.home(&Reference::parse(name).expect("good"));
        let endpoint = home("a.example/x").expect("allowed");
        assert_eq!((endpoint.host.as_str(), endpoint.insecure), ("a.example", true));
        assert!(!home("d.example/x").expect("allowed").insecure);
        assert!(matches!(home("c.example/x"), Err(RegistriesError::Blocked { .. })));
    }

    #[test]
    fn a_blocked_registry_names_the_file_and_the_line() {
        let all = conf("\n[[registry]]\nlocation = 'a.example/evil'\nblocked = true\n");
        let error = all.endpoints(&Reference::parse("a.example/evil/x").expect("good")).expect_err("blocked");
        let text = error.to_string();
        assert!(text.contains("a.example/evil/x:latest") && text.contains("/x.conf, line 3"), "{text}");
        assert_eq!(places(&all, "a.example/good"), ["a.example/good"]);
    }

    #[test]
    fn a_socket_is_a_location_of_a_prefix() {
        let all = conf("[[registry]]\nprefix = 's.example'\nlocation = 'unix:///run/r.sock:team'\n");
        let endpoint =
            all.endpoints(&Reference::parse("s.example/x:1").expect("good")).expect("good").remove(0);
        assert_eq!(endpoint.socket.as_deref(), Some(Path::new("/run/r.sock")));
        assert_eq!((endpoint.repository.as_str(), endpoint.host.as_str()), ("team/x", "unix:///run/r.sock"));
        assert!(refusal("[[registry]]\nlocation = 'unix:///run/r.sock'\n").contains("prefix"));
        assert!(
            refusal("[[registry]]\nprefix = 'a.b'\nlocation = 'unix://r.sock'\n")
                .contains("path from the root")
        );
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line() {
        for (text, why) in [
            ("x = [", "line 1"),
            ("\n\nunqualified-search-registries = 5", "line 3"),
            ("[registries.search]\nregistries = ['a']", "version 1"),
            ("[[registry]]\ninsecure = true", "neither prefix nor location"),
            ("[[registry]]\nprefix = '*.a.example/x'", "line 2"),
            ("[[registry]]\nprefix = 'a.*.example'", "line 2"),
            ("[[registry]]\nlocation = 'https://a.example'", "scheme"),
            ("[[registry]]\nlocation = 'a.example/UPPER'", "upper-case"),
            ("[[registry]]\nlocation = 'nohost/x'", "no host"),
            ("[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\ninsecure = true", "location"),
            (
                "[[registry]]\nlocation = 'a.example'\n[[registry.mirror]]\nlocation = 'b.example'\npull-from-mirror = 'x'",
                "line 5",
            ),
            (
                "[[registry]]\nlocation = 'a.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b.example'\npull-from-mirror = 'all'",
                "exclude",
            ),
            (
                "[[registry]]\nlocation = 'a.example'\n[[registry]]\nlocation = 'a.example'\nblocked = true",
                "another",
            ),
            ("[aliases]\n'a' = 'b'", "no full name"),
            ("[aliases]\n'a:b' = 'h.example/b'", "no short name"),
            ("[aliases]\n'h.example/a' = 'h.example/b'", "no short name"),
            ("[aliases]\n'a' = 'h.example/b:tag'", "without tag"),
            ("[aliases]\n'a' = 'h.example/b'\n'a' = 'h.example/c'", "line 3"),
            ("short-name-mode = 'sometimes'", "none of"),
            ("unqualified-search-registries = ['a b']", "line 1"),
            ("unqualified-search-registries = ['a.example/x']", "no host[:port]"),
        ] {
            let refusal = refusal(text);
            assert!(refusal.contains(why) && refusal.contains("/x.conf"), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn a_later_file_overwrites_what_it_names_and_only_that() {
        let mut all = conf(
            "unqualified-search-registries = ['a.example']\ncredential-helpers = ['one']\n\
             [[registry]]\nlocation = 'r.example'\ninsecure = true\n\
             [[registry]]\nlocation = 's.example'\nblocked = true\n\
             [aliases]\n'x' = 'h.example/x'\n'y' = 'h.example/y'\n",
        );
        let path = Path::new("/y.conf");
        all.add("[[registry]]\nlocation = 'r.example'\n[aliases]\n'x' = ''\n", path).expect("good");
        assert_eq!(places(&all, "r.example/i"), ["r.example/i"]);
        assert!(all.endpoints(&Reference::parse("s.example/i").expect("good")).is_err());
        assert_eq!(names(&all, "x"), ["a.example/x:latest"]);
        assert_eq!(names(&all, "y"), ["h.example/y:latest"]);
        assert_eq!(all.credential_helpers(), ["one"]);
        all.add("unqualified-search-registries = ['b.example']", path).expect("good");
        assert_eq!(names(&all, "x"), ["b.example/x:latest"]);
    }

    #[test]
    fn files_are_read_in_order_and_only_those_that_end_in_conf() {
        let dir = tempfile::tempdir().expect("a directory");
        let main = dir.path().join("registries.conf");
        assert!(matches!(Registries::load(Some(&main)), Err(RegistriesError::Read { .. })));
        std::fs::write(&main, "unqualified-search-registries = ['main.example']").expect("written");
        assert_eq!(names(&Registries::load(Some(&main)).expect("good"), "i"), ["main.example/i:latest"]);
        let below = dir.path().join("registries.conf.d");
        std::fs::create_dir(&below).expect("made");
        for (name, host) in [("20.conf", "b.example"), ("10.conf", "a.example"), ("30.conf.bak", "c.example")]
        {
            let text = format!("unqualified-search-registries = ['{host}']");
            std::fs::write(below.join(name), text).expect("written");
        }
        assert_eq!(names(&Registries::load(Some(&main)).expect("good"), "i"), ["b.example/i:latest"]);
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("made");
        assert!(matches!(Registries::load(Some(&fifo)), Err(RegistriesError::Read { .. })));
        assert_eq!(Registries::load(Some(Path::new("/dev/null"))).expect("empty"), Registries::default());
        std::fs::write(below.join("99.conf"), "[[registry]\n").expect("written");
        let error = Registries::load(Some(&main)).expect_err("bad").to_string();
        assert!(error.contains("99.conf, line 1"), "{error}");
    }
}
