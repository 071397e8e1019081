//! `sampan login` and `sampan logout`: the engine tries the credentials, and this process saves them for its user.

use crate::cli::args::image::{Login, Logout};
use crate::cli::args::socket::EngineSocket;
use crate::cli::engine::{engine, finish};
use crate::cli::error::{Failure, USAGE};
use crate::cli::image::credentials::{self, server};
use crate::cli::output;
use crate::cli::prompt;
use crate::cli::signals::{self, Signals};
use sampan_client::engine::{self, Credential, Request};
use sampan_ipc::credentials::file::{self, AuthFile, FileError};
use sampan_ipc::credentials::{Helper, Search, matching, search};
use sampan_ipc::report::chain;
use std::error::Error;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest password on standard input, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

pub(crate) fn login(args: &Login) -> Result<(), Failure> {
    let host = host(&args.registry)?;
    if args.get_login {
        return get_login(args, &host);
    }
    let (username, password) = ask(args, &host)?;
    // Check this before the engine contacts the registry: a login without a store is useless.
    let stores =
        CredentialStore::all(args.authfile.as_deref(), || credentials::helpers(&engine(&args.socket)))?;
    let credential = Credential { registry: host.clone(), username, password, identity_token: String::new() };
    let request = engine::Login { credential: credential.clone(), insecure: !args.tls_verify };
    let answers = engine(&args.socket).request(Request::Login(request), &[])?;
    // The prompts catch the signals, so the wait for the engine must watch for them.
    let signals = Signals::catch(&answers.stopper()?.into())
        .map_err(|error| Failure::new(format!("cannot catch signals: {error}")))?;
    let tried = finish(answers);
    if let Some(signal) = signals.caught() {
        signals::die_of(signal);
    }
    tried?;
    save(&stores, &host, &credential)?;
    print("Login Succeeded!\n")
}

/// A store for credentials.
enum CredentialStore {
    /// A credential file, or the helper that the file names for a registry.
    File(PathBuf),
    /// A helper of `credential-helpers` in registries.conf.
    Helper(String),
}

impl CredentialStore {
    /// Returns the stores to use: only `authfile` if it is given; otherwise `helpers` in order; otherwise the user's
    /// own file.
    fn all(
        authfile: Option<&Path>,
        helpers: impl FnOnce() -> Result<Vec<String>, Failure>,
    ) -> Result<Vec<Self>, Failure> {
        if let Some(file) = authfile {
            return Ok(vec![CredentialStore::File(file.to_owned())]);
        }
        let store = |name: String| match name.as_str() {
            search::FILES => CredentialStore::File(Search::default_file()),
            _ => CredentialStore::Helper(name),
        };
        let stores: Vec<Self> = helpers()?.into_iter().map(store).collect();
        match stores.is_empty() {
            true => Ok(vec![CredentialStore::File(Search::default_file())]),
            false => Ok(stores),
        }
    }

    fn save(&self, host: &str, credential: &Credential) -> Result<(), Failure> {
        match self {
            CredentialStore::File(path) => save_in_file(path, host, credential),
            // Use the registry's own name, as podman does: `docker.io`, and not docker's key for Docker Hub.
            CredentialStore::Helper(name) => {
                let helper = Helper::new(name).map_err(failed)?;
                helper.store(&matching::normalize(host), credential).map_err(failed)
            }
        }
    }

    /// Removes the credentials of `host`; returns false if there were none.
    fn remove(&self, host: &str) -> Result<bool, Failure> {
        match self {
            CredentialStore::File(path) => remove_from_file(path, host),
            CredentialStore::Helper(name) => {
                erase(&Helper::new(name).map_err(failed)?, &matching::normalize(host))
            }
        }
    }

    /// Removes the credentials of all registries.
    fn remove_all(&self) -> Result<(), Failure> {
        match self {
            CredentialStore::File(path) => remove_all_from_file(path),
            CredentialStore::Helper(name) => {
                let helper = Helper::new(name).map_err(failed)?;
                let servers = helper.list().map_err(failed)?;
                servers.iter().try_for_each(|server| helper.erase(server).map_err(failed))
            }
        }
    }
}

