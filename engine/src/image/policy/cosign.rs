//! Signatures that cosign makes with a key pair: reads public keys, and checks whether a signed payload names an image.
//!
//! Called by [`crate::image::policy`], which fetches the signatures. A signature covers a payload ("simple signing":
//! JSON with a repository and a manifest's digest); see containers-signature(5), "critical", and cosign's
//! SIGNATURE_SPEC. `ring` does the cryptography, and `rustls-pki-types`, which TLS also uses, reads PEM. A key's DER
//! has three fixed levels; the short reader below extracts the part that `ring` takes. Crates for this task (`spki`,
//! `x509-parser`, `sigstore`) would add 5 to 200 dependencies. The only I/O is reading key files.

use ring::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use sampan_oci::digest::Digest;
use sampan_oci::reference::Reference;
use sampan_os::small_file;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Longest key file, in bytes.
const KEY_FILE_MAX: u64 = 64 << 10;
/// The `type` of cosign's payloads.
const TYPE: &str = "cosign container image signature";

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read public key {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the read.
        source: std::io::Error,
    },
    /// The file holds no key of a supported kind.
    #[error("{} holds no supported public key: {why}", path.display())]
    Unknown {
        /// Path of the file.
        path: PathBuf,
        /// The reason why the content is refused.
        why: &'static str,
    },
}

/// The kind of a key, which decides how it signs a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Algorithm {
    fn ring(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Algorithm::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            // Cosign signs with SHA-256 for every curve.
            Algorithm::P384 => &signature::ECDSA_P384_SHA256_ASN1,
            Algorithm::Ed25519 => &signature::ED25519,
            Algorithm::Rsa => &signature::RSA_PKCS1_2048_8192_SHA256,
        }
    }
}

/// A public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    algorithm: Algorithm,
    /// The key in the form that `ring` takes: a point of the curve, 32 bytes for Ed25519, or an RSAPublicKey.
    bytes: Vec<u8>,
}

impl Key {
    /// Reads a PEM file, as `cosign generate-key-pair` and `openssl … -pubout` write it.
    ///
    /// # Errors
    /// [`KeyError`]: the file cannot be read, or holds no supported key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let read = |source| KeyError::Read { path: path.to_owned(), source };
        let text =
            small_file::open(path).and_then(|file| small_file::read(file, KEY_FILE_MAX)).map_err(read)?;
        Key::parse(&text).map_err(|why| KeyError::Unknown { path: path.to_owned(), why })
    }

    /// Parses PEM: the first `PUBLIC KEY` in it.
    fn parse(pem: &[u8]) -> Result<Self, &'static str> {
        let der =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "it has no PEM block 'PUBLIC KEY'")?;
        let (algorithm, bytes) =
            public_key(&der).ok_or("it is none of ECDSA P-256, P-384, Ed25519 or RSA")?;
        // Accept only the form of each kind of key that `ring` accepts: no compressed points, no short RSA moduli.
        let fits = match algorithm {
            Algorithm::P256 => bytes.len() == 65 && bytes.first() == Some(&4),
            Algorithm::P384 => bytes.len() == 97 && bytes.first() == Some(&4),
            Algorithm::Ed25519 => bytes.len() == 32,
            // The DER of a modulus of at least 2048 bits is longer than 256 bytes.
            Algorithm::Rsa => bytes.len() > 256,
        };
        match fits {
            true => Ok(Key { algorithm, bytes: bytes.to_vec() }),
            false => Err("the key is compressed or too short"),
        }
    }

    /// Whether `signature` was made of `payload` with this key's private half.
    fn verifies(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm.ring(), &self.bytes).verify(payload, signature).is_ok()
    }
}

