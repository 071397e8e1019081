//! The faults that a replication must survive, and those that end an artifact at once, as a table of rules.
//!
//! The survivable ones are all those that stopped other tools (a cut connection to either side, 429 and 503 on each
//! kind of request, 500 on a manifest), and those that a registry behind a gateway shows besides. Each case has an
//! image of [`LAYERS`] layers that do not compress.

use super::fault::{Fault, Reply, Rule};
use super::pair::Pair;
use super::recorder::Recorder;
use crate::registry::{Image, Layer, Packing};
use sampan_ipc::replication::ErrorClass;

/// Number of layers of the image.
pub const LAYERS: usize = 3;
/// Size of a layer that is cut.
const LARGE: usize = 10_000_000;
/// Size of a layer whose requests are answered otherwise.
const SMALL: usize = 100_000;
/// Where a body is cut.
const CUT: u64 = 5_000_000;
/// Seconds in `Retry-After`.
const LATER: u32 = 1;

const GET_MANIFEST: &str = "^GET .*/manifests/";
const HEAD_MANIFEST: &str = "^HEAD .*/manifests/";
const GET_BLOB: &str = "^GET .*/blobs/sha256:";
const HEAD_BLOB: &str = "^HEAD .*/blobs/sha256:";
const POST: &str = "^POST .*/blobs/uploads/";
const PATCH: &str = "^PATCH .*/blobs/uploads/";
const PUT_BLOB: &str = "^PUT .*/blobs/uploads/";
const PUT_MANIFEST: &str = "^PUT .*/manifests/";

/// The requests of a copy: name, side, pattern of the line, size of the layers. A layer of one chunk has no PATCH.
pub const REQUESTS: [(&str, Place, &str, usize); 10] = [
    ("HEAD of the manifest at the source", Place::Source, HEAD_MANIFEST, SMALL),
    ("GET of the manifest at the source", Place::Source, GET_MANIFEST, SMALL),
    ("GET of a blob at the source", Place::Source, GET_BLOB, SMALL),
    ("HEAD of the manifest at the destination", Place::Destination, HEAD_MANIFEST, SMALL),
    ("HEAD of a blob", Place::Destination, HEAD_BLOB, SMALL),
    ("POST", Place::Destination, POST, SMALL),
    ("PATCH", Place::Destination, PATCH, LARGE),
    ("PUT of a whole blob", Place::Destination, PUT_BLOB, SMALL),
    ("the closing PUT", Place::Destination, PUT_BLOB, LARGE),
    ("PUT of the manifest", Place::Destination, PUT_MANIFEST, SMALL),
];

/// The side of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Between the engine and the source.
    Source,
    /// Between the engine and the destination.
    Destination,
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Case {
    /// What happens.
    pub name: String,
    /// Where it happens.
    pub place: Place,
    /// The rules that make it happen; the first ones have priority.
    pub rules: Vec<Rule>,
    /// Size of a layer of the image that is copied.
    pub layer_bytes: usize,
    /// Most layers whose bytes may be sent to the destination a second time.
    pub resent_layers_max: u64,
    /// The class of the error that the artifact ends with; `None` if it must arrive.
    pub error: Option<ErrorClass>,
}

impl Case {
    fn survived(place: Place, name: impl Into<String>, rules: Vec<Rule>, resent_layers_max: u64) -> Self {
        Case { name: name.into(), place, rules, layer_bytes: LARGE, resent_layers_max, error: None }
    }

    fn fails(place: Place, name: &str, pattern: &str, fault: Fault, error: ErrorClass) -> Self {
        let rules = vec![Rule::on(pattern, fault).times(usize::MAX)];
        let mut case = Case::survived(place, name, rules, LAYERS as u64);
        (case.layer_bytes, case.error) = (SMALL, Some(error));
        case
    }

    /// The image that is copied; `nth` makes its layers differ from those of other images.
    pub fn image(&self, nth: usize) -> Image {
        let layer = |layer| Layer::large(&format!("{nth}-{layer}"), self.layer_bytes, Packing::Plain);
        Image::of(&(0..LAYERS).map(layer).collect::<Vec<_>>(), "amd64")
    }

    /// The recorder where the fault happens.
    pub fn recorder<'a>(&self, pair: &'a Pair) -> &'a Recorder {
        match self.place {
            Place::Source => &pair.source.recorder,
            Place::Destination => &pair.destination.recorder,
        }
    }

    /// Adds the rules to the recorder of their side.
    pub fn inject(&self, pair: &Pair) {
        for rule in &self.rules {
            self.recorder(pair).inject(rule.clone());
        }
    }
}

