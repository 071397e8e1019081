use super::*;
use crate::origin;
use sampan_ipc::credentials::Credential;
use sampan_registry::credentials::Credentials;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A registry on loopback that serves until the test ends. It answers each path with a document, and, if `token`
/// is set, only with this token, which it hands out for the password `u:p`.
fn registry(documents: Vec<(String, &'static str, String)>, token: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = listener.local_addr().expect("an address").to_string();
    let own = host.clone();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            answer(stream, &own, &documents, token);
        }
    });
    host
}

fn answer(
    mut stream: TcpStream,
    host: &str,
    documents: &[(String, &'static str, String)],
    token: Option<&str>,
) {
    let lines = BufReader::new(stream.try_clone().expect("a copy")).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let has = |line: &str| head.iter().any(|found| found.eq_ignore_ascii_case(line));
    let is_allowed = token.is_none_or(|token| has(&format!("authorization: Bearer {token}")));
    let found = documents.iter().find(|(of, ..)| of == path);
    let (status, headers, body) = match found {
        _ if path.starts_with("/token") => match has("authorization: Basic dTpw") {
            true => ("200 OK", String::new(), format!(r#"{{"token":"{}"}}"#, token.unwrap_or_default())),
            false => ("401 Unauthorized", String::new(), String::new()),
        },
        _ if !is_allowed => {
            let realm = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"\r\n");
            ("401 Unauthorized", realm, String::new())
        }
        Some((_, kind, body)) => ("200 OK", format!("Content-Type: {kind}\r\n"), body.clone()),
        None => ("404 Not Found", String::new(), String::new()),
    };
    let length = body.len();
    let _ = write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

fn manifest(config: char, layers: &str) -> (String, String) {
    let item =
        |c: char| format!(r#"{{"mediaType":"m","size":1,"digest":"sha256:{}"}}"#, c.to_string().repeat(64));
    let layers: Vec<String> = layers.chars().map(item).collect();
    let body = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
        item(config),
        layers.join(",")
    );
    (Digest::of(body.as_bytes()).to_string(), body)
}

/// An index with an image for two platforms, which share the layer `c`, and the documents of both.
fn documents() -> Vec<(String, &'static str, String)> {
    let (amd64, arm64) = (manifest('a', "bc"), manifest('d', "ce"));
    let item = |digest: &str, arch: &str| {
        format!(
            r#"{{"mediaType":"{MANIFEST}","size":1,"digest":"{digest}","platform":{{"os":"linux","architecture":"{arch}"}}}}"#
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{},{}]}}"#,
        item(&amd64.0, "amd64"),
        item(&arm64.0, "arm64")
    );
    let path = |target: &str| format!("/v2/team/app/manifests/{target}");
    vec![
        (path("1.0"), INDEX, index),
        (path(&amd64.0), MANIFEST, amd64.1),
        (path(&arm64.0), MANIFEST, arm64.1),
    ]
}

fn request(host: &str, rest: &str) -> PreheatRequest {
    let body = format!(r#"{{"type":"image","url":"http://{host}/v2/team/app/manifests/1.0"{rest}}}"#);
    PreheatRequest::parse(body.as_bytes()).expect("good")
}

fn run(request: &PreheatRequest, access: &Access) -> Result<ImageBlobs, String> {
    resolve(request, access, &Cancel::default()).map_err(|error| sampan_ipc::report::chain(&error))
}

fn blobs(host: &str, digits: &str) -> Vec<String> {
    let blob = |c: char| format!("http://{host}/v2/team/app/blobs/sha256:{}", c.to_string().repeat(64));
    digits.chars().map(blob).collect()
}

#[test]
fn an_index_gives_the_blobs_of_all_or_of_one_platform() {
    let host = registry(documents(), None);
    let all = run(&request(&host, ""), &Access::default()).expect("resolved");
    assert_eq!(
        all,
        ImageBlobs { urls: blobs(&host, "abcde"), headers: Headers::default(), is_own_token: false }
    );
    let rest = r#","platform":"linux/arm64","headers":{"X-Of":"team"}"#;
    let one = run(&request(&host, rest), &Access::default()).expect("resolved");
    let headers = Headers::new(vec![("X-Of".to_owned(), "team".to_owned())]);
    assert_eq!(one, ImageBlobs { urls: blobs(&host, "cde"), headers, is_own_token: false });
}

#[test]
fn the_blobs_get_the_token_of_the_operators_credential() {
    let host = registry(documents(), Some("secret"));
    let credential = Credential {
        registry: host.clone(),
        username: "u".to_owned(),
        password: "p".to_owned(),
        ..Credential::default()
    };
    let access = Access { credentials: Credentials::only(credential), ..Access::default() };
    let resolved = run(&request(&host, ""), &access).expect("resolved");
    let header = ("Authorization".to_owned(), "Bearer secret".to_owned());
    assert_eq!((resolved.headers.as_slice(), resolved.is_own_token), (&[header][..], true));
    assert_eq!(resolved.urls.len(), 5);
    let error = run(&request(&host, ""), &Access::default()).expect_err("denied");
    assert!(error.contains("denies access"), "{error}");
}

#[test]
fn a_given_header_is_used_as_it_is() {
    let host = registry(documents(), Some("secret"));
    let with =
        |token: &str| request(&host, &format!(r#","headers":{{"authorization":"Bearer {token}","X":"y"}}"#));
    let resolved = run(&with("secret"), &Access::default()).expect("resolved");
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(*resolved.headers, [pair("X", "y"), pair("Authorization", "Bearer secret")]);
    assert!(!resolved.is_own_token);
    let error = run(&with("wrong"), &Access::default()).expect_err("denied");
    assert!(error.contains("denies access") && !error.contains("wrong"), "{error}");
}

#[test]
fn an_image_that_is_none_fails_with_its_reason() {
    let path = "/v2/team/app/manifests/1.0".to_owned();
    for (body, part) in [
        ("{}".to_owned(), "neither an index nor a manifest"),
        (r#"{"manifests":[]}"#.to_owned(), "no blobs"),
        ("<html>".to_owned(), "cannot read the manifest"),
    ] {
        let host = registry(vec![(path.clone(), "application/json", body)], None);
        let error = run(&request(&host, ""), &Access::default()).expect_err("no image");
        assert!(error.contains(part), "{error}");
    }
    let error = run(&request(&registry(Vec::new(), None), ""), &Access::default()).expect_err("no image");
    assert!(error.contains("is not in registry"), "{error}");
}

#[test]
fn a_registry_that_is_not_public_must_be_allowed() {
    let host = registry(documents(), None);
    let filtered = |allowed: &[&str]| {
        let allowed = allowed.iter().map(|text| origin::parse_allowed(text).expect("good")).collect();
        let access = Access { addresses: origin::address_filter(allowed), ..Access::default() };
        run(&request(&host, ""), &access)
    };
    let error = filtered(&[]).expect_err("refused");
    assert!(error.contains("--allow-origin 127.0.0.1"), "{error}");
    assert_eq!(filtered(&["127.0.0.0/8"]).expect("resolved").urls.len(), 5);
}

#[test]
fn indexes_inside_each_other_end() {
    let (mut target, mut found) = ("1.0".to_owned(), Vec::new());
    let mut bodies = vec![manifest('a', "b").1];
    for _ in 0..3 {
        let inner = Digest::of(bodies.last().expect("one").as_bytes());
        bodies.push(format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{inner}","size":1}}]}}"#));
    }
    for body in bodies.into_iter().rev() {
        found.push((format!("/v2/team/app/manifests/{target}"), "application/json", body));
        if let Some(inner) = found.last().and_then(|(.., body)| body.split("\"digest\":\"").nth(1)) {
            target = inner.split('"').next().expect("a digest").to_owned();
        }
    }
    let error = run(&request(&registry(found, None), ""), &Access::default()).expect_err("too deep");
    assert!(error.contains("too many indexes"), "{error}");
}

#[test]
fn each_request_ends_with_one_message() {
    // A registry that accepts connections and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = silent.local_addr().expect("an address").to_string();
    let (sender, answers) = mpsc::channel();
    let mut resolver = Resolver::new(Access::default(), move |answer| {
        let _ = sender.send(answer);
    });
    resolver.start(7, request(&host, ""));
    let (_connection, _) = silent.accept().expect("a request");
    resolver.cancel(7);
    let answer = answers.recv().expect("an answer");
    assert_eq!((answer.run, answer.result), (7, Err("cancelled".to_owned())));
    resolver.on_resolution(7);
    assert!(resolver.running.is_empty());
    resolver.start(8, request(&registry(documents(), None), ""));
    let answer = answers.recv().expect("an answer");
    assert_eq!((answer.run, answer.result.map(|resolved| resolved.urls.len())), (8, Ok(5)));
}