/// The kind and the key in a SubjectPublicKeyInfo. RFC 5280, section 4.1; RFC 5480, RFC 8410, RFC 3279.
fn public_key(der: &[u8]) -> Option<(Algorithm, &[u8])> {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    const OID: u8 = 0x06;
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    let (outer, rest) = element(der, SEQUENCE)?;
    let (kind, key) = element(outer, SEQUENCE)?;
    let (oid, parameters) = element(kind, OID)?;
    let (key, after_key) = element(key, BIT_STRING)?;
    // The first byte of a bit string is the number of unused bits in its last byte.
    let key = key.strip_prefix(&[0])?;
    if !rest.is_empty() || !after_key.is_empty() {
        return None;
    }
    let algorithm = match oid {
        EC => match element(parameters, OID)?.0 {
            P256 => Algorithm::P256,
            P384 => Algorithm::P384,
            _ => return None,
        },
        ED25519 => Algorithm::Ed25519,
        RSA => Algorithm::Rsa,
        _ => return None,
    };
    Some((algorithm, key))
}

/// The content of the DER element with `tag` that begins `bytes`, and the bytes after it. X.690, section 8.1.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0x82 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        // A length of three or more bytes is longer than any key.
        _ => return None,
    };
    (*found == tag).then_some(())?;
    rest.split_at_checked(len)
}

/// The image that a valid signature must name.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The image's reference in the request.
    pub reference: &'a Reference,
    /// The digests that a signature may name: the digest of the index that the reference names, and the digest of the
    /// manifest chosen from that index.
    pub digests: &'a [&'a Digest],
}

/// Why a signature is not valid for an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// None of the keys made the signature.
    #[error("a signature was made by none of the keys")]
    Key,
    /// The signed payload is not cosign's.
    #[error("a signature by a right key has an unknown payload: {0}")]
    Payload(String),
    /// The signed payload names another digest.
    #[error("a signature by a right key is of another image: {0:?}")]
    Digest(String),
    /// The signed payload names another repository or tag.
    #[error("a signature by a right key is of an image of another name: {0:?}")]
    Identity(String),
}

