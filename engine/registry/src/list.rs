//! Lists of a [`Registry`]: the tags of a repository, and the repositories of a registry.
//!
//! OCI distribution-spec, "Listing tags"; for repositories, "Listing Repositories" of the distribution project's API.
//! Lists come in pages, and everything in them is untrusted: each name is checked, and each list has a bound. `referrers`
//! reads its pages here, too.

use crate::error::{RegistryError, crop};
use crate::headers::next_page;
use crate::registry::Registry;
use ::http::{Method, Response, StatusCode, header};
use sampan_oci::reference::{self, Reference};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::HashSet;
use ureq::Body;

/// Names requested per page.
const NAMES_PER_PAGE: usize = 1000;
/// Longest page in bytes. A registry without paging sends the whole list as one page.
const PAGE_MAX: u64 = 16 << 20;
/// Most pages of one list that are read.
const PAGES_MAX: usize = 1000;
const JSON: &str = "application/json";
/// Most tags of one repository that are read.
pub const TAGS_MAX: usize = 100_000;
/// Most repositories of one registry that are read.
pub const REPOSITORIES_MAX: usize = 100_000;

/// A list that is read page by page.
pub(crate) struct Pages<'a> {
    registry: &'a Registry,
    /// The list, for messages, such as `tags of a/b`.
    what: &'a str,
    /// Path below `/v2/`, without a query.
    path: String,
    accept: &'static str,
    /// The query of the next page; `None` at the end.
    next: Option<String>,
    /// The queries of all pages so far.
    seen: HashSet<String>,
}

impl<'a> Pages<'a> {
    /// Makes a list at `path` below `/v2/`, whose first page has the query `query`.
    pub(crate) fn new(
        registry: &'a Registry,
        what: &'a str,
        path: String,
        accept: &'static str,
        query: String,
    ) -> Self {
        Pages { registry, what, path, accept, next: Some(query), seen: HashSet::new() }
    }

    /// Requests the next page; `None` at the end of the list. Returns the answer whatever its status.
    pub(crate) fn request(&mut self) -> Result<Option<Response<Body>>, RegistryError> {
        let (registry, what) = (self.registry, self.what);
        let Some(query) = self.next.take() else {
            return Ok(None);
        };
        if self.seen.len() >= PAGES_MAX {
            return Err(registry.bad_answer(format!("lists {what} on more than {PAGES_MAX} pages")));
        }
        let joint = if query.is_empty() { "" } else { "?" };
        let path = format!("{}{joint}{query}", self.path);
        if !self.seen.insert(query) {
            return Err(registry.bad_answer(format!("lists {what} on pages that link in a circle")));
        }
        let response = registry.query(&Method::GET, what, &path, &[(header::ACCEPT, self.accept)])?;
        if response.status() == StatusCode::OK
            && let Some(link) = next_page(&response)
        {
            self.next = Some(next_query(registry, what, link)?);
        }
        Ok(Some(response))
    }

    /// Reads the page in `response`.
    pub(crate) fn read<P: DeserializeOwned>(&self, response: Response<Body>) -> Result<P, RegistryError> {
        let bytes = self.registry.read_bounded(response, self.what, PAGE_MAX)?;
        let problem = |e| format!("sends a list of {} that is not valid JSON: {e}", self.what);
        serde_json::from_slice(&bytes).map_err(|e| self.registry.bad_answer(problem(e)))
    }

    /// Adds a page to `names`, and continues behind it if the list may go on without a link.
    fn add(&mut self, names: &mut Names, page: Vec<String>) -> Result<(), RegistryError> {
        let guessed = names.add(page, self.next.is_some()).map_err(|max| self.too_many(max))?;
        self.next = self.next.take().or(guessed);
        Ok(())
    }

    /// The error for a list that has more than `max` entries.
    pub(crate) fn too_many(&self, max: usize) -> RegistryError {
        self.registry.bad_answer(format!("lists more than {max} {}", self.what))
    }
}

