//! The fuzz targets: each parser of untrusted bytes, and the properties that hold for it, apart from never panicking.
//!
//! Called by [`crate::fuzz`]. A target reports whether it accepted its input, so that seeds that have become invalid
//! are noticed.

mod docker;
mod events;
mod http;
mod origin;
mod template;

use crate::random::Random;
use sampan_engine::image::archive::manifest;
use sampan_engine::image::archive::seekable::Seekable;
use sampan_engine::image::archive::source::{Found, Source};
use sampan_http::range::{self, Range};
use sampan_ipc::event::{Event, EventView, Origin};
use sampan_ipc::filter::FilterSet;
use sampan_ipc::frame::{self, Decoder, FRAME_MAX};
use sampan_ipc::record::{self, Scanner, Step};
use sampan_ipc::{container, engine, shim, time, watch};
use sampan_layer::tar::TarReader;
use sampan_oci as oci;
use sampan_oci::platform::Platform;
use sampan_oci::reference::Reference;
use sampan_registry::challenge;
use sampan_registry::config::{Endpoint, Registries, RegistriesError};
use sampan_store::Store;
use sampan_store::partial_blob::Partial;
use std::io::{Seek, Write};
use std::path::Path;

/// A parser under test.
pub struct Target {
    /// Name of the target and of its directory of seeds.
    pub name: &'static str,
    /// Words of the parser's grammar.
    pub words: &'static [&'static str],
    /// Corrects lengths and checksums in an input, so that mutations get past their checks.
    pub repair: fn(&mut [u8]),
    /// Feeds one input to the parser; true if it was accepted. Panics if a property does not hold.
    pub run: fn(&[u8], &mut Random) -> bool,
}

/// Words of requests of docker's clients.
const DOCKER_WORDS: &[&str] = &[
    "GET ",
    "POST ",
    "DELETE ",
    "/v1.41",
    "/v1.",
    "/containers/",
    "/images/",
    "/json",
    "/create",
    "/exec",
    "/attach",
    "?",
    "&",
    "=",
    "%2F",
    "%",
    "filters=",
    "{\"label\":[\"a\"]}",
    "{\"label\":{\"a\":true}}",
    "since=",
    "until=",
    "1795229400.000000001",
    "all=1",
    "\"HostConfig\":{",
    "\"Binds\":[\"/a:/b:ro\"]",
    "\"Mounts\":[{\"Type\":\"bind\"",
    "\"Memory\":",
    "\"Env\":[\"A=b\"]",
    "null",
    "-1",
    "[]",
    "{}",
    "\n",
];