/// Saves `credential` in the first of `stores` that accepts it, and prints the failures of the stores before that one.
fn save(stores: &[CredentialStore], host: &str, credential: &Credential) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for store in stores {
        match store.save(host, credential) {
            Ok(()) => {
                failures.iter().for_each(|failure: &Failure| output::note(&failure.message));
                return Ok(());
            }
            Err(failure) => failures.push(failure),
        }
    }
    join_failures(failures)
}

/// Joins failures into one failure. Without failures, the result is success.
fn join_failures(failures: Vec<Failure>) -> Result<(), Failure> {
    let messages: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
    match messages.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(messages.join("; "))),
    }
}

fn print(text: &str) -> Result<(), Failure> {
    output::print(text)
}

fn failed(error: impl Error) -> Failure {
    Failure::new(chain(&error))
}

/// The registry's name, without a scheme or path that a person typed.
fn host(registry: &str) -> Result<String, Failure> {
    let host = matching::host_of(registry);
    match host.is_empty() {
        true => Err(Failure::new(format!("{registry:?} is not a registry; write HOST[:PORT]")).status(USAGE)),
        false => Ok(host),
    }
}

/// Gets user name and password from the arguments, or asks the person.
fn ask(args: &Login, host: &str) -> Result<(String, String), Failure> {
    let missing = args.username.is_none() || (args.password.is_none() && !args.password_stdin);
    if missing && !prompt::is_possible() {
        let what = if args.username.is_none() { "user name" } else { "password" };
        let failure =
            Failure::new(format!("cannot ask for a {what} for {host}: standard input is not a terminal"));
        return Err(failure.status(USAGE).hint("give --username and --password-stdin"));
    }
    let question = |error: io::Error| Failure::new(format!("cannot ask for a password for {host}: {error}"));
    let username = match &args.username {
        Some(username) => username.clone(),
        None => prompt::ask("Username: ", false).map_err(question)?,
    };
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => password_stdin()?,
        None => prompt::ask("Password: ", true).map_err(question)?,
    };
    if username.is_empty() || password.is_empty() {
        return Err(Failure::new("user name and password must not be empty").status(USAGE));
    }
    Ok((username, password))
}

/// Reads all of standard input, without the line feed at its end.
fn password_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().take(PASSWORD_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| Failure::new(format!("cannot read the password from standard input: {error}")))?;
    if text.len() as u64 > PASSWORD_MAX {
        return Err(Failure::new(format!("the password is longer than {PASSWORD_MAX} bytes")).status(USAGE));
    }
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// Saves with the helper that the file names for the registry, or in the file itself.
fn save_in_file(target: &Path, host: &str, credential: &Credential) -> Result<(), Failure> {
    let known = AuthFile::read(target).map_err(failed)?;
    match known.and_then(|file| helper(&file, host)) {
        Some((server, name)) => {
            Helper::new(&name).map_err(failed)?.store(&server, credential).map_err(failed)
        }
        None => file::save(target, credential).map_err(unsaved),
    }
}

/// The failure for a file that cannot be written. If its location is the reason, the hint names other locations.
fn unsaved(error: FileError) -> Failure {
    let is_place = matches!(&error, FileError::Io { source, .. }
        if matches!(source.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied));
    let failure = failed(error);
    match is_place {
        true => failure.hint("give --authfile FILE, or set REGISTRY_AUTH_FILE to a writable file"),
        false => failure,
    }
}

/// The registry's name for the helper, and the helper's name.
fn helper(file: &AuthFile, host: &str) -> Option<(String, String)> {
    file.helper(host).or_else(|| Some((server(host), file.store()?)))
}

/// Prints the name of the user that is logged in.
fn get_login(args: &Login, host: &str) -> Result<(), Failure> {
    let places = match &args.authfile {
        Some(file) => Search::only(file),
        None => Search::from_env(None, &helpers_if_known(&args.socket)),
    };
    let found = places.find(host, "", &|| false);
    found.problems.iter().for_each(|problem| output::note(problem));
    match found.credential {
        Some(credential) if credential.identity_token.is_empty() => {
            print(&format!("{}\n", credential.username))
        }
        Some(_) => print("<token>\n"),
        None => Err(Failure::new(format!("not logged in to {host}"))),
    }
}

