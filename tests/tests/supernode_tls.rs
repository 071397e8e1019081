//! A supernode that speaks TLS on both ports: what it sends, whom it refuses, and a cluster.

use http::Method;
use sampan_supernode::cluster::Cluster;
use sampan_supernode::task_id::TaskId;
use sampan_tests::http_client::HttpClient;
use sampan_tests::origin_server::Origin;
use sampan_tests::own_wire::OwnClient;
use sampan_tests::supernode::{Supernode, address};
use sampan_tests::tls::{openssl, with_new_key};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};

const MIB: usize = 1 << 20;

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn authority(dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
    with_new_key(dir, stem, &["-x509", "-days", "2", "-subj", &format!("/CN={stem}")])
}

/// A certificate for the supernodes 1 and 2 and for clients, signed by `ca`, and its key.
fn signed(dir: &Path, stem: &str, ca: &(PathBuf, PathBuf)) -> (PathBuf, PathBuf) {
    let (request, key) = with_new_key(dir, stem, &["-subj", &format!("/CN={stem}")]);
    let (cert, more) = (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.ext")));
    let names = format!("subjectAltName=IP:{},IP:{}\n", address(1), address(2));
    let usage = "extendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n";
    fs::write(&more, names + usage).expect("written");
    let [request, ca, ca_key, out, more] = [&request, &ca.0, &ca.1, &cert, &more].map(|path| name(path));
    openssl(&[
        "x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-out", &out,
        "-extfile", &more,
    ]);
    (cert, key)
}

/// A directory like /etc/containers/certs.d that trusts `ca` for both supernodes, and shows `client` to them.
fn certs_dir(dir: &Path, stem: &str, ca: &Path, client: Option<&(PathBuf, PathBuf)>) -> PathBuf {
    let certs = dir.join(stem);
    for host in [address(1), address(2)].map(|ip| ip.to_string()) {
        fs::create_dir_all(certs.join(&host)).expect("a directory");
        fs::copy(ca, certs.join(&host).join("ca.crt")).expect("copied");
        if let Some((cert, key)) = client {
            fs::copy(cert, certs.join(&host).join("client.cert")).expect("copied");
            fs::copy(key, certs.join(&host).join("client.key")).expect("copied");
        }
    }
    certs
}

/// Starts supernode `number` with TLS and waits until `client` is answered.
fn start(number: u8, args: &[&str], certs: &Path) -> (Supernode, OwnClient) {
    let mut supernode = Supernode::new(number, args);
    supernode.spawn();
    let client = OwnClient::new(supernode.control(), supernode.download()).with_tls(certs);
    let ping = || client.control(&Method::GET, "/_ping", b"").is_ok_and(|told| told.status == 200);
    supernode.wait_until("the supernode", ping);
    (supernode, client)
}

#[test]
fn large_and_small_ranges_arrive_whole_over_tls() {
    let dir = tempfile::tempdir().expect("a directory");
    let ca = authority(dir.path(), "ca");
    let server = signed(dir.path(), "server", &ca);
    let certs = certs_dir(dir.path(), "certs.d", &ca.0, None);
    let (cert, key) = (name(&server.0), name(&server.1));
    let (supernode, client) = start(1, &["--tls-cert", &cert, "--tls-key", &key], &certs);
    let (origin, content) = Origin::with_file(64 * MIB);
    assert!(client.fetch(&origin.url("/file")) == content);
    let task = client.register(&json!({ "url": origin.url("/file") }));
    let last = content.len() - 1;
    for (from, to) in
        [(0, 0), (1, 16 << 10), (3, 40 * MIB), (4 * MIB - 6, 4 * MIB - 4), (5, last), (last, last)]
    {
        let part = client.content(&task, Some(&format!("bytes={from}-{to}")));
        assert!(part.status == 206 && part.body == content[from..=to], "{from}-{to}: {}", part.status);
    }
    // A wrapped piece has bytes that are not in the file.
    let wrapped =
        client.download(&format!("/download/{}/{}", &task.id[..3], task.id), Some("bytes=0-4194303"));
    let wrapped = wrapped.expect("an answer").body;
    assert_eq!(
        (wrapped.len(), &wrapped[..4], wrapped[4 * MIB - 1]),
        (4 * MIB, &[4, 0x3f, 0xff, 0xfb][..], 0x7f)
    );
    assert!(wrapped[4..4 * MIB - 1] == content[..4 * MIB - 5]);
    // Readers at one time, each of which leaves before the end or reads all.
    std::thread::scope(|scope| {
        for nth in 0..8 {
            let (client, task, content) = (&client, &task, &content);
            scope.spawn(move || {
                let (from, to) = (nth * 7 * MIB + nth, (nth + 1) * 8 * MIB - 1);
                let part = client.content(task, Some(&format!("bytes={from}-{to}")));
                assert!(part.body == content[from..=to], "reader {nth}");
            });
        }
    });
    for port in [supernode.control(), supernode.download()] {
        let plain = HttpClient::from(address(11), port).get("/_ping");
        assert!(plain.is_err(), "{plain:?}");
    }
    assert_eq!(client.control(&Method::GET, "/_ping", b"").expect("an answer").status, 200);
}

#[test]
fn a_cluster_over_tls_shares_files_with_client_certificates() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ca, stranger) = (authority(dir.path(), "ca"), authority(dir.path(), "stranger"));
    let node = signed(dir.path(), "node", &ca);
    let foe = signed(dir.path(), "foe", &stranger);
    let certs = certs_dir(dir.path(), "certs.d", &ca.0, Some(&node));
    let members = [1, 2].map(|number| format!("{}:8002", address(number)));
    let [cert, key, authority, certs_name] = [&node.0, &node.1, &ca.0, &certs].map(|path| name(path));
    let mut args = vec!["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &authority];
    args.extend(["--certs-dir", &certs_name, "--supernode", &members[0], "--supernode", &members[1]]);
    let nodes = [start(1, &args, &certs), start(2, &args, &certs)];
    let (origin, content) = Origin::with_file(20 * MIB);
    for (nth, member) in members.iter().enumerate() {
        let cluster = Cluster::new(&members, "");
        let is_owner = |url: &String| cluster.owner(&TaskId::new(url, "", ""), &|_| true) == Some(member);
        let url = (0..).map(|n| origin.url(&format!("/file?n={n}"))).find(is_owner).expect("endless");
        assert!(nodes[1 - nth].1.fetch(&url) == content);
        assert!(nodes[nth].1.fetch(&url) == content);
    }
    assert_eq!(origin.served("/file").bytes, 2 * content.len() as u64);
    let ports = (nodes[0].0.control(), nodes[0].0.download());
    for (stem, client) in [("none.d", None), ("foe.d", Some(&foe))] {
        let stranger = OwnClient::new(ports.0, ports.1).with_tls(&certs_dir(dir.path(), stem, &ca.0, client));
        assert!(stranger.control(&Method::GET, "/_ping", b"").is_err(), "{stem}");
        assert!(stranger.download("/content/x", None).is_err(), "{stem}");
    }
}