/// All targets.
pub const TARGETS: [Target; 18] = [
    Target { name: "record", words: &["SMPN"], repair: repair_records, run: record },
    Target {
        name: "events_request",
        words: &[
            "since=",
            "until=",
            "filters=",
            "seq:",
            "00000000000000ab:7",
            "{\"type\":[\"",
            "\"]}",
            "{\"event\":{\"",
            "\":true}}",
            "label",
            "image",
            "container",
            "exec_start",
            "daemon",
            "application/json-seq",
            "text/event-stream",
            ";q=0.5",
            "%",
            "&",
            ".",
            ",",
            "\n",
        ],
        repair: leave,
        run: |input, _| events::request(input),
    },
    Target {
        name: "events_object",
        words: &[
            "SMPN",
            "image",
            "container",
            "sha256:",
            "docker.io/library/",
            "imageId",
            "oldName",
            "rename",
        ],
        repair: repair_records,
        run: |input, _| events::describe(input),
    },
    Target { name: "frame", words: &[], repair: repair_frames, run: frame },
    Target {
        name: "filter",
        words: &[
            "type=",
            "event=",
            "container=",
            "image=",
            "label=",
            "name=",
            "id=",
            "daemon=",
            "attr.",
            "=",
            "\n",
            "/",
            ":",
            "@",
        ],
        repair: leave,
        run: filter,
    },
    Target {
        name: "time",
        words: &[
            "now",
            "h",
            "m",
            "s",
            "ms",
            "us",
            "ns",
            "T",
            "Z",
            "+",
            "-",
            ":",
            ".",
            "24",
            "60",
            "9999",
            "000000000",
        ],
        repair: leave,
        run: time,
    },
    Target {
        name: "reference",
        words: &["docker.io/", "library/", ":", "@sha256:", "/", "localhost", "[::1]", "latest", "__", "--"],
        repair: leave,
        run: reference,
    },
    Target {
        name: "http",
        words: &[
            "GET / HTTP/1.1\r\n",
            "POST /a HTTP/1.1\r\n",
            "HEAD ",
            "HTTP/1.0",
            "Content-Length: ",
            "Transfer-Encoding: chunked\r\n",
            "Expect: 100-continue\r\n",
            "Connection: close\r\n",
            "Connection: keep-alive\r\n",
            "\r\n",
            "\n",
            "\r",
            "0\r\n\r\n",
            "3\r\nabc\r\n",
            "ffffffffffffffff\r\n",
            ";x=y",
            "1000",
            ":",
            ",",
        ],
        repair: leave,
        run: http::http,
    },
    Target {
        name: "origin",
        words: &[
            "http://",
            "https://",
            "user:pass@",
            "[::1]",
            ":80",
            "?a=b",
            "#",
            "%40",
            "\nAuthorization: Bearer x",
            "\nRange: bytes=0-1",
            "\nConnection: ",
            "\nX-Token: y",
            "\n",
            ":",
            "@",
            "/",
            "\\",
        ],
        repair: leave,
        run: origin::origin,
    },
    Target { name: "docker", words: DOCKER_WORDS, repair: leave, run: docker::docker },
    Target { name: "template", words: template::WORDS, repair: leave, run: template::template },
    Target { name: "manifest", words: JSON_WORDS, repair: leave, run: manifest },
    Target { name: "config", words: JSON_WORDS, repair: leave, run: config },
    Target {
        name: "challenge",
        words: &[
            "Bearer ",
            "Basic ",
            "realm=",
            "service=",
            "scope=",
            "Negotiate abc==",
            "\"",
            ",",
            "\\",
            "=",
            " ",
        ],
        repair: leave,
        run: challenge,
    },
    Target {
        name: "registries",
        words: &[
            "[[registry]]\n",
            "[[registry.mirror]]\n",
            "[aliases]\n",
            "prefix = '*.",
            "location = 'unix:///",
            "location = '",
            "insecure = true\n",
            "blocked = true\n",
            "mirror-by-digest-only = true\n",
            "pull-from-mirror = 'tag-only'\n",
            "short-name-mode = 'enforcing'\n",
            "unqualified-search-registries = ['",
            "corp.test",
            "[::1]:5000",
            "'\n",
            "/",
            ":",
        ],
        repair: leave,
        run: registries,
    },
    Target {
        name: "archive",
        words: &[
            "manifest.json",
            "index.json",
            "oci-layout",
            "../",
            "layer.tar",
            "\"Layers\"",
            "\"Config\"",
            "null",
        ],
        repair: repair_tar,
        run: archive,
    },
    Target {
        name: "resume",
        words: &[
            "bytes ",
            "bytes=",
            "-",
            "/",
            "*",
            "0",
            "18446744073709551615",
            "\n",
            "\"etag\"",
            "\"synced\"",
            "\\n",
        ],
        repair: leave,
        run: resume,
    },
    Target {
        name: "tar",
        words: &["ustar", "././@LongLink", "30 path=", "GNU.sparse."],
        repair: repair_tar,
        run: tar,
    },
];

const JSON_WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"\"",
    "\"digest\"",
    "\"size\"",
    "\"layers\"",
    "\"config\"",
    "\"manifests\"",
    "\"mediaType\"",
    "\"schemaVersion\"",
    "\"platform\"",
    "\"sha256:",
];

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    const { &TARGETS }.iter().find(|target| target.name == name)
}

fn leave(_: &mut [u8]) {}

