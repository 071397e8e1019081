//! Decides by an image's name and signatures whether the image may be stored.
//!
//! The rules are `[[engine.policy]]` in the configuration. The rule with the longest matching prefix applies; an image
//! without a rule is accepted. Called by [`crate::image::pull`] after the name was resolved and before the config and
//! the layers are fetched. A signature may name the document that the image's name stands for, an index or a manifest
//! (cosign signs this document), or the manifest that was chosen from the index. Fetches signatures from the image's
//! own repository; stores nothing.

mod cosign;

use self::cosign::{Key, KeyError, SignatureError, Subject};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sampan_ipc::report::chain;
use sampan_job::cancel::{Cancel, Cancelled};
use sampan_oci::Descriptor;
use sampan_oci::digest::{Digest, Hasher};
use sampan_oci::reference::Reference;
use sampan_registry::mirrors::Mirrors;
use sampan_registry::{RegistryError, retry};
use serde::Deserialize;
use std::path::PathBuf;

/// Most signatures of one image that are checked.
const SIGNATURES_MAX: usize = 32;
/// Longest signed payload, in bytes.
const PAYLOAD_MAX: u64 = 64 << 10;
/// Media type of a payload.
const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation that holds a payload's signature.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";

/// One `[[engine.policy]]` table of the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Written {
    /// The beginning of the names that the rule applies to: `HOST[:PORT][/PATH…]`, or empty for all names.
    prefix: String,
    require: Requirement,
    #[serde(default)]
    keys: Vec<PathBuf>,
}

/// What a rule does with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Requirement {
    Accept,
    Reject,
    Cosign,
}

/// Why the rules are refused.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// A prefix with which no image name begins.
    #[error(
        "policy prefix {0:?} does not begin with a host: write registry.example.com, or registry.example.com/team"
    )]
    Prefix(String),
    /// Two rules have the same prefix.
    #[error("policy prefix {0:?} is configured twice")]
    Twice(String),
    /// A rule lacks keys, or has keys and does not use them.
    #[error("the policy for prefix {prefix:?} {why}")]
    Keys {
        /// Prefix of the rule.
        prefix: String,
        /// The reason; completes a sentence that begins with the rule.
        why: &'static str,
    },
    /// A key file cannot be used.
    #[error("cannot use the policy for prefix {prefix:?}")]
    Key {
        /// Prefix of the rule.
        prefix: String,
        /// Error of the key file.
        source: KeyError,
    },
}

/// All rules, the longest prefix first. The default has no rules and accepts every image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    prefix: String,
    require: Requirement,
    keys: Vec<Key>,
}

/// Why an image is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The job was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    /// The rule rejects all images with its prefix.
    #[error("the policy for {} rejects it", shown(prefix))]
    Rejected {
        /// Prefix of the rule.
        prefix: String,
    },
    /// The image has no signature.
    #[error("the policy for {} wants a signature, and it has none", shown(prefix))]
    Unsigned {
        /// Prefix of the rule.
        prefix: String,
    },
    /// No signature of the image is valid for the rule.
    #[error("the policy for {} wants a signature, and {reason}", shown(prefix))]
    Refused {
        /// Prefix of the rule.
        prefix: String,
        /// Why each signature was refused.
        reason: String,
    },
    /// The signatures cannot be fetched.
    #[error("cannot fetch its signatures")]
    Registry(#[source] RegistryError),
}

fn shown(prefix: &str) -> String {
    if prefix.is_empty() { "all images".to_owned() } else { format!("{prefix:?}") }
}

impl Policies {
    /// Checks the rules, and reads their key files.
    ///
    /// # Errors
    /// [`RuleError`]: a prefix is not valid or is given twice, or a key file cannot be used.
    pub fn new(written: Vec<Written>) -> Result<Self, RuleError> {
        let mut rules: Vec<Rule> = Vec::with_capacity(written.len());
        for Written { prefix, require, keys } in written {
            let prefix = prefix.trim_end_matches('/').to_owned();
            if !is_prefix(&prefix) {
                return Err(RuleError::Prefix(prefix));
            }
            if rules.iter().any(|rule| rule.prefix == prefix) {
                return Err(RuleError::Twice(prefix));
            }
            let why = match (require, keys.is_empty()) {
                (Requirement::Cosign, true) => Some("requires signatures and names no keys"),
                (Requirement::Accept | Requirement::Reject, false) => {
                    Some("names keys and requires no signature")
                }
                _ => None,
            };
            if let Some(why) = why {
                return Err(RuleError::Keys { prefix, why });
            }
            let keys: Result<_, KeyError> = keys.iter().map(|path| Key::read(path)).collect();
            let keys = keys.map_err(|source| RuleError::Key { prefix: prefix.clone(), source })?;
            rules.push(Rule { prefix, require, keys });
        }
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
        Ok(Policies { rules })
    }

