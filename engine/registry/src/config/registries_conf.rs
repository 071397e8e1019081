//! The registries of containers-registries.conf(5), version 2, and registries.conf.d: all files merged into one value.
//!
//! Each pull gets a [`Registries`] from [`crate::config::Files`]. A [`Registries`] converts the name that a person
//! typed to [`Reference`]s, and a reference to [`Endpoint`]s, both in the order in which they must be tried. This
//! module reads files, never the network. A daemon has no terminal on which it could ask a person. With
//! `short-name-mode = "enforcing"`, a short name with several candidates is an error; with the other modes, all
//! candidates are tried.

use crate::config::error::RegistriesError;
use crate::config::file::{
    File, check_alias, check_search, drop_in_directory, drop_ins, parse, parse_error, read,
    warn_of_unknown_keys,
};
use crate::config::table::{Endpoint, Table, matches, rewrite};
use sampan_oci::reference::{self, Reference};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// The main file that is read if no other file is configured. It need not exist.
pub const CONF: &str = "/etc/containers/registries.conf";
/// The environment variable that names another main file.
pub const CONF_VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";
/// Aliases that other tools recorded when a person chose one of several candidates. containers-registries.conf(5),
/// "Short-Name Aliasing".
const RECORDED_ALIASES: &str = "/var/cache/containers/short-name-aliases.conf";

/// The content of all files, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// `unqualified-search-registries`, and the file that sets it.
    search: Option<(Vec<String>, PathBuf)>,
    /// `short-name-mode`, and the file that sets it.
    mode: Option<(ShortNameMode, PathBuf)>,
    credential_helpers: Vec<String>,
    /// The `[[registry]]` tables by their prefix.
    registries: BTreeMap<String, Table>,
    aliases: BTreeMap<String, String>,
}

