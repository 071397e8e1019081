//! Whom we trust and who we are in TLS: the host's CA bundle, and containers-certs.d(5).
//!
//! Read once for each [`super::Registry`] that speaks HTTPS. A file that cannot be used is an error that names it,
//! never a certificate less.

use crate::error::RegistryError;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sampan_os::small_file;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, parse_pem};

/// Where CA bundles are on the distributions known.
const CA_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Largest file in a directory of certificates.
const FILE_MAX: u64 = 1 << 20;
/// Longest bundle of the host's, in bytes; the usual ones have a quarter of a MiB.
const BUNDLE_MAX: u64 = 16 << 20;
/// Most files there.
const FILES_MAX: usize = 256;

/// What is used for one registry.
#[derive(Default)]
pub(crate) struct Certs {
    /// CAs beside the host's.
    pub(crate) roots: Vec<Certificate<'static>>,
    /// Our own, for that registry alone.
    pub(crate) client: Option<ClientCert>,
}

impl Certs {
    /// What the first of `dirs` that has a directory for one of `names` holds; nothing if none has.
    ///
    /// # Errors
    /// [`RegistryError::Certificate`].
    pub(crate) fn load(dirs: &[PathBuf], names: &[&str]) -> Result<Self, RegistryError> {
        for dir in dirs {
            for name in names {
                let path = dir.join(name);
                // A host has no slash and is not "..": it cannot lead elsewhere.
                match std::fs::read_dir(&path) {
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                    Err(error) => return Err(cannot(name, &path, error.to_string())),
                    Ok(entries) => return Certs::of(name, &path, entries),
                }
            }
        }
        Ok(Certs::default())
    }

    fn of(host: &str, dir: &Path, entries: std::fs::ReadDir) -> Result<Self, RegistryError> {
        let (mut certs, mut pairs) = (Certs::default(), BTreeMap::<PathBuf, (bool, bool)>::new());
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry.map_err(|error| cannot(host, dir, error.to_string()))?.path());
            if files.len() > FILES_MAX {
                return Err(cannot(host, dir, format!("it has more than {FILES_MAX} files")));
            }
        }
        for path in files {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => certs.roots.extend(authorities(host, &path)?),
                Some("cert") => pairs.entry(path.with_extension("")).or_default().0 = true,
                Some("key") => pairs.entry(path.with_extension("")).or_default().1 = true,
                _ => {}
            }
        }
        for (stem, (has_cert, has_key)) in pairs {
            let (cert, key) = (with(&stem, ".cert"), with(&stem, ".key"));
            if !has_cert {
                return Err(cannot(host, &key, format!("{} is missing", cert.display())));
            }
            if !has_key {
                let why = format!("{} is missing; a CA's certificate ends in .crt", key.display());
                return Err(cannot(host, &cert, why));
            }
            match certs.client {
                None => certs.client = Some(client(host, &cert, &key)?),
                Some(_) => log::warn!("{} is not used: there is another client certificate", cert.display()),
            }
        }
        Ok(certs)
    }
}

/// The certificates of the host's bundle.
pub(crate) fn of_host() -> Vec<Certificate<'static>> {
    let named = std::env::var("SSL_CERT_FILE").ok();
    let whole = |path: &str| {
        let file = small_file::open(path.as_ref()).ok()?;
        small_file::read(file, BUNDLE_MAX).ok().filter(|bytes| bytes.len() as u64 <= BUNDLE_MAX)
    };
    let bundle = named.iter().map(String::as_str).chain(CA_BUNDLES).find_map(whole);
    certificates(&bundle.unwrap_or_default())
}

fn certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let certificates = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    certificates.collect()
}

fn authorities(host: &str, path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let found = certificates(&read(host, path)?);
    if found.is_empty() {
        return Err(cannot(host, path, "it holds no certificate in PEM form".to_owned()));
    }
    let mut store = RootCertStore::empty();
    for certificate in &found {
        store.add(CertificateDer::from(certificate.der())).map_err(|e| cannot(host, path, e.to_string()))?;
    }
    Ok(found)
}

fn client(host: &str, cert: &Path, key: &Path) -> Result<ClientCert, RegistryError> {
    let chain = certificates(&read(host, cert)?);
    if chain.is_empty() {
        return Err(cannot(host, cert, "it holds no certificate in PEM form".to_owned()));
    }
    let pem = read(host, key)?;
    let no_key = |error: &dyn std::fmt::Display| {
        cannot(
            host,
            key,
            format!("it holds no private key that can be read (an encrypted one cannot): {error}"),
        )
    };
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| no_key(&e))?;
    // ureq takes for granted that certificate and key fit.
    let ders = chain.iter().map(|c| CertificateDer::from(c.der()).into_owned()).collect();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| cannot(host, cert, e.to_string()))?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(ders, der)
        .map_err(|e| cannot(host, cert, format!("it does not go with {}: {e}", key.display())))?;
    Ok(ClientCert::new_with_certs(&chain, PrivateKey::from_pem(&pem).map_err(|e| no_key(&e))?))
}

fn read(host: &str, path: &Path) -> Result<Vec<u8>, RegistryError> {
    let whole = || {
        // Not a FIFO that nobody writes to.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > FILE_MAX {
            true => Err(io::Error::other("it has more than 1 MiB")),
            false => Ok(bytes),
        }
    };
    whole().map_err(|error| cannot(host, path, error.to_string()))
}

fn with(stem: &Path, extension: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(extension);
    path.into()
}

fn cannot(host: &str, path: &Path, why: String) -> RegistryError {
    RegistryError::Certificate { path: path.to_owned(), host: host.to_owned(), why }
}
