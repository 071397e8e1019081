//! Text functions on URLs: what is left of a URL without some of its parts.
//!
//! Pure. Called by preheats and by whatever shows a URL to people. Parses nothing for a request: [`crate::origin`]
//! does.

/// The URL without the query parameters that `filter` names (`a&b`). The order of the others is kept.
pub fn filter_url(url: &str, filter: &str) -> String {
    let names: Vec<&str> = filter.split('&').filter(|name| !name.is_empty()).collect();
    let Some((path, query)) = url.split_once('?').filter(|_| !names.is_empty()) else {
        return url.to_owned();
    };
    let is_kept = |pair: &&str| !names.contains(&pair.split_once('=').map_or(*pair, |(key, _)| key));
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) }
}

/// The host and port in a URL without a user; empty if there is none.
pub fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Whether `filtered` is `url` without some of its query parameters: the same scheme, host and path, and the other
/// parameters in their order. Otherwise a client could pass the file of one server for that of another.
pub fn is_filtered_from(filtered: &str, url: &str) -> bool {
    let split = |url: &'_ str| {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        (path.to_owned(), query.split('&').map(str::to_owned).collect::<Vec<_>>())
    };
    let ((kept_path, kept), (path, all)) = (split(filtered), split(url));
    let mut all = all.iter();
    kept_path == path
        && kept.iter().all(|wanted| wanted.is_empty() || all.any(|parameter| parameter == wanted))
}

/// The URL without user, password, query and fragment, each of which may grant access: for lists, events and logs.
pub fn printable_url(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_removes_parameters_and_keeps_the_order() {
        for (url, filter, kept) in [
            ("http://h/f?sig=1&v=1", "sig", "http://h/f?v=1"),
            ("http://h/f?sig=1", "sig&x", "http://h/f"),
            ("http://h/f?b=2&a=1", "", "http://h/f?b=2&a=1"),
            ("http://h/f?a=1?b=2&sig", "sig", "http://h/f?a=1?b=2"),
        ] {
            assert_eq!(filter_url(url, filter), kept);
        }
    }

    #[test]
    fn a_task_is_named_by_parts_of_the_url_alone() {
        let url = "http://h/f?sig=1&v=1&w=2";
        for filtered in [url, "http://h/f", "http://h/f?v=1", "http://h/f?sig=1&w=2", "http://h/f?"] {
            assert!(is_filtered_from(filtered, url), "{filtered}");
        }
        for other in [
            "http://other/f?v=1",
            "https://h/f",
            "http://h/f/g",
            "http://h/f?v=2",
            "http://h/f?w=2&v=1",
            "http://h/f?v=1&v=1",
            "",
        ] {
            assert!(!is_filtered_from(other, url), "{other}");
        }
    }

    #[test]
    fn a_url_is_shown_without_what_grants_access() {
        assert_eq!(printable_url("https://u:p@h:1/a@b?sig=x#y"), "https://h:1/a@b");
        assert_eq!(printable_url("https://u:p@h"), "https://h");
        assert_eq!(printable_url("x?y"), "x");
    }
}