/// Bytes of a FIFO: the scanner accounts for every byte, and finds a valid record after them.
fn record(input: &[u8], _: &mut Random) -> bool {
    const LAST: &str = "the good one behind all that";
    let mut bytes = input.to_vec();
    bytes.extend(record::encode(&Event::new("fuzz", "tick", LAST)).expect("small"));
    let mut scanner = Scanner::new(&bytes);
    let (mut good, mut garbage, mut last) = (0, 0, String::new());
    let mut records = 0;
    while let Some(step) = scanner.next() {
        match step {
            Step::Record(record) => {
                good += record::HEADER_LEN + record.body.len();
                records += 1;
                last = record.event.id.to_owned();
                check_record(&record);
            }
            Step::Garbage(bytes) => garbage += bytes,
            Step::Partial => garbage += scanner.skip_partial(),
        }
    }
    assert_eq!(scanner.consumed(), bytes.len());
    assert_eq!(good + garbage, bytes.len());
    assert_eq!(last, LAST);
    records > 1
}

/// Every record that monitord accepts is valid for every client.
fn check_record(record: &record::Record<'_>) {
    let seq = 7u64;
    let mut frame = frame::event_header(record.body.len(), record.crc, seq).to_vec();
    frame.extend_from_slice(record.body);
    frame.extend_from_slice(&seq.to_le_bytes());
    let (body, len) = frame::split(&frame, FRAME_MAX).expect("a good frame").expect("a whole frame");
    assert_eq!(len, frame.len());
    match frame::parse::<watch::Item>(body) {
        Ok(watch::Item::Event(event)) => {
            event.check().expect("an event that keeps the rules");
            assert_eq!((event.seq, event.id.as_str()), (seq, record.event.id));
            assert!(!event.line().contains(char::is_control), "a line that breaks a terminal");
        }
        other => panic!("let in, and not readable: {other:?}"),
    }
    assert_eq!(EventView::of_frame(body).map(|view| view.origin), Some(Origin::Facts));
    check_emitted(record);
}

/// A record of the emit FIFO differs from the one of the monitor FIFO only by its tag.
fn check_emitted(record: &record::Record<'_>) {
    let (seq, rest) = (9u64, &record.body[1..]);
    let frame = [&frame::emitted_header(rest, seq)[..], rest, &seq.to_le_bytes()].concat();
    let (body, len) = frame::split(&frame, FRAME_MAX).expect("a good frame").expect("a whole frame");
    assert_eq!(len, frame.len());
    let Ok(watch::Item::Emitted(event)) = frame::parse::<watch::Item>(body) else {
        panic!("let in, and not readable as emitted: {body:?}")
    };
    assert_eq!((event.seq, event.id.as_str()), (seq, record.event.id));
    let event = Event { origin: Origin::Emit, ..event };
    assert!(event.line().contains("(origin=emit"), "{}", event.line());
    assert_eq!(EventView::of_frame(body), Some(EventView { origin: Origin::Emit, ..record.event }));
}

/// Sets the checksum of each place that looks like a record whose length fits the input.
fn repair_records(input: &mut [u8]) {
    let mut at = 0;
    while let Some(place) = input.get_mut(at..).filter(|rest| rest.len() >= record::HEADER_LEN) {
        let len = usize::from(u16::from_le_bytes([place[6], place[7]]));
        let end = record::HEADER_LEN + len;
        match place.get(record::HEADER_LEN..end) {
            Some(body) if place[..4] == record::MAGIC => {
                let crc = crc32c::crc32c(body);
                place[8..12].copy_from_slice(&crc.to_le_bytes());
                at += end;
            }
            _ => at += 1,
        }
    }
}

/// A stream of frames gives the same frames however it is split, and no decoder of their messages panics.
fn frame(input: &[u8], random: &mut Random) -> bool {
    let whole = frames(input, || usize::MAX);
    let split = frames(input, || 1 + random.below(40));
    assert_eq!(whole, split);
    let mut understood = false;
    for body in &whole.0 {
        understood |= frame::parse::<watch::Item>(body).is_ok()
            | frame::parse::<watch::Opening>(body).is_ok()
            | watch::open_watch(body).is_ok()
            | watch::open::<engine::Request>(body, engine::VERSION).is_ok()
            | frame::parse::<engine::Answer>(body).is_ok()
            | frame::parse::<shim::Setup>(body).is_ok()
            | frame::parse::<shim::ShimRequest>(body).is_ok()
            | frame::parse::<shim::ShimMessage>(body).is_ok()
            | frame::parse::<container::Control>(body).is_ok()
            | frame::parse::<container::AttachMessage>(body).is_ok();
        let _ = EventView::of_frame(body);
    }
    understood
}

