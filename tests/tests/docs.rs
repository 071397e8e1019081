//! The documents agree with the tree: links lead somewhere, named files exist, charts show the committed figures.

use sampan_tests::host::binary;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the root of the sources.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// Returns the path and the text of every document, without its code blocks.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)).into();
    let pages =
        fs::read_dir(root().join("docs")).expect("a directory").map(|entry| entry.expect("readable").path());
    paths.extend(pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    let prose = |text: &str| text.split("```").step_by(2).collect::<Vec<_>>().join("\n");
    paths.into_iter().map(|path| (path.clone(), prose(&fs::read_to_string(&path).expect("text")))).collect()
}

/// Returns the anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> HashSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let kept =
            line.trim_start_matches('#').trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_of_the_documents_leads_to_a_file_or_a_heading() {
    let mut links = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("https://") {
                continue;
            }
            links += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target =
                if file.is_empty() { path.clone() } else { path.parent().expect("a directory").join(file) };
            assert!(target.exists(), "{}: {link}", path.display());
            let is_there = || anchors(&fs::read_to_string(&target).expect("text")).contains(anchor);
            assert!(anchor.is_empty() || is_there(), "{}: {link}", path.display());
        }
    }
    assert!(links > 30, "only {links} links were found");
}

#[test]
fn every_source_file_that_a_document_names_exists() {
    let mut names = 0;
    for (path, text) in documents() {
        for name in text.split('`').skip(1).step_by(2) {
            let is_source = [".rs", ".sh", ".py", ".md"].iter().any(|end| name.ends_with(end));
            if is_source && name.contains('/') && !name.starts_with('/') {
                names += 1;
                assert!(root().join(name).exists(), "{} names {name}", path.display());
            }
        }
    }
    assert!(names > 5, "only {names} names were found");
}

/// The options of `--help`, each with its default up to the first comma, if it has one.
fn options_of_help(text: &str) -> BTreeMap<String, Option<String>> {
    let mut parts: Vec<String> = Vec::new();
    for line in text.lines().skip_while(|line| !line.trim_start().starts_with('-')) {
        match parts.last_mut() {
            _ if line.is_empty() => break,
            Some(part) if !line.trim_start().starts_with('-') => part.extend([" ", line.trim()]),
            _ => parts.push(line.to_owned()),
        }
    }
    let option = |part: &String| {
        let name = part.split("--").nth(1).and_then(|rest| rest.split(' ').next());
        (name.expect("a long option").to_owned(), default_of(part))
    };
    parts.iter().map(option).collect()
}

/// The options of a man page, as [`options_of_help`] returns them.
fn options_of_man(text: &str) -> BTreeMap<String, Option<String>> {
    let text = text.replace("\\-", "-");
    let (_, text) = text.split_once(".SH OPTIONS").expect("a section");
    let text = text.split(".SH ").next().unwrap_or_default();
    let mut options = BTreeMap::new();
    for part in text.split(".TP\n").skip(1) {
        let (head, rest) = part.split_once('\n').expect("a head");
        let name = head.split("--").nth(1).and_then(|rest| rest.split([' ', '"']).next());
        options.insert(name.expect("a long option").to_owned(), default_of(rest));
    }
    options
}

fn default_of(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("[default: ")?;
    Some(rest.split([',', ']']).next()?.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn the_supernodes_man_page_has_its_options_and_defaults() {
    let help = Command::new(binary("sampan-supernode")).arg("--help").output().expect("built");
    let help = options_of_help(&String::from_utf8(help.stdout).expect("text"));
    let page = fs::read_to_string(root().join("docs/man/sampan-supernode.8")).expect("a page");
    assert!(help.len() > 20, "{help:?}");
    assert_eq!(help, options_of_man(&page));
}

#[test]
fn the_man_page_of_the_docker_api_has_its_options_and_defaults() {
    let help = Command::new(binary("sampan-docker-api")).arg("--help").output().expect("built");
    let help = options_of_help(&String::from_utf8(help.stdout).expect("text"));
    let page = fs::read_to_string(root().join("docs/man/sampan-docker-api.8")).expect("a page");
    assert_eq!(help.keys().collect::<Vec<_>>(), ["help", "idle-timeout", "socket", "version"]);
    assert_eq!(help, options_of_man(&page));
}

#[test]
fn charts_tables_and_the_drawn_demo_are_what_is_committed() {
    for script in ["docs/benchmarks/charts.py", "docs/record-demo.py"] {
        let check = Command::new("python3").arg(root().join(script)).arg("--check").output();
        let check = check.expect("python3 of Debian's package python3");
        assert!(check.status.success(), "{script}: {}", String::from_utf8_lossy(&check.stderr));
    }
}

#[test]
fn the_readme_and_the_architecture_stay_short() {
    for (name, most) in [("README.md", 180), ("docs/architecture.md", 250)] {
        let lines = fs::read_to_string(root().join(name)).expect("text").lines().count();
        assert!(lines <= most, "{name} has {lines} lines, at most {most} are wanted");
    }
}
