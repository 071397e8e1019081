//! Parses the `WWW-Authenticate` header. RFC 9110, section 11.6.1.
//!
//! Called by `auth`. The header is untrusted text: [`parse`] accepts any string and never panics. Splitting it at
//! commas would be wrong, because quoted values may contain commas.

/// One challenge: a scheme and its parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme in lower case, such as `bearer` or `basic`.
    pub scheme: String,
    /// Names in lower case, with unquoted values.
    pub parameters: Vec<(String, String)>,
    /// The token that some schemes have instead of parameters, such as `abc==` in `Negotiate abc==`.
    pub token68: Option<String>,
}

impl Challenge {
    /// The value of the parameter `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// All challenges in a header's value; skips everything that is malformed.
pub fn parse(value: &str) -> Vec<Challenge> {
    let mut rest = value;
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = token(rest);
        if rest.is_empty() {
            return challenges;
        }
        if word.is_empty() {
            rest = skip_malformed(rest);
            continue;
        }
        let spaced = after.trim_start_matches([' ', '\t']);
        // `name=value` belongs to the preceding challenge; a word without `=` starts a new one.
        match (spaced.strip_prefix('='), challenges.last_mut()) {
            (Some(after), Some(challenge)) => {
                let (text, after) = text(after.trim_start_matches([' ', '\t']));
                challenge.parameters.push((word.to_ascii_lowercase(), text));
                rest = after;
            }
            (Some(after), None) => rest = text(after.trim_start_matches([' ', '\t'])).1,
            (None, _) => {
                let (token68, after) = token68(spaced);
                let scheme = word.to_ascii_lowercase();
                challenges.push(Challenge { scheme, token68, ..Challenge::default() });
                rest = after;
            }
        }
    }
}

/// Parses a token68 and returns it with the rest of the text. A word is a token68 only at the end or before a comma.
/// Any other word is a parameter or the next scheme, and stays in the rest.
fn token68(from: &str) -> (Option<String>, &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
    let end = from.find(|c| !allowed(c)).unwrap_or(from.len());
    let padded = end + from.get(end..).map_or(0, |rest| rest.len() - rest.trim_start_matches('=').len());
    let (word, rest) = from.split_at(padded);
    let following = rest.trim_start_matches([' ', '\t']);
    if end > 0 && (following.is_empty() || following.starts_with(',')) {
        (Some(word.to_owned()), rest)
    } else {
        (None, from)
    }
}

/// Skips a quoted string, or else everything before the next comma; returns the rest of the text.
fn skip_malformed(from: &str) -> &str {
    match from.starts_with('"') {
        true => text(from).1,
        false => from.find(',').and_then(|comma| from.get(comma..)).unwrap_or_default(),
    }
}

fn token(text: &str) -> (&str, &str) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !allowed(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// Parses a token or a quoted string, and returns it with the rest of the text.
fn text(from: &str) -> (String, &str) {
    let Some(quoted) = from.strip_prefix('"') else {
        // A token may not contain `:` or `/`, but some registries send URLs without quotes.
        let end = from.find([',', ' ', '\t']).unwrap_or(from.len());
        let (word, rest) = from.split_at(end);
        return (word.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, quoted.get(at + 1..).unwrap_or_default()),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_and_equal_signs_within_quotes_split_nothing() {
        let all = parse(
            r#"Basic realm="a, b", Bearer realm="https://auth.example/token?a=b",service="reg \"x\"", scope="repository:a:pull,push", error=insufficient"#,
        );
        assert_eq!(all.iter().map(|c| c.scheme.as_str()).collect::<Vec<_>>(), ["basic", "bearer"]);
        assert_eq!(all[0].get("realm"), Some("a, b"));
        assert_eq!(all[1].get("realm"), Some("https://auth.example/token?a=b"));
        assert_eq!(all[1].get("service"), Some("reg \"x\""));
        assert_eq!(all[1].get("scope"), Some("repository:a:pull,push"));
        assert_eq!(all[1].get("error"), Some("insufficient"));
    }

    #[test]
    fn broken_headers_end_without_harm() {
        for bad in [
            "",
            ",,,",
            "=",
            "Bearer realm=\"unclosed",
            "Bearer \"x\"",
            "Bearer realm=\\",
            "é",
            "a=b",
            "Bearer a=\u{1f600}",
        ] {
            let _ = parse(bad);
        }
        for junk in ["Foo \"a, b=c\" , ", "x=\"a, b\", ", "\u{fffd}, ", "Digest [x], "] {
            let all = parse(&format!("{junk}Bearer realm=\"r\""));
            assert_eq!(all.last().and_then(|c| c.get("realm")), Some("r"), "{junk}");
        }
        assert_eq!(parse("Negotiate abc== , Basic realm=x").last().and_then(|c| c.get("realm")), Some("x"));
    }

    #[test]
    fn a_token68_is_no_parameter_and_no_scheme() {
        let all = parse("Negotiate a/b+c==, NTLM, Bearer realm = \"r\" , Basic realm=x, charset=\"UTF-8\"");
        let schemes: Vec<&str> = all.iter().map(|c| c.scheme.as_str()).collect();
        assert_eq!(schemes, ["negotiate", "ntlm", "bearer", "basic"]);
        assert_eq!(all[0].token68.as_deref(), Some("a/b+c=="));
        assert!(all[0].parameters.is_empty() && all[1].token68.is_none());
        assert_eq!(all[2].get("realm"), Some("r"));
        assert_eq!(all[3].get("charset"), Some("UTF-8"));
    }
}
