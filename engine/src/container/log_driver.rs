//! Where a container's output goes: the driver and its options, as docker-run(1) has them, and the files there are.

use super::definition::Definition;
use super::directory::Directories;
use crate::config::Config;
use crate::error;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::shim::Log;
use sampan_ipc::size;
use std::path::PathBuf;

/// Longest log file by default, in bytes: small hosts have small disks.
const MAX_BYTES: u64 = 10 << 20;
/// Most files by default.
const MAX_FILES: u32 = 3;
/// Most files that may be asked for.
const MAX_FILES_MAX: u32 = 1000;

/// Where the output of a container goes.
///
/// # Errors
/// There is no such driver, or it has no such option.
pub fn log(config: &Config, directories: &Directories, definition: &Definition) -> Result<Log, Failure> {
    let driver = driver(config, definition);
    // The configured options are the configured driver's.
    let configured = config.log_options.iter().filter(|_| driver == config.log_driver);
    let options = configured.chain(&definition.create.log_options);
    match driver {
        "none" => match definition.create.log_options.first() {
            Some((key, _)) => Err(no_option(driver, key, "none")),
            None => Ok(Log::None),
        },
        "json-file" => {
            let (mut max_bytes, mut max_files) = (MAX_BYTES, MAX_FILES);
            for (key, value) in options {
                match key.as_str() {
                    "max-size" => max_bytes = max_size(value).ok_or_else(|| nonsense(driver, key, value))?,
                    "max-file" => max_files = count(value).ok_or_else(|| nonsense(driver, key, value))?,
                    _ => return Err(no_option(driver, key, "max-size, max-file")),
                }
            }
            Ok(Log::JsonFile { path: path(directories, definition), max_bytes, max_files })
        }
        "journald" => {
            let mut tag = definition.id.get(..12).unwrap_or_default().to_owned();
            for (key, value) in options {
                match key.as_str() {
                    "tag" => tag.clone_from(value),
                    _ => return Err(no_option(driver, key, "tag")),
                }
            }
            Ok(Log::Journald { tag })
        }
        other => {
            let message = format!("there is no log driver {other:?}");
            Err(error::new(Code::Usage, message, "there are json-file, journald, none"))
        }
    }
}

/// The driver, and the files of the log that are there, oldest first.
pub fn files(config: &Config, directories: &Directories, definition: &Definition) -> (String, Vec<PathBuf>) {
    let driver = driver(config, definition);
    if driver != "json-file" {
        return (driver.to_owned(), Vec::new());
    }
    let current = path(directories, definition);
    let older = (1..MAX_FILES_MAX).map(|nth| current.with_extension(format!("log.{nth}")));
    let mut files: Vec<PathBuf> = older.take_while(|path| path.exists()).collect();
    files.reverse();
    files.push(current);
    (driver.to_owned(), files)
}

/// Its log driver: the one that was asked for, else the configured one.
pub fn driver<'a>(config: &'a Config, definition: &'a Definition) -> &'a str {
    definition.create.log_driver.as_deref().unwrap_or(&config.log_driver)
}

fn path(directories: &Directories, definition: &Definition) -> PathBuf {
    directories.dir(&definition.id).join(format!("{}-json.log", definition.id))
}

/// Bytes of `10m`, `1g`, `500`; docker's units are powers of 1024 here. -1 is no limit.
fn max_size(value: &str) -> Option<u64> {
    if value == "-1" {
        return Some(0);
    }
    size::parse(value).filter(|bytes| *bytes > 0)
}

fn count(value: &str) -> Option<u32> {
    value.parse().ok().filter(|count| (1..=MAX_FILES_MAX).contains(count))
}

fn nonsense(driver: &str, key: &str, value: &str) -> Failure {
    error::new(
        Code::Usage,
        format!("option {key} of log driver {driver} is {value:?}"),
        "max-size=10m, max-file=3",
    )
}

fn no_option(driver: &str, key: &str, known: &str) -> Failure {
    error::new(
        Code::Usage,
        format!("log driver {driver} has no option {key:?}"),
        &format!("there are {known}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_docker_has_them() {
        let cases = [("500", Some(500)), ("10m", Some(10 << 20)), ("1G", Some(1 << 30)), ("2kb", Some(2048))];
        for (text, bytes) in cases.into_iter().chain([("-1", Some(0)), ("", None), ("0", None), ("1x", None)])
        {
            assert_eq!(max_size(text), bytes, "{text:?}");
        }
        assert_eq!(max_size("99999999999g"), None);
    }
}