impl Registry {
    /// Lists the tags of the repository, each once, in the registry's order, which need not be sorted.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if there are more than [`TAGS_MAX`] tags, or one of them is not a valid tag.
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            // Go writes an empty list as null.
            tags: Option<Vec<String>>,
        }
        let what = format!("tags of {}", self.repository);
        let mut pages = Pages::new(self, &what, self.path("tags/list"), JSON, first_query());
        let mut tags = Names::new(TAGS_MAX);
        while let Some(response) = pages.request()? {
            if response.status() != StatusCode::OK {
                return Err(self.status_error(&what, response));
            }
            let page = pages.read::<Page>(response)?.tags.unwrap_or_default();
            if let Some(bad) = page.iter().find(|tag| !reference::is_tag(tag)) {
                return Err(self.bad_answer(format!("lists {:?}, which is no tag", crop(bad))));
            }
            pages.add(&mut tags, page)?;
        }
        Ok(tags.list)
    }

    /// Lists the repositories of the registry, each once, in the registry's order. Leaves out names that are not valid.
    ///
    /// The list belongs to the registry and not to the repository of this client; see [`Registry::for_catalog`].
    ///
    /// # Errors
    /// [`RegistryError::Unsupported`] if the registry does not list its repositories, or not to this user (status 401,
    /// 404 or 405). [`RegistryError::Answer`] if there are more than [`REPOSITORIES_MAX`] repositories.
    pub fn catalog(&self) -> Result<Vec<String>, RegistryError> {
        match self.repositories(first_query()) {
            // Some registries refuse a page of that length, instead of sending a shorter one.
            Err(RegistryError::Status { status: 400, .. }) => self.repositories(String::new()),
            other => other,
        }
    }

    fn repositories(&self, query: String) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            repositories: Option<Vec<String>>,
        }
        let what = "repositories";
        let mut pages = Pages::new(self, what, "_catalog".to_owned(), JSON, query);
        let mut names = Names::new(REPOSITORIES_MAX);
        while let Some(response) = pages.request()? {
            match response.status() {
                StatusCode::OK => {}
                StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                    return Err(self.unsupported("list repositories", response));
                }
                _ => return Err(self.status_error(what, response)),
            }
            let page = pages.read::<Page>(response)?.repositories.unwrap_or_default();
            pages.add(&mut names, page)?;
        }
        let mut list = names.list;
        list.retain(|name| {
            let is_valid = is_repository(name);
            if !is_valid {
                log::debug!("{} lists {:?}, which is no name of a repository", self.host, crop(name));
            }
            is_valid
        });
        Ok(list)
    }
}

/// The query of the next page, from a `Link` header. Uses only the query of the link, so that the registry cannot
/// direct the token to another host.
fn next_query(registry: &Registry, what: &str, link: &str) -> Result<String, RegistryError> {
    let query = link.split_once('?').map(|(_, query)| query).unwrap_or_default();
    let allowed =
        |b: u8| b.is_ascii_graphic() && !matches!(b, b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`');
    if query.is_empty() || query.len() > 4096 || !query.bytes().all(allowed) {
        return Err(registry.bad_answer(format!("links to {:?} as the next page of {what}", crop(link))));
    }
    Ok(query.to_owned())
}

/// The names of a list, each once.
struct Names {
    list: Vec<String>,
    seen: HashSet<String>,
    max: usize,
}

impl Names {
    fn new(max: usize) -> Self {
        Names { list: Vec::new(), seen: HashSet::new(), max }
    }

    /// Adds a page. Returns the query of the page after it, if the answer has no link but the page is as long as was
    /// asked for. OCI distribution-spec, "Listing tags": such a list may go on.
    ///
    /// # Errors
    /// The most names that are allowed, if there are more.
    fn add(&mut self, page: Vec<String>, has_next: bool) -> Result<Option<String>, usize> {
        let (len, before) = (page.len(), self.list.len());
        for name in page {
            if self.seen.contains(&name) {
                continue;
            }
            if self.list.len() >= self.max {
                return Err(self.max);
            }
            self.seen.insert(name.clone());
            self.list.push(name);
        }
        // A registry that ignores `last` sends the same names again, which ends the list.
        let may_go_on = !has_next && len == NAMES_PER_PAGE && self.list.len() > before;
        let last = self.list.last().filter(|name| may_go_on && is_query_word(name));
        Ok(last.map(|last| format!("n={NAMES_PER_PAGE}&last={last}")))
    }
}

fn first_query() -> String {
    format!("n={NAMES_PER_PAGE}")
}

/// Whether `name` consists of bytes that need no encoding in a query.
fn is_query_word(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
}

/// Whether `name` is a valid name of a repository.
fn is_repository(name: &str) -> bool {
    // A host in front of the name makes a reference; `name` must not have become a part of anything else.
    let parsed = Reference::parse(&format!("registry.example/{name}"));
    parsed.is_ok_and(|parsed| parsed.path() == name && parsed.digest().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_page_without_a_link_may_go_on() {
        let page = |from: usize| (from..from + NAMES_PER_PAGE).map(|n| n.to_string()).collect::<Vec<_>>();
        let mut names = Names::new(5000);
        assert_eq!(names.add(page(0), true), Ok(None), "the link tells");
        assert_eq!(names.add(page(1000), false), Ok(Some("n=1000&last=1999".to_owned())));
        assert_eq!(names.add(page(1000), false), Ok(None), "the registry ignores `last`");
        assert_eq!(names.add(vec!["x".to_owned()], false), Ok(None));
        assert_eq!(names.list.len(), 2001);
        assert_eq!(names.add(page(10_000).into_iter().chain(page(20_000)).collect(), false), Ok(None));
        assert_eq!(names.add(page(30_000), false), Err(5000));
    }

    #[test]
    fn a_repository_has_a_path_and_nothing_else() {
        assert!(["a", "library/a", "a/b/c-d__e"].into_iter().all(is_repository));
        for bad in ["", "A", "a:tag", "a@sha256:0", "../a", "a//b", "a b", "/a"] {
            assert!(!is_repository(bad), "{bad}");
        }
    }
}
