//! What a recorder does to one request instead of forwarding it, and which requests a rule chooses.

use regex_lite::Regex;
use std::fmt;
use std::sync::Arc;

/// An answer that the recorder gives itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Headers besides `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The error code of the body, in the words of the OCI distribution-spec.
    pub code: &'static str,
}

impl Reply {
    /// An answer with this status and the error code that registries usually send with it.
    pub fn status(status: u16) -> Self {
        let code = match status {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "BLOB_UPLOAD_UNKNOWN",
            405 => "UNSUPPORTED",
            429 => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        Reply { status, headers: Vec::new(), code }
    }

    /// Adds a header.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Chooses the error code of the body.
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = code;
        self
    }

    /// Adds `Retry-After`.
    pub fn retry_after(self, seconds: u32) -> Self {
        self.with("Retry-After", &seconds.to_string())
    }

    /// Encodes the answer; without its body for a HEAD request.
    pub(crate) fn encode(&self, method: &str, closes: bool) -> Vec<u8> {
        let body = match self.status {
            204 | 304 => String::new(),
            _ => format!(r#"{{"errors":[{{"code":"{}","message":"refused by the test"}}]}}"#, self.code),
        };
        let mut text = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if closes {
            text.push_str("Connection: close\r\n");
        }
        text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len()));
        if method != "HEAD" {
            text.push_str(&body);
        }
        text.into_bytes()
    }
}

/// A function that a test has run in the middle of a request; whether the request goes on. If not, both connections are
/// reset, as if the client had died of the call.
pub type Call = Arc<dyn Fn() -> bool + Send + Sync>;

/// A moment of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before the request is forwarded.
    Head,
    /// After this number of bytes of its body.
    Body(u64),
    /// When the server has done its work, before the client gets the answer.
    Answer,
}

/// What happens to one request. A number of bytes counts the content of a body, without the framing of chunks.
#[derive(Clone)]
pub enum Fault {
    /// The connection is closed before an answer.
    Refuse,
    /// The request is read to its end but not forwarded; the answer is this.
    Answer(Reply),
    /// After this number of bytes of the request's body, the client gets this answer, and the connection is closed. The
    /// server's connection breaks off.
    AnswerAt(u64, Reply),
    /// The request is forwarded; its answer is replaced, as a gateway does after its time limit.
    Replace(Reply),
    /// The request is forwarded; the connection is reset in place of an answer.
    LoseAnswer,
    /// The request is forwarded without its query, so that a registry takes a mount for an ordinary upload.
    StripQuery,
    /// The request is forwarded without this header, such as `Range`.
    StripHeader(&'static str),
    /// Both connections are reset after this number of bytes of the request's body.
    CutRequest(u64),
    /// The connection is reset after the answer's head and this number of bytes of its body.
    CutAnswer(u64),
    /// After this number of bytes, the request's body is read no further until the client closes.
    StallRequest(u64),
    /// After the answer's head and this number of bytes of its body, nothing is sent until the client closes.
    StallAnswer(u64),
    /// One bit of this byte of the answer's body is wrong.
    Corrupt(u64),
    /// Bodies in both directions pass at this number of bytes per second.
    Slow(u64),
    /// The function is called at this moment.
    Call(Moment, Call),
}

impl Fault {
    /// Whether it happens at a byte of a body.
    fn is_in_body(&self) -> bool {
        matches!(
            self,
            Fault::AnswerAt(..)
                | Fault::CutRequest(_)
                | Fault::CutAnswer(_)
                | Fault::StallRequest(_)
                | Fault::StallAnswer(_)
                | Fault::Corrupt(_)
                | Fault::Call(Moment::Body(_), _)
        )
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refuse => write!(f, "Refuse"),
            Fault::Answer(reply) => write!(f, "Answer({})", reply.status),
            Fault::AnswerAt(at, reply) => write!(f, "AnswerAt({at}, {})", reply.status),
            Fault::Replace(reply) => write!(f, "Replace({})", reply.status),
            Fault::LoseAnswer => write!(f, "LoseAnswer"),
            Fault::StripQuery => write!(f, "StripQuery"),
            Fault::StripHeader(name) => write!(f, "StripHeader({name})"),
            Fault::CutRequest(at) => write!(f, "CutRequest({at})"),
            Fault::CutAnswer(at) => write!(f, "CutAnswer({at})"),
            Fault::StallRequest(at) => write!(f, "StallRequest({at})"),
            Fault::StallAnswer(at) => write!(f, "StallAnswer({at})"),
            Fault::Corrupt(at) => write!(f, "Corrupt({at})"),
            Fault::Slow(rate) => write!(f, "Slow({rate})"),
            Fault::Call(at, _) => write!(f, "Call({at:?})"),
        }
    }
}

