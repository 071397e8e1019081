//! Where a container's output goes: the log driver, its options and its files. docker-run(1), "--log-driver".
//!
//! Called when a container is created, started or inspected, and when its log is read. Writes nothing: the shim writes
//! the log.

use super::definition::{Definition, short};
use super::directory::Directories;
use crate::config::Config;
use crate::error;
use sampan_ipc::engine::{Code, Failure};
use sampan_ipc::shim::Log;
use sampan_ipc::size;
use std::path::PathBuf;

/// Default size of a log file, in bytes; small, because small hosts have small disks.
const MAX_BYTES: u64 = 10 << 20;
/// Default number of log files.
const MAX_FILES: u32 = 3;
/// Highest value of the option `max-file`.
const MAX_FILES_MAX: u32 = 1000;

/// Returns the log driver with its options, for the shim.
///
/// # Errors
/// The driver is unknown, or one of its options is unknown or not valid.
pub fn log(config: &Config, directories: &Directories, definition: &Definition) -> Result<Log, Failure> {
    let driver = driver(config, definition);
    // The configured options apply to the configured driver only.
    let configured = config.log_options.iter().filter(|_| driver == config.log_driver);
    let options = configured.chain(&definition.create.log_options);
    match driver {
        "none" => match definition.create.log_options.first() {
            Some((key, _)) => Err(unknown_option(driver, key, "none")),
            None => Ok(Log::None),
        },
        "json-file" => {
            let (mut max_bytes, mut max_files) = (MAX_BYTES, MAX_FILES);
            for (key, value) in options {
                match key.as_str() {
                    "max-size" => {
                        max_bytes = parse_size(value).ok_or_else(|| invalid_option(driver, key, value))?
                    }
                    "max-file" => {
                        max_files = parse_count(value).ok_or_else(|| invalid_option(driver, key, value))?
                    }
                    _ => return Err(unknown_option(driver, key, "max-size, max-file")),
                }
            }
            Ok(Log::JsonFile { path: path(directories, definition), max_bytes, max_files })
        }
        "journald" => {
            let mut tag = short(&definition.id).to_owned();
            for (key, value) in options {
                match key.as_str() {
                    "tag" => tag.clone_from(value),
                    _ => return Err(unknown_option(driver, key, "tag")),
                }
            }
            Ok(Log::Journald { tag })
        }
        other => {
            let message = format!("unknown log driver {other:?}");
            Err(error::new(Code::Usage, message, "the log drivers are json-file, journald, none"))
        }
    }
}

/// Returns the driver's name and the existing log files, oldest first, so that the current file is last.
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

/// Returns the container's log driver: the requested driver, otherwise the configured one.
pub fn driver<'a>(config: &'a Config, definition: &'a Definition) -> &'a str {
    definition.create.log_driver.as_deref().unwrap_or(&config.log_driver)
}

fn path(directories: &Directories, definition: &Definition) -> PathBuf {
    directories.dir(&definition.id).join(format!("{}-json.log", definition.id))
}

/// Parses a size such as `10m`, `1g` or `500`, in powers of 1024. Returns 0 for `-1`, which means no limit.
fn parse_size(value: &str) -> Option<u64> {
    if value == "-1" {
        return Some(0);
    }
    size::parse(value).filter(|bytes| *bytes > 0)
}

fn parse_count(value: &str) -> Option<u32> {
    value.parse().ok().filter(|count| (1..=MAX_FILES_MAX).contains(count))
}

fn invalid_option(driver: &str, key: &str, value: &str) -> Failure {
    error::new(
        Code::Usage,
        format!("option {key} of log driver {driver} cannot be {value:?}"),
        "for example max-size=10m, max-file=3",
    )
}

fn unknown_option(driver: &str, key: &str, known: &str) -> Failure {
    error::new(
        Code::Usage,
        format!("log driver {driver} has no option {key:?}"),
        &format!("the options are: {known}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_as_docker_does() {
        let cases = [("500", Some(500)), ("10m", Some(10 << 20)), ("1G", Some(1 << 30)), ("2kb", Some(2048))];
        for (text, bytes) in cases.into_iter().chain([("-1", Some(0)), ("", None), ("0", None), ("1x", None)])
        {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
        assert_eq!(parse_size("99999999999g"), None);
    }
}