/// The frames of a stream that arrives in parts of these sizes, and whether all of it was valid.
fn frames(input: &[u8], mut size: impl FnMut() -> usize) -> (Vec<Vec<u8>>, bool) {
    let (mut decoder, mut bodies) = (Decoder::new(watch::REQUEST_MAX), Vec::new());
    let mut rest = input;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(size().min(rest.len()));
        decoder.push(part);
        rest = behind;
        loop {
            let has_frame = decoder.has_frame();
            match decoder.next_body() {
                Ok(Some(body)) => bodies.push(body.to_vec()),
                Ok(None) if has_frame => panic!("a frame that is there was not given"),
                Ok(None) => break,
                Err(_) => return (bodies, false),
            }
        }
    }
    (bodies, true)
}

/// Sets length and checksum of each frame in turn.
fn repair_frames(input: &mut [u8]) {
    let mut at = 0;
    while let Some(rest) = input.get_mut(at..).filter(|rest| rest.len() > frame::HEADER_LEN) {
        let len = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let len = len.clamp(1, rest.len() - frame::HEADER_LEN);
        let crc = crc32c::crc32c(&rest[frame::HEADER_LEN..frame::HEADER_LEN + len]);
        rest[..4].copy_from_slice(&(len as u32).to_le_bytes());
        rest[4..8].copy_from_slice(&crc.to_le_bytes());
        at += frame::HEADER_LEN + len;
    }
}

/// Filters, one per line: their order makes no difference.
fn filter(input: &[u8], _: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    let mut filters: Vec<String> = text.lines().map(str::to_owned).collect();
    let parsed = FilterSet::parse(&filters);
    filters.reverse();
    let reversed = FilterSet::parse(&filters);
    assert_eq!(parsed.is_ok(), reversed.is_ok());
    let (Ok(parsed), Ok(reversed)) = (parsed, reversed) else { return false };
    assert_eq!(parsed, reversed);
    let event = Event::new("image", "pull: x", "docker.io/library/busybox:1.36@sha256:0123456789abcdef")
        .with("name", "web")
        .with("image", text.chars().take(200).collect::<String>())
        .label("tier", "front");
    let bytes = record::encode(&event).expect("small");
    let view = EventView::of_record(&bytes[record::HEADER_LEN..]).expect("a good body");
    assert_eq!(parsed.matches(&view), reversed.matches(&view));
    true
}

/// A time that was parsed is printed in a form that is parsed to an equal time.
fn time(input: &[u8], _: &mut Random) -> bool {
    let now = 1_700_000_000_123_456_789;
    let Ok(nanos) = time::parse(&String::from_utf8_lossy(input), now) else { return false };
    let printed = time::local(nanos);
    assert_eq!(time::parse(&printed, now), Ok(nanos), "{printed}");
    true
}

/// A reference that was parsed is equal to the one that its full form is parsed to.
fn reference(input: &[u8], _: &mut Random) -> bool {
    let Ok(reference) = Reference::parse(&String::from_utf8_lossy(input)) else { return false };
    assert_eq!(Reference::parse(&reference.to_string()).as_ref(), Ok(&reference));
    // A reference becomes part of a URL and of paths.
    let (name, target) = (reference.name(), reference.target());
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-:/[]".contains(c);
    assert!(name.chars().chain(target.chars()).all(is_plain), "{name} {target}");
    assert!(
        !reference.path().split('/').any(|part| part.is_empty() || part == "." || part == ".."),
        "{name}"
    );
    true
}

/// A parsed index or manifest that is encoded and parsed again is equal.
fn manifest(input: &[u8], _: &mut Random) -> bool {
    let mut accepted = false;
    for content_type in [None, Some(oci::INDEX), Some(oci::MANIFEST), Some("text/html; charset=x")] {
        let Ok(document) = oci::parse_document(input, content_type) else { continue };
        accepted = true;
        let again = match &document {
            oci::Document::Index(index) => {
                let _ = oci::choose(index, &Platform::host());
                serde_json::to_vec(index)
            }
            oci::Document::Manifest(manifest) => {
                assert!(manifest.layers.len() <= oci::LAYERS_MAX);
                let _ = manifest.content_size();
                serde_json::to_vec(manifest)
            }
        };
        let again = oci::parse_document(&again.expect("what was read can be written"), content_type);
        assert_eq!(again.expect("what was written can be read"), document);
    }
    accepted
}

