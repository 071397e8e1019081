//! Certificates for TLS: the host's CA bundle, and the CAs and client certificates of containers-certs.d(5).
//!
//! `agents` reads them once for each registry that speaks HTTPS. A file in certs.d that cannot be used is never
//! skipped: it is an error, which names the file.

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

/// Paths of the CA bundle on common distributions. The first bundle that can be read is used.
const CA_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Largest file in a certs.d directory, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Largest CA bundle of the host, in bytes. The usual bundles have a quarter of a MiB.
const BUNDLE_MAX: u64 = 16 << 20;
/// Most files in a certs.d directory.
const FILES_MAX: usize = 256;

/// The certificates in certs.d for one registry.
#[derive(Default)]
pub(crate) struct Certs {
    /// CAs in addition to those of the host.
    pub(crate) roots: Vec<Certificate<'static>>,
    /// The client certificate for this registry; no other host gets it.
    pub(crate) client: Option<ClientCert>,
}

impl Certs {
    /// Reads the first directory `DIR/NAME` that exists, for the `dirs` and `names` in order; empty if none exists.
    ///
    /// # Errors
    /// [`RegistryError::Certificate`] if a file in it cannot be read or used.
    pub(crate) fn load(dirs: &[PathBuf], names: &[&str]) -> Result<Self, RegistryError> {
        for dir in dirs {
            for name in names {
                let path = dir.join(name);
                // A host name contains no slash and is not "..", so `path` stays inside `dir`.
                match std::fs::read_dir(&path) {
                    Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                    Err(error) => return Err(certificate_error(name, &path, error.to_string())),
                    Ok(entries) => return Certs::read_dir(name, &path, entries),
                }
            }
        }
        Ok(Certs::default())
    }

    fn read_dir(host: &str, dir: &Path, entries: std::fs::ReadDir) -> Result<Self, RegistryError> {
        let (mut certs, mut pairs) = (Certs::default(), BTreeMap::<PathBuf, (bool, bool)>::new());
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry.map_err(|error| certificate_error(host, dir, error.to_string()))?.path());
            if files.len() > FILES_MAX {
                return Err(certificate_error(host, dir, format!("it has more than {FILES_MAX} files")));
            }
        }
        for path in files {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => certs.roots.extend(read_authorities(host, &path)?),
                Some("cert") => pairs.entry(path.with_extension("")).or_default().0 = true,
                Some("key") => pairs.entry(path.with_extension("")).or_default().1 = true,
                _ => {}
            }
        }
        for (stem, (has_cert, has_key)) in pairs {
            let (cert, key) = (with_suffix(&stem, ".cert"), with_suffix(&stem, ".key"));
            if !has_cert {
                return Err(certificate_error(host, &key, format!("{} is missing", cert.display())));
            }
            if !has_key {
                let why = format!("{} is missing; a CA's certificate ends in .crt", key.display());
                return Err(certificate_error(host, &cert, why));
            }
            match certs.client {
                None => certs.client = Some(read_client(host, &cert, &key)?),
                Some(_) => log::warn!(
                    "client certificate {} is ignored: {} has another one, and only one can be used",
                    cert.display(),
                    dir.display()
                ),
            }
        }
        Ok(certs)
    }
}

/// The CA certificates of the host: from the file in `SSL_CERT_FILE`, otherwise from the distribution's bundle.
pub(crate) fn of_host() -> Vec<Certificate<'static>> {
    let configured = std::env::var("SSL_CERT_FILE").ok();
    let read_bundle = |path: &str| {
        let file = small_file::open(path.as_ref()).ok()?;
        small_file::read(file, BUNDLE_MAX).ok().filter(|bytes| bytes.len() as u64 <= BUNDLE_MAX)
    };
    let bundle = configured.iter().map(String::as_str).chain(CA_BUNDLES).find_map(read_bundle);
    parse_certificates(&bundle.unwrap_or_default())
}

fn parse_certificates(pem: &[u8]) -> Vec<Certificate<'static>> {
    let certificates = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    certificates.collect()
}

fn read_authorities(host: &str, path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let found = parse_certificates(&read(host, path)?);
    if found.is_empty() {
        return Err(certificate_error(host, path, "it holds no certificate in PEM form".to_owned()));
    }
    let mut store = RootCertStore::empty();
    for certificate in &found {
        store
            .add(CertificateDer::from(certificate.der()))
            .map_err(|e| certificate_error(host, path, e.to_string()))?;
    }
    Ok(found)
}

fn read_client(host: &str, cert: &Path, key: &Path) -> Result<ClientCert, RegistryError> {
    let chain = parse_certificates(&read(host, cert)?);
    if chain.is_empty() {
        return Err(certificate_error(host, cert, "it holds no certificate in PEM form".to_owned()));
    }
    let pem = read(host, key)?;
    let no_key = |error: &dyn std::fmt::Display| {
        let why =
            format!("it holds no private key that can be read (encrypted keys are not supported): {error}");
        certificate_error(host, key, why)
    };
    let der = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| no_key(&e))?;
    // ureq does not check that the certificate and the key belong together, so check that here.
    let ders = chain.iter().map(|c| CertificateDer::from(c.der()).into_owned()).collect();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| certificate_error(host, cert, e.to_string()))?
        .with_root_certificates(RootCertStore::empty())
        .with_client_auth_cert(ders, der)
        .map_err(|e| {
            let why = format!("it does not belong to the key {}: {e}", key.display());
            certificate_error(host, cert, why)
        })?;
    Ok(ClientCert::new_with_certs(&chain, PrivateKey::from_pem(&pem).map_err(|e| no_key(&e))?))
}

fn read(host: &str, path: &Path) -> Result<Vec<u8>, RegistryError> {
    let read_file = || {
        // Opening a FIFO without a writer would block forever.
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > FILE_MAX {
            true => Err(io::Error::other("it has more than 1 MiB")),
            false => Ok(bytes),
        }
    };
    read_file().map_err(|error| certificate_error(host, path, error.to_string()))
}

fn with_suffix(stem: &Path, extension: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(extension);
    path.into()
}

fn certificate_error(host: &str, path: &Path, why: String) -> RegistryError {
    RegistryError::Certificate { path: path.to_owned(), host: host.to_owned(), why }
}
