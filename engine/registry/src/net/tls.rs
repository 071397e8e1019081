//! TLS to a registry with certificates in certs.d, where a server's own certificate may stand for its CA's.
//!
//! `openssl req -x509` makes certificates that are a CA's, and hosts show them as their own all the same. Go's tools
//! take one that they were given; webpki refuses it whoever vouches for it. All else is webpki's to say.
//! ureq's connector takes no verifier of others, so this one stands before it.

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

/// What puts TLS above a connection, for an agent whose registry has certificates of its own.
pub(crate) struct Tls(Arc<ClientConfig>);

impl Tls {
    /// Trusts what `roots` vouch for, and the servers whose own certificates are among `own`.
    ///
    /// `None` if none of `roots` can be read as a CA's, or our certificate and key do not go together.
    pub(crate) fn new(
        roots: &[Certificate<'static>],
        own: &[Certificate<'static>],
        client: Option<&ClientCert>,
    ) -> Option<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.iter().map(der));
        let usual =
            WebPkiServerVerifier::builder_with_provider(store.into(), Arc::clone(&provider)).build().ok()?;
        let verifier = Verifier { usual, own: own.iter().map(der).collect() };
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

/// A certificate as rustls has it.
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
            ServerName::try_from(host.to_owned()).map_err(|_| Error::Tls("the host's name is none"))?;
        let mut conn = ClientConnection::new(Arc::clone(&self.0), name)?;
        let mut sock = TransportAdapter::new(below.boxed(), details.current_time.clone());
        sock.set_timeout(details.timeout);
        conn.complete_io(&mut sock)?;
        let (input, output) = (details.config.input_buffer_size(), details.config.output_buffer_size());
        let buffers = LazyBuffers::new(input, output);
        Ok(Some(Either::B(Secured { buffers, stream: StreamOwned { conn, sock } })))
    }
}

/// A connection with TLS above it.
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

/// webpki, and what it refuses whoever vouches for it.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    /// Certificates that a person has put into certs.d for this registry.
    own: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// True if `error` is that a server shows a CA's certificate, and that one is known here, byte for byte.
    ///
    /// webpki looks at the times of a certificate before: one that is over, or not yet valid, is another error.
    fn is_known(&self, error: &rustls::Error, shown: &CertificateDer<'_>) -> bool {
        is_authoritys(error) && self.own.iter().any(|own| own.as_ref() == shown.as_ref())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.usual.verify_server_cert(shown, between, name, ocsp, now) {
            Err(error) if self.is_known(&error, shown) => {
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
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// True if a server shows a certificate that is a CA's, which webpki calls `CaUsedAsEndEntity`.
pub(crate) fn is_authoritys(error: &rustls::Error) -> bool {
    // rustls has no word of its own for it, and webpki is not ours to name: its words are all there is.
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

    /// As `openssl req -x509` makes it: a CA's, for registry.test, from 2026-11-27 on for ten years.
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
    /// Within these ten years, and behind them.
    const WITHIN: Duration = Duration::from_secs(1_830_000_000);
    const BEHIND: Duration = Duration::from_secs(2_200_000_000);

    fn certificate() -> Certificate<'static> {
        Certificate::from_pem(SELF_SIGNED.as_bytes()).expect("a certificate")
    }

    /// What is said of the certificate where `own` are in certs.d.
    fn said(own: &[Certificate<'static>], name: &str, at: Duration) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(der(&certificate())).expect("a CA's");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let usual = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build();
        let verifier = Verifier { usual: usual.expect("it has a root"), own: own.iter().map(der).collect() };
        let name = ServerName::try_from(name).expect("a name");
        let now = UnixTime::since_unix_epoch(at);
        verifier.verify_server_cert(&der(&certificate()), &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_self_signed_certificate_is_taken_if_it_is_known_in_its_time_and_for_its_name_alone() {
        let own = [certificate()];
        assert_eq!(said(&own, "registry.test", WITHIN), Ok(()));
        assert!(is_authoritys(&said(&[], "registry.test", WITHIN).expect_err("it is not known")));
        let other = said(&own, "other.test", WITHIN).expect_err("it is another's").to_string();
        assert!(other.contains("not valid for name"), "{other}");
        let late = said(&own, "registry.test", BEHIND).expect_err("it is over").to_string();
        assert!(late.contains("expired"), "{late}");
    }
}