/// A config is accepted only if it has as many diff IDs as the manifest has layers.
fn config(input: &[u8], _: &mut Random) -> bool {
    let layer = oci::Descriptor {
        media_type: oci::LAYER[1].to_owned(),
        digest: oci::digest::Digest::of(b"layer"),
        size: 1,
        platform: None,
        annotations: Default::default(),
    };
    let mut manifest = oci::Manifest {
        schema_version: 2,
        media_type: oci::MANIFEST.to_owned(),
        config: layer.clone(),
        layers: Vec::new(),
    };
    let mut accepted = false;
    for count in 0..4 {
        if let Ok(config) = oci::parse_config(input, &manifest) {
            accepted = true;
            assert_eq!(config.chain_ids().len(), count);
            let _ = (config.created_nanos(), config.platform());
        }
        manifest.layers.push(layer.clone());
    }
    accepted
}

/// The challenges of a header: their names are returned in lower case.
fn challenge(input: &[u8], _: &mut Random) -> bool {
    let challenges = challenge::parse(&String::from_utf8_lossy(input));
    for challenge in &challenges {
        assert!(!challenge.scheme.contains(|c: char| c.is_ascii_uppercase()));
        assert!(
            challenge.parameters.iter().all(|(name, _)| !name.contains(|c: char| c.is_ascii_uppercase()))
        );
        let _ = challenge.get("realm");
        // A challenge has either one word or parameters, and that word may stand in a header.
        let word = challenge.token68.as_deref().unwrap_or("a");
        assert!(!word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic() && b != b',' && b != b'"'));
    }
    challenges.iter().any(|challenge| !challenge.parameters.is_empty())
}

/// registries.conf: an error names the file and a line in it; an accepted file yields candidates that are references.
fn registries(input: &[u8], _: &mut Random) -> bool {
    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let text = String::from_utf8_lossy(input);
    let all = match Registries::parse(&text, Path::new("/fuzz.conf")) {
        Ok(all) => all,
        Err(RegistriesError::Parse { path, line, why }) => {
            assert_eq!(path, Path::new("/fuzz.conf"));
            assert!((1..=text.matches('\n').count() + 1).contains(&line), "line {line}");
            assert!(!why.is_empty());
            return false;
        }
        Err(other) => panic!("{other}"),
    };
    for typed in ["alpine", "a/b:t", "corp.test/team/app:v1", "sub.corp.test:5000/x", "[::1]:5000/x"] {
        let digested = format!("{typed}@{DIGEST}");
        for typed in [typed, digested.as_str()] {
            // For an accepted file, looking up candidates may only return an error, not panic.
            for reference in all.candidates(typed).unwrap_or_default() {
                assert_eq!(reference.digest().is_some(), typed.contains('@'), "{typed} became {reference}");
                check_endpoints(&all.endpoints(&reference).unwrap_or_default());
            }
        }
    }
    all != Registries::default()
}

fn check_endpoints(endpoints: &[Endpoint]) {
    if let Some((home, mirrors)) = endpoints.split_last() {
        assert!(!home.mirror && mirrors.iter().all(|place| place.mirror));
    }
    for place in endpoints {
        let host = if place.socket.is_some() { "localhost" } else { &place.host };
        let name = Reference::parse(&format!("{host}/{}", place.repository)).expect("a reference");
        assert_eq!((name.host(), name.path()), (host, place.repository.as_str()));
    }
}

/// A tar: its reader returns no more content than the input has bytes, whatever the headers claim.
fn tar(input: &[u8], _: &mut Random) -> bool {
    let mut tarball = TarReader::new(input);
    let (mut entries, mut content) = (0, 0);
    while let Ok(Some(_)) = tarball.next_entry() {
        entries += 1;
        let mut part = [0; 1000];
        while let Ok(len @ 1..) = tarball.read_content(&mut part) {
            content += len;
        }
    }
    assert!(content <= input.len(), "{content} bytes of content in {}", input.len());
    entries > 0
}