/// The engine's `credential-helpers`. If the engine cannot be reached, prints a note and returns none.
fn helpers_if_known(socket: &EngineSocket) -> Vec<String> {
    credentials::helpers(&engine(socket)).unwrap_or_else(|failure| {
        output::note(&format!("ignoring credential-helpers of registries.conf: {}", failure.message));
        Vec::new()
    })
}

pub(crate) fn logout(args: &Logout) -> Result<(), Failure> {
    let authfile = args.authfile.as_deref();
    let mut helpers = Vec::new();
    let stores = CredentialStore::all(authfile, || {
        helpers = helpers_if_known(&args.socket);
        Ok(helpers.clone())
    })?;
    if args.all {
        join_failures(stores.iter().filter_map(|store| store.remove_all().err()).collect())?;
        return print("Removed login credentials for all registries\n");
    }
    let host = host(&args.registry)?;
    // Try every store, even if one fails.
    let (mut removed, mut failures) = (false, Vec::new());
    for store in &stores {
        match store.remove(&host) {
            Ok(known) => removed |= known,
            Err(failure) => failures.push(failure),
        }
    }
    let others = match authfile {
        Some(_) => Vec::new(),
        None => others(&host, &helpers),
    };
    for path in &others {
        output::note(&format!("{} still holds a credential for {host}", path.display()));
    }
    join_failures(failures)?;
    match removed {
        true => print(&format!("Removed login credentials for {host}\n")),
        false => Err(not_logged_in(&host, &stores, others.first())),
    }
}

fn not_logged_in(host: &str, stores: &[CredentialStore], other: Option<&PathBuf>) -> Failure {
    if let Some(path) = other {
        let failure = Failure::new(format!("not logged in to {host} by 'sampan login'"));
        return failure.hint(format!("give --authfile {}", path.display()));
    }
    let asked = stores.iter().map(|store| match store {
        CredentialStore::File(path) => format!("{} has no entry", path.display()),
        CredentialStore::Helper(name) => format!("docker-credential-{name} has no entry"),
    });
    let asked: Vec<String> = asked.collect();
    Failure::new(format!("not logged in to {host}: {}", asked.join(", ")))
}

/// Removes `server` from `helper`; returns false if the helper had no such entry.
fn erase(helper: &Helper, server: &str) -> Result<bool, Failure> {
    if helper.get(server).map_err(failed)?.is_none() {
        return Ok(false);
    }
    helper.erase(server).map_err(failed)?;
    Ok(true)
}

fn remove_from_file(target: &Path, host: &str) -> Result<bool, Failure> {
    let Some(known) = AuthFile::read(target).map_err(failed)? else {
        return Ok(false);
    };
    let erased = match helper(&known, host) {
        Some((server, name)) => erase(&Helper::new(&name).map_err(failed)?, &server)?,
        None => false,
    };
    Ok(file::remove(target, Some(host)).map_err(failed)? || erased)
}

fn remove_all_from_file(target: &Path) -> Result<(), Failure> {
    if let Some(known) = AuthFile::read(target).map_err(failed)? {
        for (server, name) in known.helpers() {
            erase(&Helper::new(&name).map_err(failed)?, &server)?;
        }
        file::remove(target, None).map_err(failed)?;
    }
    Ok(())
}

/// Files with an entry for `host` that `sampan` reads but `login` does not write.
fn others(host: &str, helpers: &[String]) -> Vec<PathBuf> {
    let files = Search::from_env(None, helpers).read(&mut Vec::new());
    let own = Search::default_file();
    let holds = |file: &AuthFile| {
        file.path() != own && matching::best(&file.entries(&mut Vec::new()), host, "").is_some()
    };
    files.iter().filter(|file| holds(file)).map(|file| file.path().to_owned()).collect()
}