/// Which requests a fault happens to.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: Regex,
    nth: usize,
    times: usize,
    /// What happens to them.
    pub fault: Fault,
}

impl Rule {
    /// The first request whose line matches `pattern` has this fault.
    ///
    /// The line is `METHOD /path?query`. The pattern is a regular expression for a part of the line; panics if it is
    /// none.
    pub fn on(pattern: &str, fault: Fault) -> Self {
        Rule { pattern: Regex::new(pattern).expect("a regular expression"), nth: 1, times: 1, fault }
    }

    /// The fault begins with the `nth` request that matches, from 1.
    pub fn nth(mut self, nth: usize) -> Self {
        self.nth = nth;
        self
    }

    /// The fault happens to this number of requests; `usize::MAX` for all of them.
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }
}

/// Rules, and how often each of them has matched.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<(Rule, usize, usize)>,
}

impl Rules {
    /// Adds a rule; earlier rules come first.
    pub fn add(&mut self, rule: Rule) {
        self.rules.push((rule, 0, 0));
    }

    /// Removes all rules.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// Number of faults that are still due, without those of rules for all requests.
    pub fn due(&self) -> usize {
        let finite = self.rules.iter().filter(|(rule, ..)| rule.times != usize::MAX);
        finite.map(|(rule, _, done)| rule.times - done).sum()
    }

    /// The fault of a request, and the number of its rule. A fault in a body must be [claimed](Rules::claim) when the
    /// body gets there, since a body may be too short; other faults count at once.
    pub fn fault_of(&mut self, line: &str) -> Option<(usize, Fault)> {
        let mut chosen = None;
        for (nth, (rule, seen, done)) in self.rules.iter_mut().enumerate() {
            if !rule.pattern.is_match(line) {
                continue;
            }
            *seen += 1;
            if chosen.is_none() && *seen >= rule.nth && *done < rule.times {
                if !rule.fault.is_in_body() {
                    *done = done.saturating_add(1);
                }
                chosen = Some((nth, rule.fault.clone()));
            }
        }
        chosen
    }

    /// Whether the fault of this rule happens to a body that has got there: several bodies may be under way.
    pub fn claim(&mut self, nth: usize) -> bool {
        let Some((rule, _, done)) = self.rules.get_mut(nth) else { return false };
        let is_due = *done < rule.times;
        *done = done.saturating_add(usize::from(is_due));
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_chooses_the_nth_request_and_as_many_as_it_says() {
        let mut rules = Rules::default();
        rules.add(Rule::on("^PATCH .*/uploads/", Fault::LoseAnswer).nth(2).times(2));
        rules.add(Rule::on("^P", Fault::Refuse));
        let mut fault = |line: &str| rules.fault_of(line).map(|(_, fault)| format!("{fault:?}"));
        assert_eq!(fault("GET /v2/"), None);
        assert_eq!(fault("PATCH /v2/a/blobs/uploads/1").as_deref(), Some("Refuse"));
        assert_eq!(fault("PATCH /v2/a/blobs/uploads/1").as_deref(), Some("LoseAnswer"));
        assert_eq!(fault("PATCH /v2/a/blobs/uploads/1").as_deref(), Some("LoseAnswer"));
        assert_eq!(fault("PATCH /v2/a/blobs/uploads/1"), None);
        assert_eq!(rules.due(), 0);
    }

    #[test]
    fn a_fault_in_a_body_happens_to_the_first_that_gets_there() {
        let mut rules = Rules::default();
        rules.add(Rule::on("^GET", Fault::CutAnswer(5)));
        let faults = [(); 3].map(|()| rules.fault_of("GET /v2/"));
        assert!(faults.iter().all(|fault| matches!(fault, Some((0, Fault::CutAnswer(5))))));
        assert_eq!((rules.due(), rules.claim(0), rules.claim(0), rules.due()), (1, true, false, 0));
        assert!(rules.fault_of("GET /v2/").is_none());
    }
}