/// An archive: names stay inside it, layers have no more bytes than the archive, and reading it twice gives equal
/// results.
fn archive(input: &[u8], _: &mut Random) -> bool {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(input).expect("written");
    let look = || -> Option<Vec<(usize, u64)>> {
        (&file).rewind().expect("a file");
        let mut source = Seekable::open(&file).ok().flatten()?;
        let wanted = manifest::Wanted {
            select: None,
            platform: &Platform::of("linux", "amd64", None),
            is_layout: false,
        };
        let offers = manifest::read(&mut source, &wanted).ok()?;
        let mut seen = Vec::new();
        for offer in &offers {
            assert_eq!(offer.layers.len(), offer.parsed.rootfs.diff_ids.len());
            for (name, _) in &offer.layers {
                let Ok(Some(resolved)) = source.resolve(name) else { continue };
                assert!(
                    !resolved.starts_with('/') && resolved.split('/').all(|part| part != ".."),
                    "{resolved}"
                );
                if let Ok(Found::Reader(mut from, size)) = source.layer(&resolved) {
                    let read = std::io::copy(&mut from, &mut std::io::sink()).expect("it is all there");
                    assert!(read == size && read <= input.len() as u64);
                    seen.push((offer.names.len(), read));
                }
            }
        }
        Some(seen)
    };
    let first = look();
    assert_eq!(first, look());
    first.is_some()
}

/// Sets the checksum of each block as if the block were a header.
fn repair_tar(input: &mut [u8]) {
    for block in input.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Where a download continues: lines of offset and size, `Content-Range`, `Range`, and the note that is stored with the
/// bytes.
fn resume(input: &[u8], random: &mut Random) -> bool {
    let text = String::from_utf8_lossy(input);
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (numbers, content_range, wanted, note) = (line(), line(), line(), line());
    let Some((offset, size)) = numbers.split_once(' ') else { return false };
    let (Ok(offset), Ok(size)) = (offset.parse::<u64>(), size.parse::<u64>()) else { return false };
    check_range(Range::parse(wanted, size), size);
    let rest = Range::parse(&format!("bytes={offset}-"), size);
    assert_eq!(rest, if offset < size { Range::Part(offset, size - 1) } else { Range::Outside });
    check_kept(offset.min(random.below(4096) as u64), size, note);
    let is_rest = range::is_rest(content_range, offset, size);
    if is_rest {
        let numbers = content_range.trim().trim_start_matches("bytes ").replace('/', "-");
        let numbers: Vec<u64> = numbers.split('-').map(|number| number.parse().expect("a number")).collect();
        assert_eq!(numbers, [offset, size - 1, size], "{content_range}");
    }
    is_rest
}

fn check_range(range: Range, size: u64) {
    if let Range::Part(first, last) = range {
        assert!(first <= last && last < size, "{range:?} of {size}");
    }
}

/// The kept part of a blob is never longer than the blob, and its validator may stand in a header.
fn check_kept(len: u64, size: u64, note: &str) {
    thread_local! {
        static STORE: (tempfile::TempDir, Store) = {
            let dir = tempfile::tempdir().expect("a directory");
            let store = Store::open(dir.path()).expect("a store");
            (dir, store)
        };
    }
    STORE.with(|(dir, store)| {
        let digest = oci::digest::Digest::of(b"blob");
        let path = dir.path().join("partial").join(format!("sha256-{}", digest.hex()));
        std::fs::write(&path, vec![7; len as usize]).expect("written");
        std::fs::write(path.with_extension("note"), note).expect("written");
        let partial = Partial::open(store, &digest, size).expect("opened");
        assert_eq!(partial.kept(), if len <= size { len } else { 0 });
        let read = std::io::copy(&mut partial.reader().expect("opened"), &mut std::io::sink());
        assert_eq!(read.expect("read"), partial.kept());
        let etag = partial.etag().unwrap_or_default();
        assert!(etag.len() <= 1024 && etag.bytes().all(|b| (b' '..=b'~').contains(&b)), "{etag:?}");
    });
}