/// containers-signature(5), "critical". This type leaves out the payload's optional part, which no decision may depend
/// on.
#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    identity: Identity,
    image: Image,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct Identity {
    #[serde(rename = "docker-reference")]
    reference: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Checks whether one of `keys` signed `payload`, and whether the payload names `subject`.
///
/// # Errors
/// [`SignatureError`]: the signature is wrong, or names another image. The payload is parsed only after its signature
/// was verified.
pub fn verify(
    payload: &[u8],
    signature: &[u8],
    keys: &[Key],
    subject: Subject<'_>,
) -> Result<(), SignatureError> {
    if !keys.iter().any(|key| key.verifies(payload, signature)) {
        return Err(SignatureError::Key);
    }
    let Payload { critical } =
        serde_json::from_slice(payload).map_err(|error| SignatureError::Payload(error.to_string()))?;
    let clip = |text: &str| text.chars().take(300).collect::<String>();
    if critical.kind != TYPE {
        return Err(SignatureError::Payload(format!("its type is {:?}", clip(&critical.kind))));
    }
    if !subject.digests.iter().any(|digest| digest.to_string() == critical.image.digest) {
        return Err(SignatureError::Digest(clip(&critical.image.digest)));
    }
    match is_name_of(&critical.identity.reference, subject.reference) {
        true => Ok(()),
        false => Err(SignatureError::Identity(clip(&critical.identity.reference))),
    }
}

/// Whether `identity` names the repository of `reference` and, if `identity` has a tag, also the tag of `reference`.
///
/// By default cosign signs only the repository. A digest in `identity` needs no check: [`verify`] checks the digest in
/// the payload.
fn is_name_of(identity: &str, reference: &Reference) -> bool {
    let Ok(signed) = Reference::parse(identity) else { return false };
    let last_part = identity.rsplit('/').next().unwrap_or(identity);
    let has_tag = last_part.split('@').next().is_some_and(|name| name.contains(':'));
    signed.name() == reference.name()
        && (!has_tag || reference.tag().is_none() || signed.tag() == reference.tag())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn pair() -> (Key, impl Fn(&[u8]) -> Vec<u8>) {
        let random = SystemRandom::new();
        let secret = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
        let secret = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, secret.as_ref(), &random)
            .expect("a key");
        let key = Key { algorithm: Algorithm::P256, bytes: secret.public_key().as_ref().to_vec() };
        (key, move |bytes| secret.sign(&random, bytes).expect("signed").as_ref().to_vec())
    }

    fn payload(name: &str, digest: &str, kind: &str) -> Vec<u8> {
        format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"{name}"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"{kind}"}},"optional":null}}"#
        )
        .into_bytes()
    }

    #[test]
    fn a_signature_counts_only_for_what_it_says() {
        let (key, sign) = pair();
        let (other, _) = pair();
        let reference = Reference::parse("registry.example.com/team/app:1").expect("good");
        let digest = Digest::parse(DIGEST).expect("good");
        let subject = Subject { reference: &reference, digests: &[&digest] };
        let judge = |payload: &[u8], keys: &[Key]| verify(payload, &sign(payload), keys, subject);
        for name in ["registry.example.com/team/app", "registry.example.com/team/app:1"] {
            judge(&payload(name, DIGEST, TYPE), &[other.clone(), key.clone()]).expect("good");
        }
        let good = payload("registry.example.com/team/app", DIGEST, TYPE);
        assert_eq!(judge(&good, std::slice::from_ref(&other)), Err(SignatureError::Key));
        assert_eq!(judge(&good, &[]), Err(SignatureError::Key));
        let keys = std::slice::from_ref(&key);
        for name in ["registry.example.com/team/other", "team/app", "registry.example.com/team/app:2", ""] {
            let verdict = judge(&payload(name, DIGEST, TYPE), keys);
            assert_eq!(verdict, Err(SignatureError::Identity(name.to_owned())), "{name}");
        }
        let replayed = DIGEST.replace('e', "f");
        let verdict = judge(&payload("registry.example.com/team/app", &replayed, TYPE), keys);
        assert_eq!(verdict, Err(SignatureError::Digest(replayed)));
        let atomic = payload("registry.example.com/team/app", DIGEST, "atomic container signature");
        assert!(matches!(judge(&atomic, keys), Err(SignatureError::Payload(_))));
        assert!(matches!(judge(b"{}", keys), Err(SignatureError::Payload(_))));
        let mut signature = sign(&good);
        signature.reverse();
        assert_eq!(verify(&good, &signature, keys, subject), Err(SignatureError::Key));
    }

    #[test]
    fn hub_images_are_signed_under_their_long_name() {
        let alpine = Reference::parse("alpine:3").expect("good");
        assert!(is_name_of("index.docker.io/library/alpine", &alpine));
        assert!(!is_name_of("index.docker.io/library/alpine:4", &alpine));
    }

    #[test]
    fn broken_keys_are_refused_wherever_they_are_cut() {
        // openssl ecparam -name prime256v1 -genkey | openssl ec -pubout
        let pem = b"-----BEGIN PUBLIC KEY-----\n\
            MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEDJ2wSL13MKBazWeT3BETrJ30FhaV\n\
            BU6z0hS32aosYHAyZuFmUODUkUdMXAZzPgT1QebCFQ05P/iagDv4jJvk0g==\n\
            -----END PUBLIC KEY-----\n";
        let key = Key::parse(pem).expect("good");
        assert_eq!((key.algorithm, key.bytes.len()), (Algorithm::P256, 65));
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).expect("PEM");
        for len in 0..der.len() {
            assert!(public_key(&der[..len]).is_none(), "{len}");
        }
        for at in 0..26 {
            let mut bytes = der.to_vec();
            bytes[at] ^= 0x55;
            assert!(public_key(&bytes).is_none(), "{at}");
        }
        assert!(Key::parse(b"").is_err() && Key::parse(b"-----BEGIN PUBLIC KEY-----\nAAAA\n").is_err());
    }
}
