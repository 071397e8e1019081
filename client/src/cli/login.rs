//! `sampan login` and `sampan logout`: what the engine has tried is saved for its user, by the user's own process.

use crate::cli::args::{Login, Logout};
use crate::cli::credentials::server;
use crate::cli::failure::{Failure, USAGE};
use crate::cli::job::{engine, finish};
use crate::cli::output;
use crate::cli::prompt;
use crate::cli::signals::{self, Signals};
use sampan_client::engine::{self, Credential, Request};
use sampan_ipc::credentials::file::{self, AuthFile};
use sampan_ipc::credentials::{Helper, Search, matching};
use sampan_ipc::report::chain;
use std::error::Error;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Longest password that standard input may bring, in bytes.
const PASSWORD_MAX: u64 = 64 << 10;

/// Runs `sampan login`.
///
/// # Errors
/// The registry refuses, or what it takes cannot be saved.
pub fn login(args: &Login) -> Result<(), Failure> {
    let host = host(&args.registry)?;
    let target = target(args.authfile.as_deref());
    if args.get_login {
        return get_login(&host, args.authfile.as_deref());
    }
    let (username, password) = ask(args, &host)?;
    let credential = Credential { registry: host.clone(), username, password, identity_token: String::new() };
    let request = engine::Login { credential: credential.clone(), insecure: !args.tls_verify };
    let answers = engine(&args.socket).request(Request::Login(request), &[])?;
    // The questions have caught signals before: nobody else makes them end this.
    let signals = Signals::catch(&answers.stopper()?.into())
        .map_err(|error| Failure::new(format!("cannot catch signals: {error}")))?;
    let tried = finish(answers);
    if let Some(signal) = signals.caught() {
        signals::die_of(signal);
    }
    tried?;
    save(&target, &host, credential)?;
    print("Login Succeeded!\n")
}

/// Where the file is that is written.
fn target(authfile: Option<&Path>) -> PathBuf {
    authfile.map_or_else(Search::default_file, Path::to_owned)
}

fn print(text: &str) -> Result<(), Failure> {
    output::print(text).map_err(|error| Failure::output(&error))
}

fn failed(error: impl Error) -> Failure {
    Failure::new(chain(&error))
}

/// The registry's own name: a path or a scheme that a person typed along is none of it.
fn host(registry: &str) -> Result<String, Failure> {
    let host = matching::host_of(registry);
    match host.is_empty() {
        true => Err(Failure::new(format!("{registry:?} is no registry; write HOST[:PORT]")).status(USAGE)),
        false => Ok(host),
    }
}

/// User name and password, from the arguments or the person.
fn ask(args: &Login, host: &str) -> Result<(String, String), Failure> {
    let missing = args.username.is_none() || (args.password.is_none() && !args.password_stdin);
    if missing && !prompt::is_possible() {
        let failure =
            Failure::new(format!("cannot ask for a password for {host}: standard input is no terminal"));
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

/// All of standard input but the line feed at its end.
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

/// Saves with the helper that the file sets for the registry, or in the file itself.
fn save(target: &Path, host: &str, credential: Credential) -> Result<(), Failure> {
    let known = AuthFile::read(target).map_err(failed)?;
    match known.and_then(|file| helper(&file, host)) {
        Some((server, name)) => {
            Helper::new(&name).map_err(failed)?.store(&server, &credential).map_err(failed)
        }
        None => file::save(target, &credential).map_err(failed),
    }
}

/// The server as the helper knows it, and the helper's name.
fn helper(file: &AuthFile, host: &str) -> Option<(String, String)> {
    file.helper(host).or_else(|| Some((server(host), file.store()?)))
}

/// Prints who is logged in.
fn get_login(host: &str, authfile: Option<&Path>) -> Result<(), Failure> {
    let search = authfile.map_or_else(|| Search::from_env(None), Search::only);
    let found = search.find(host, "");
    found.problems.iter().for_each(|problem| output::note(problem));
    match found.credential {
        Some(credential) if credential.identity_token.is_empty() => {
            print(&format!("{}\n", credential.username))
        }
        Some(_) => print("<token>\n"),
        None => Err(Failure::new(format!("not logged in to {host}"))),
    }
}

/// Runs `sampan logout`.
///
/// # Errors
/// Nobody is logged in, or a file or a helper cannot be changed.
pub fn logout(args: &Logout) -> Result<(), Failure> {
    let target = target(args.authfile.as_deref());
    if args.all {
        return logout_all(&target);
    }
    let host = host(&args.registry)?;
    let removed = logout_of(&target, &host)?;
    let others = others(&host, args.authfile.as_deref(), &target);
    for path in &others {
        output::note(&format!("{} still holds a credential for {host}", path.display()));
    }
    match removed {
        true => print(&format!("Removed login credentials for {host}\n")),
        false => {
            let failure = Failure::new(format!("not logged in to {host}: {} has no entry", target.display()));
            Err(others.first().map_or(failure.status(1), |path| {
                let failure = Failure::new(format!("not logged in to {host} by 'sampan login'"));
                failure.hint(format!("give --authfile {}", path.display()))
            }))
        }
    }
}

fn logout_of(target: &Path, host: &str) -> Result<bool, Failure> {
    let Some(known) = AuthFile::read(target).map_err(failed)? else {
        return Ok(false);
    };
    let mut removed = false;
    if let Some((server, name)) = helper(&known, host) {
        let helper = Helper::new(&name).map_err(failed)?;
        if helper.get(&server).map_err(failed)?.is_some() {
            helper.erase(&server).map_err(failed)?;
            removed = true;
        }
    }
    Ok(file::remove(target, Some(host)).map_err(failed)? || removed)
}

fn logout_all(target: &Path) -> Result<(), Failure> {
    if let Some(known) = AuthFile::read(target).map_err(failed)? {
        for (server, name) in known.helpers() {
            let helper = Helper::new(&name).map_err(failed)?;
            if helper.get(&server).map_err(failed)?.is_some() {
                helper.erase(&server).map_err(failed)?;
            }
        }
        file::remove(target, None).map_err(failed)?;
    }
    print("Removed login credentials for all registries\n")
}

/// Other files that are read and have an entry for `host`; none if a file was named.
fn others(host: &str, authfile: Option<&Path>, target: &Path) -> Vec<PathBuf> {
    if authfile.is_some() {
        return Vec::new();
    }
    let files = Search::from_env(None).read(&mut Vec::new());
    let holds = |file: &AuthFile| {
        file.path() != target && matching::best(&file.entries(&mut Vec::new()), host, "").is_some()
    };
    files.iter().filter(|file| holds(file)).map(|file| file.path().to_owned()).collect()
}
