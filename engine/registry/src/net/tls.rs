//! TLS to a registry that has certificates in certs.d; accepts a self-signed server certificate that is among them.
//!
//! `openssl req -x509` makes a CA certificate, and many servers use it as their own certificate. Go's tools accept
//! such a certificate if it is in certs.d, but webpki always refuses it. Therefore [`Verifier`] accepts it, and leaves
//! every other decision to webpki. ureq's own TLS connector has no option for a verifier, so [`Tls`] replaces it.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use ureq::Error;
use ureq::tls::{Certificate, ClientCert};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// A connector that adds TLS to a connection, for an agent whose registry has certificates in certs.d.
pub(crate) struct Tls(pub(crate) Arc<ClientConfig>);

impl Tls {
    /// Trusts certificates that `roots` signed, and servers whose certificate is one of `own`.
    ///
    /// `None` if `roots` contains no readable CA certificate, or the client certificate does not belong to its key.
    pub(crate) fn new(
        roots: &[Certificate<'static>],
        own: &[Certificate<'static>],
        client: Option<&ClientCert>,
    ) -> Option<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().map(der));
        let webpki =
            WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(&provider)).build().ok()?;
        let verifier = Verifier { webpki, own: own.iter().map(der).collect() };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let chain = client.certs().iter().map(der).collect();
                let key = PrivateKeyDer::try_from(client.private_key().der().to_vec()).ok()?;
                builder.with_client_auth_cert(chain, key).ok()?
            }
        };
        Some(Tls(Arc::new(config)))
    }
}

/// Converts a certificate from ureq's type to rustls's type.
pub(crate) fn der(certificate: &Certificate<'static>) -> CertificateDer<'static> {
    CertificateDer::from(certificate.der()).into_owned()
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, Secured>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        below: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let Some(below) = below else { return Ok(None) };
        if !details.needs_tls() || below.is_tls() {
            return Ok(Some(Either::A(below)));
        }
        let authority = details.uri.authority().ok_or_else(|| Error::BadUri(details.uri.to_string()))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let name =
            ServerName::try_from(host.to_owned()).map_err(|_| Error::Tls("the host name is not valid"))?;
        let mut conn = ClientConnection::new(Arc::clone(&self.0), name)?;
        let mut sock = TransportAdapter::new(below.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let buffers = LazyBuffers::new(input, output);
        Ok(Some(Either::B(Secured { buffers, stream: StreamOwned { conn, sock } })))
    }
}

/// A connection with TLS.
pub(crate) struct Secured {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl Transport for Secured {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        Ok(self.stream.write_all(output)?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

/// webpki's verifier, plus self-signed certificates that are in certs.d.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    /// The certificates in certs.d for this registry.
    own: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// Whether webpki refused `shown` only because it is a CA certificate, and certs.d contains the identical
    /// certificate.
    ///
    /// webpki checks the validity period first, so an expired certificate has another error and is not accepted.
    fn is_in_certs_d(&self, error: &rustls::Error, shown: &CertificateDer<'_>) -> bool {
        is_ca_as_end_entity(error) && self.own.iter().any(|own| own.as_ref() == shown.as_ref())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.webpki.verify_server_cert(shown, intermediates, name, ocsp, now) {
            Err(error) if self.is_in_certs_d(&error, shown) => {
                verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Whether a server uses a CA certificate as its own, which is webpki's error `CaUsedAsEndEntity`.
pub(crate) fn is_ca_as_end_entity(error: &rustls::Error) -> bool {
    // rustls has no variant for this error, and webpki is no dependency of this crate, so only the error's text can be
    // compared. The tests below check that the text is still the one compared here.
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secured").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A CA certificate made by `openssl req -x509` for registry.test, valid for ten years from 2026-11-27 on.
    const SELF_SIGNED: &str = "-----BEGIN CERTIFICATE-----
MIIBnzCCAUWgAwIBAgIUBOKkkQCE/YrRTLsnMPGS5S11NvUwCgYIKoZIzj0EAwIw
GDEWMBQGA1UEAwwNcmVnaXN0cnkudGVzdDAeFw0yNjExMjcxOTU5NTFaFw0zNjEx
MjQxOTU5NTFaMBgxFjAUBgNVBAMMDXJlZ2lzdHJ5LnRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAASPpkFQY+++7QmxBwlGUUkdng6ADAoKi2Q4g6dXjsVFxFiC
CsmQ336EgekjZG9OuPz7rNQOU7HZwX/ZikWda/y8o20wazAdBgNVHQ4EFgQUGPXj
y66HQmVpZSAfPPq7A64wYK8wHwYDVR0jBBgwFoAUGPXjy66HQmVpZSAfPPq7A64w
YK8wDwYDVR0TAQH/BAUwAwEB/zAYBgNVHREEETAPgg1yZWdpc3RyeS50ZXN0MAoG
CCqGSM49BAMCA0gAMEUCIQDEyDEG0VotnjRXU8sJH9yzZa7nA+/yTo+f0ZU+SS3y
bwIged2glUFGCDHcOtsmzSYpT8gFxND4tw2QqyjxP2kpf6g=
-----END CERTIFICATE-----";
    /// A time within the ten years of the certificate, and a time after them.
    const VALID: Duration = Duration::from_secs(1_830_000_000);
    const EXPIRED: Duration = Duration::from_secs(2_200_000_000);

    fn certificate() -> Certificate<'static> {
        Certificate::from_pem(SELF_SIGNED.as_bytes()).expect("a certificate")
    }

    /// Verifies the certificate with the certificates `own` in certs.d.
    fn verify(own: &[Certificate<'static>], name: &str, at: Duration) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(der(&certificate())).expect("a CA's");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
        let verifier =
            Verifier { webpki: webpki.expect("it has a root"), own: own.iter().map(der).collect() };
        let name = ServerName::try_from(name).expect("a name");
        let now = UnixTime::since_unix_epoch(at);
        verifier.verify_server_cert(&der(&certificate()), &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_self_signed_certificate_in_certs_d_is_accepted() {
        let own = [certificate()];
        assert_eq!(verify(&own, "registry.test", VALID), Ok(()));
        assert!(is_ca_as_end_entity(&verify(&[], "registry.test", VALID).expect_err("not in certs.d")));
        let other = verify(&own, "other.test", VALID).expect_err("for another name").to_string();
        assert!(other.contains("not valid for name"), "{other}");
        let late = verify(&own, "registry.test", EXPIRED).expect_err("expired").to_string();
        assert!(late.contains("expired"), "{late}");
    }
}