/// Answers and losses in place of one request of this kind, each of which a replication survives.
pub fn survived_at(nth: usize) -> Vec<Case> {
    let (what, place, pattern, layer_bytes) = REQUESTS[nth];
    // A registry that answers in place of a PATCH may have forgotten the session; the blob begins anew.
    let resent = u64::from(pattern == PATCH || pattern == PUT_BLOB);
    let case = |(fault, rule)| {
        let rules = vec![Rule::on(pattern, rule)];
        let mut case = Case::survived(place, format!("{fault} on {what}"), rules, resent);
        case.layer_bytes = layer_bytes;
        case
    };
    let faults = [
        ("429 with Retry-After", Fault::Answer(Reply::status(429).retry_after(LATER))),
        ("429 without Retry-After", Fault::Answer(Reply::status(429))),
        ("503 with Retry-After", Fault::Answer(Reply::status(503).retry_after(LATER))),
        ("503 without Retry-After", Fault::Answer(Reply::status(503))),
        ("500", Fault::Answer(Reply::status(500))),
        ("504 from a gateway that has lost patience", Fault::Replace(Reply::status(504))),
        ("a lost answer", Fault::LoseAnswer),
        ("a connection that is reset", Fault::Refuse),
    ];
    faults.into_iter().map(case).collect()
}

/// Faults in the middle of a body, and sessions that are lost, each of which a replication survives.
pub fn survived_in_bodies() -> Vec<Case> {
    [source_bodies(), destination_bodies()].concat()
}

fn source_bodies() -> Vec<Case> {
    let case = |name: &str, rules: Vec<Rule>, resent| Case::survived(Place::Source, name, rules, resent);
    let cut = || Rule::on(GET_BLOB, Fault::CutAnswer(CUT));
    vec![
        case("the source cuts a blob", vec![cut()], 0),
        case("the source cuts blobs four times", vec![cut().times(4)], 0),
        case(
            "the source cuts a blob, and ignores the range of the next request",
            vec![cut(), Rule::on(GET_BLOB, Fault::StripHeader("range")).times(usize::MAX)],
            0,
        ),
        case("the source stalls in a blob", vec![Rule::on(GET_BLOB, Fault::StallAnswer(CUT))], 0),
        case("the source cuts the manifest", vec![Rule::on(GET_MANIFEST, Fault::CutAnswer(100))], 0),
    ]
}

fn destination_bodies() -> Vec<Case> {
    let case = |name: &str, pattern: &str, fault: Fault, resent| {
        Case::survived(Place::Destination, name, vec![Rule::on(pattern, fault)], resent)
    };
    vec![
        case("the destination cuts a PATCH", PATCH, Fault::CutRequest(CUT), 1),
        case("the destination stalls in a PATCH", PATCH, Fault::StallRequest(CUT), 1),
        case(
            "429 in the middle of a PATCH",
            PATCH,
            Fault::AnswerAt(CUT, Reply::status(429).retry_after(LATER)),
            1,
        ),
        case("404 on a PATCH: the session is lost", PATCH, Fault::Answer(Reply::status(404)), 1),
        case("404 on a PUT: the session is lost", PUT_BLOB, Fault::Answer(Reply::status(404)), 1),
        case("416 on a PATCH", PATCH, Fault::Answer(Reply::status(416).code("BLOB_UPLOAD_INVALID")), 1),
    ]
}

/// A refusal of credentials that were accepted before: the client authenticates again, once.
pub fn survived_unauthorized() -> Vec<Case> {
    let unauthorized = || Reply::status(401).with("WWW-Authenticate", "Basic realm=\"a test\"");
    let case = |name: &str, pattern: &str, fault, resent| {
        Case::survived(Place::Destination, name, vec![Rule::on(pattern, fault)], resent)
    };
    vec![
        case("401 in the middle of a PATCH", PATCH, Fault::AnswerAt(CUT, unauthorized()), 1),
        case("401 on a POST", POST, Fault::Answer(unauthorized()), 0),
    ]
}

/// The faults that end an artifact without another attempt. They happen to all requests that match.
pub fn fatal() -> Vec<Case> {
    use ErrorClass::{Corrupt, Denied, NotFound, Refused};
    let answer = |status: u16, code| Fault::Answer(Reply::status(status).code(code));
    let unauthorized = Fault::Answer(Reply::status(401).with("WWW-Authenticate", "Basic realm=\"a test\""));
    let (source, destination) = (Place::Source, Place::Destination);
    vec![
        Case::fails(source, "404 at the source", "/manifests/", answer(404, "MANIFEST_UNKNOWN"), NotFound),
        Case::fails(
            source,
            "a blob that is not at the source",
            GET_BLOB,
            answer(404, "BLOB_UNKNOWN"),
            NotFound,
        ),
        Case::fails(source, "a wrong bit", GET_BLOB, Fault::Corrupt(1000), Corrupt),
        Case::fails(source, "403 at the source", "/manifests/", answer(403, "DENIED"), Denied),
        Case::fails(destination, "403 on a POST", POST, answer(403, "DENIED"), Denied),
        Case::fails(destination, "401 on each POST", POST, unauthorized, Denied),
        Case::fails(
            destination,
            "400 on the manifest",
            PUT_MANIFEST,
            answer(400, "MANIFEST_INVALID"),
            Refused,
        ),
        Case::fails(destination, "405 on the manifest", PUT_MANIFEST, answer(405, "UNSUPPORTED"), Refused),
        Case::fails(destination, "413 on a PUT", PUT_BLOB, answer(413, "SIZE_INVALID"), Refused),
    ]
}