    fn rule(&self, reference: &Reference) -> Option<&Rule> {
        let name = reference.name();
        self.rules.iter().find(|rule| {
            let rest = name.strip_prefix(&rule.prefix);
            rule.prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// Checks whether an image without signatures, such as one from an archive, may have this name.
    ///
    /// # Errors
    /// [`PolicyError::Rejected`] or [`PolicyError::Unsigned`].
    pub fn check_unsigned(&self, reference: &Reference) -> Result<(), PolicyError> {
        let Some(rule) = self.rule(reference) else { return Ok(()) };
        let prefix = rule.prefix.clone();
        match rule.require {
            Requirement::Accept => Ok(()),
            Requirement::Reject => Err(PolicyError::Rejected { prefix }),
            Requirement::Cosign => Err(PolicyError::Unsigned { prefix }),
        }
    }

    /// Checks whether the image may be stored. `digests` are the digest of the document that the image's name stands
    /// for, and the digest of the manifest chosen from this document.
    ///
    /// # Errors
    /// [`PolicyError`]: the rule refuses the image, or its signatures cannot be fetched.
    pub fn check(
        &self,
        registry: &Mirrors,
        reference: &Reference,
        digests: &[&Digest],
        cancel: &Cancel,
    ) -> Result<(), PolicyError> {
        let Some(rule) = self.rule(reference) else { return Ok(()) };
        match rule.require {
            Requirement::Accept => Ok(()),
            Requirement::Reject => Err(PolicyError::Rejected { prefix: rule.prefix.clone() }),
            Requirement::Cosign => {
                let subject = Subject { reference, digests };
                Lookup { registry, cancel, rule, subject }.run()
            }
        }
    }
}

/// Whether image names can begin with `prefix`.
fn is_prefix(prefix: &str) -> bool {
    let below = format!("{prefix}/x");
    // A name directly below `docker.io` gets `library/` inserted, so the comparison below would refuse the prefix
    // `docker.io`.
    prefix.is_empty() || prefix == "docker.io" || Reference::parse(&below).is_ok_and(|r| r.name() == below)
}

/// The manifest that lists an image's signatures.
#[derive(Deserialize)]
struct Signatures {
    /// Descriptors of the signed payloads. Each is parsed separately, so that a malformed descriptor does not make the
    /// others unusable.
    #[serde(default)]
    layers: Vec<serde_json::Value>,
}

/// The search for a valid signature.
struct Lookup<'a> {
    registry: &'a Mirrors,
    cancel: &'a Cancel,
    rule: &'a Rule,
    subject: Subject<'a>,
}

impl Lookup<'_> {
    /// Checks the signatures of all digests until one is valid.
    fn run(&self) -> Result<(), PolicyError> {
        let mut reasons: Vec<String> = Vec::new();
        let mut checked: Vec<&Digest> = Vec::new();
        for digest in self.subject.digests {
            if checked.contains(digest) {
                continue;
            }
            checked.push(digest);
            if self.has_valid_signature(digest, &mut reasons)? {
                return Ok(());
            }
        }
        let prefix = self.rule.prefix.clone();
        reasons.truncate(3);
        match reasons.is_empty() {
            true => Err(PolicyError::Unsigned { prefix }),
            false => Err(PolicyError::Refused { prefix, reason: reasons.join("; ") }),
        }
    }

    /// Whether at least one signature of `digest` is valid; adds the reasons why other signatures are not valid to
    /// `reasons`.
    fn has_valid_signature(&self, digest: &Digest, reasons: &mut Vec<String>) -> Result<bool, PolicyError> {
        let signatures = match self.signatures(digest)? {
            Ok(signatures) => signatures.layers,
            Err(reason) => {
                reasons.push(reason);
                return Ok(false);
            }
        };
        if signatures.len() > SIGNATURES_MAX {
            let found = signatures.len();
            reasons.push(format!("only the first {SIGNATURES_MAX} of {found} signatures were checked"));
        }
        for signature in signatures.into_iter().take(SIGNATURES_MAX) {
            self.cancel.check()?;
            match self.check_signature(signature)? {
                Ok(()) => return Ok(true),
                Err(reason) if !reasons.contains(&reason) => reasons.push(reason),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// The signatures of `digest`; an empty list if the repository lacks the tag of the signatures. The inner error
    /// says why the signatures cannot be read.
    fn signatures(&self, digest: &Digest) -> Result<Result<Signatures, String>, PolicyError> {
        let tag = format!("{}-{}.sig", digest.algorithm().word(), digest.hex());
        let found = self.persist(|| self.registry.find_manifest(&tag)).map_err(PolicyError::Registry)?;
        let Some(manifest) = found else { return Ok(Ok(Signatures { layers: Vec::new() })) };
        Ok(serde_json::from_slice(&manifest.bytes)
            .map_err(|error| format!("the manifest {tag} of the signatures cannot be read: {error}")))
    }

    fn persist<T>(&self, request: impl FnMut() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        retry::persist(self.cancel, &|note| log::info!("{note}"), request)
    }

    /// Checks one signature. The inner error says why the signature is not valid; the outer error is a failure of the
    /// registry.
    fn check_signature(&self, layer: serde_json::Value) -> Result<Result<(), String>, PolicyError> {
        let layer: Descriptor = match serde_json::from_value(layer) {
            Ok(layer) => layer,
            Err(error) => return Ok(Err(format!("a signature's descriptor cannot be read: {error}"))),
        };
        if layer.media_type != SIMPLE_SIGNING {
            return Ok(Err("a signature is of an unknown media type".to_owned()));
        }
        let encoded = layer.annotations.get(SIGNATURE).map(|text| BASE64_STANDARD.decode(text));
        let Some(Ok(signature)) = encoded else {
            return Ok(Err("a signature is missing or is no base64".to_owned()));
        };
        if layer.size > PAYLOAD_MAX {
            return Ok(Err(format!("a signature's payload is longer than {PAYLOAD_MAX} bytes")));
        }
        let payload = match self.persist(|| self.registry.small_blob(&layer.digest, layer.size)) {
            Ok(payload) => payload,
            Err(error) => return refusal(error),
        };
        let mut hasher = Hasher::new(layer.digest.algorithm());
        hasher.update(&payload);
        if hasher.finish() != layer.digest {
            return Ok(Err("a signature's payload has another digest than its manifest says".to_owned()));
        }
        let verdict = cosign::verify(&payload, &signature, &self.rule.keys, self.subject);
        Ok(verdict.map_err(|error: SignatureError| error.to_string()))
    }
}

/// Decides whether an error in fetching a payload makes only this signature invalid (inner error), or is a failure of
/// the registry (outer error). A registry that is unavailable would fail for every signature.
fn refusal(error: RegistryError) -> Result<Result<(), String>, PolicyError> {
    match error.last() {
        RegistryError::NotFound { .. } => Ok(Err("a signature's payload does not exist".to_owned())),
        RegistryError::Denied { .. } | RegistryError::Status { .. } | RegistryError::Answer { .. }
            if !retry::is_passing(&error) =>
        {
            Ok(Err(format!("a signature's payload cannot be fetched: {}", chain(&error))))
        }
        _ => Err(PolicyError::Registry(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: &str, require: Requirement) -> Written {
        Written { prefix: prefix.to_owned(), require, keys: Vec::new() }
    }

    #[test]
    fn the_longest_prefix_wins_and_ends_between_words() {
        let policies = Policies::new(vec![
            rule("", Requirement::Accept),
            rule("registry.example.com", Requirement::Reject),
            rule("registry.example.com/team/", Requirement::Accept),
            rule("docker.io", Requirement::Reject),
        ])
        .expect("good");
        let of = |name: &str| {
            let rule = policies.rule(&Reference::parse(name).expect("good")).expect("one for all");
            rule.prefix.clone()
        };
        assert_eq!(of("registry.example.com/team/app"), "registry.example.com/team");
        assert_eq!(of("registry.example.com/team"), "registry.example.com/team");
        assert_eq!(of("registry.example.com/teams/app"), "registry.example.com");
        assert_eq!(of("registry.example.com:5000/team/app"), "");
        assert_eq!(of("alpine"), "docker.io");
        assert!(Policies::default().rule(&Reference::parse("a").expect("good")).is_none());
    }

    #[test]
    fn rules_that_would_never_do_what_they_say_are_errors() {
        for prefix in ["alpine", "team/app", "index.docker.io", "https://a.b", "a.b/c:t", "A b"] {
            let rules = Policies::new(vec![rule(prefix, Requirement::Accept)]);
            assert!(matches!(rules, Err(RuleError::Prefix(_))), "{prefix}");
        }
        let twice = vec![rule("a.b", Requirement::Accept), rule("a.b/", Requirement::Reject)];
        assert!(matches!(Policies::new(twice), Err(RuleError::Twice(_))));
        let none = Policies::new(vec![rule("a.b", Requirement::Cosign)]);
        assert!(matches!(none, Err(RuleError::Keys { .. })));
        let keys = vec!["/nowhere/cosign.pub".into()];
        let idle = Written { keys: keys.clone(), ..rule("a.b", Requirement::Accept) };
        assert!(matches!(Policies::new(vec![idle]), Err(RuleError::Keys { .. })));
        let missing = Written { keys, ..rule("a.b", Requirement::Cosign) };
        assert!(matches!(Policies::new(vec![missing]), Err(RuleError::Key { .. })));
    }
}