/// The path of the main file, and whether `conf` or the environment has configured it.
fn main_file(conf: Option<&Path>) -> (PathBuf, bool) {
    let variable = || std::env::var_os(CONF_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let configured = conf.map(Path::to_owned).or_else(variable);
    let is_configured = configured.is_some();
    (configured.unwrap_or_else(|| PathBuf::from(CONF)), is_configured)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ShortNameMode {
    Enforcing,
    Permissive,
    Disabled,
}

impl Registries {
    /// Reads the main file, then the drop-in files, in the order of their names.
    ///
    /// The main file is `conf`; otherwise the file that [`CONF_VARIABLE`] names; otherwise [`CONF`]. The drop-in files
    /// are `*.conf` in the directory `MAIN_FILE.d`. A later file wins over an earlier file.
    ///
    /// # Errors
    /// [`RegistriesError::Read`] or [`RegistriesError::Parse`]. A missing main file is an error only if its path was
    /// configured.
    pub fn load(conf: Option<&Path>) -> Result<Self, RegistriesError> {
        let (main, is_configured) = main_file(conf);
        let mut all = Registries::default();
        match read(&main) {
            Ok(text) => all.add(&text, &main)?,
            Err(error) if !is_configured && error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(RegistriesError::Read { path: main, source }),
        }
        for path in drop_ins(&main)? {
            let text = read(&path).map_err(|source| RegistriesError::Read { path: path.clone(), source })?;
            all.add(&text, &path)?;
        }
        if !is_configured && let Ok(text) = read(Path::new(RECORDED_ALIASES)) {
            all.add_recorded_aliases(&text, Path::new(RECORDED_ALIASES))?;
        }
        Ok(all)
    }

    /// The files and directories that [`Registries::load`] reads or searches.
    pub(crate) fn files(conf: Option<&Path>) -> Result<Vec<PathBuf>, RegistriesError> {
        let (main, is_configured) = main_file(conf);
        let mut files = vec![main.clone(), drop_in_directory(&main)];
        files.extend(drop_ins(&main)?);
        files.extend((!is_configured).then(|| PathBuf::from(RECORDED_ALIASES)));
        Ok(files)
    }

    /// Parses `text` as the content of a single file. Errors name the file `path`.
    ///
    /// # Errors
    /// [`RegistriesError::Parse`] if the text is not valid.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RegistriesError> {
        let mut all = Registries::default();
        all.add(text, path)?;
        Ok(all)
    }

    /// The credential helpers, in order. The name `containers-auth.json` means the files of containers-auth.json(5).
    pub fn credential_helpers(&self) -> &[String] {
        &self.credential_helpers
    }

    /// The references that `typed` may mean, in the order in which they must be tried.
    ///
    /// A name with a host, or with an alias, means one reference. Without `unqualified-search-registries`, a short name
    /// means an image of docker.io.
    ///
    /// # Errors
    /// [`RegistriesError::Reference`], [`RegistriesError::Ambiguous`] or [`RegistriesError::Unqualified`].
    pub fn candidates(&self, typed: &str) -> Result<Vec<Reference>, RegistriesError> {
        let meanings = self.meanings(typed)?;
        match &self.mode {
            Some((ShortNameMode::Enforcing, path)) if meanings.len() > 1 => {
                let registries = meanings.iter().map(|meaning| meaning.host().to_owned()).collect();
                Err(RegistriesError::Ambiguous { name: typed.to_owned(), registries, path: path.clone() })
            }
            _ => Ok(meanings),
        }
    }

    /// Like [`Registries::candidates`], but without the check of `short-name-mode`: for searches in the local store,
    /// which cannot fetch from a wrong registry.
    ///
    /// # Errors
    /// [`RegistriesError::Reference`] or [`RegistriesError::Unqualified`].
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

    /// The full name that the short name `typed` is an alias for, with the tag and digest of `typed`.
    fn alias(&self, typed: &str) -> Option<String> {
        let (name, rest) = typed.split_at_checked(typed.find([':', '@']).unwrap_or(typed.len()))?;
        self.aliases.get(name).map(|alias| format!("{alias}{rest}"))
    }

    /// The endpoints for a pull of `reference`: the mirrors in order, then the registry itself.
    ///
    /// # Errors
    /// [`RegistriesError::Blocked`] or [`RegistriesError::Rewrite`].
    pub fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>, RegistriesError> {
        let Some((table, length)) = self.allowed(reference)? else {
            return Ok(vec![Endpoint::of(reference)]);
        };
        let mut endpoints = Vec::new();
        for mirror in table.mirrors.iter().filter(|mirror| mirror.serves(reference)) {
            let rewritten = rewrite(reference, length, &mirror.location);
            let rewritten =
                rewritten.map_err(|e| table.rewrite_error(reference, &mirror.location, mirror.line, e))?;
            endpoints.push(Endpoint { insecure: mirror.insecure, mirror: true, ..rewritten });
        }
        let home = match &table.location {
            None => Endpoint::of(reference),
            Some(location) => rewrite(reference, length, location)
                .map_err(|e| table.rewrite_error(reference, location, table.line, e))?,
        };
        endpoints.push(Endpoint { insecure: table.insecure, ..home });
        Ok(endpoints)
    }

    /// The endpoint for a push or a login: the registry that `reference` names. `location` and mirrors apply only to
    /// pulls.
    ///
    /// # Errors
    /// [`RegistriesError::Blocked`] if the registry is blocked.
    pub fn home(&self, reference: &Reference) -> Result<Endpoint, RegistriesError> {
        let insecure = match self.allowed(reference)? {
            Some((table, _)) => table.insecure,
            None => false,
        };
        Ok(Endpoint { insecure, ..Endpoint::of(reference) })
    }

    /// The table for `reference`; an error if the table blocks the reference.
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

    /// The table with the longest prefix that matches `reference`, and the length of the match in bytes.
    fn table(&self, reference: &Reference) -> Option<(&Table, usize)> {
        let name = reference.to_string();
        let matching = self.registries.values().filter_map(|table| {
            let length = matches(&name, reference.host(), &table.prefix)?;
            Some((table, length))
        });
        // A wildcard and the host's own table both match the whole host, so their matches have equal length. In that
        // case the host's own table wins.
        matching.max_by_key(|(table, length)| (*length, !table.prefix.starts_with("*.")))
    }

    fn add(&mut self, text: &str, path: &Path) -> Result<(), RegistriesError> {
        let file: File = parse(text, path)?;
        warn_of_unknown_keys(text, path);
        if let Some(version_1) = &file.registries {
            let why = "[registries.…] is the format of version 1, which is not read: \
                       use unqualified-search-registries and [[registry]]";
            return Err(parse_error(path, text, version_1.span(), why));
        }
        let mut seen = BTreeMap::new();
        for registry in file.registry {
            let (span, table) = (registry.span(), registry.into_inner().check(text, path)?);
            if seen
                .insert(table.prefix.clone(), table.without_lines())
                .is_some_and(|other| other != table.without_lines())
            {
                let why = format!("there is another [[registry]] for {:?} in this file", table.prefix);
                return Err(parse_error(path, text, span, why));
            }
            self.registries.insert(table.prefix.clone(), table);
        }
        if let Some(search) = file.unqualified_search_registries {
            for host in &search {
                check_search(host.get_ref()).map_err(|why| parse_error(path, text, host.span(), why))?;
            }
            let search = search.into_iter().map(Spanned::into_inner).collect();
            self.search = Some((search, path.to_owned()));
        }
        if let Some(mode) = file.short_name_mode {
            let known = match mode.get_ref().as_str() {
                "enforcing" => Some(ShortNameMode::Enforcing),
                "permissive" => Some(ShortNameMode::Permissive),
                "disabled" => Some(ShortNameMode::Disabled),
                "" => None,
                other => {
                    let why =
                        format!("short-name-mode {other:?} is none of enforcing, permissive and disabled");
                    return Err(parse_error(path, text, mode.span(), why));
                }
            };
            self.mode = known.map(|known| (known, path.to_owned())).or(self.mode.take());
        }
        if let Some(helpers) = file.credential_helpers {
            self.credential_helpers = helpers;
        }
        self.add_aliases(file.aliases, text, path)
    }

    fn add_recorded_aliases(&mut self, text: &str, path: &Path) -> Result<(), RegistriesError> {
        #[derive(Deserialize)]
        struct Recorded {
            #[serde(default)]
            aliases: BTreeMap<String, Spanned<String>>,
        }
        let recorded: Recorded = parse(text, path)?;
        self.add_aliases(recorded.aliases, text, path)
    }

    fn add_aliases(
        &mut self,
        aliases: BTreeMap<String, Spanned<String>>,
        text: &str,
        path: &Path,
    ) -> Result<(), RegistriesError> {
        for (name, value) in aliases {
            check_alias(&name, value.get_ref()).map_err(|why| parse_error(path, text, value.span(), why))?;
            match value.get_ref().is_empty() {
                true => self.aliases.remove(&name),
                false => self.aliases.insert(name, value.into_inner()),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn conf(text: &str) -> Registries {
        Registries::parse(text, Path::new("/x.conf")).expect("a good file")
    }

    pub(crate) fn refusal(text: &str) -> String {
        Registries::parse(text, Path::new("/x.conf")).expect_err("a bad file").to_string()
    }

    pub(crate) fn names(registries: &Registries, typed: &str) -> Vec<String> {
        registries.candidates(typed).expect("candidates").iter().map(Reference::to_string).collect()
    }

    /// Each endpoint as `host/repository`, followed by `!` if it is insecure.
    pub(crate) fn places(registries: &Registries, name: &str) -> Vec<String> {
        let endpoints = registries.endpoints(&Reference::parse(name).expect("good")).expect("endpoints");
        let place =
            |e: &Endpoint| format!("{}/{}{}", e.host, e.repository, if e.insecure { "!" } else { "" });
        endpoints.iter().map(place).collect()
    }

    pub(crate) const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

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
}
