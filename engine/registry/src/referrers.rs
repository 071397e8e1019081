//! The referrers of a manifest: signatures, SBOMs and other artifacts whose `subject` is the manifest.
//!
//! OCI distribution-spec, "Listing Referrers". A registry without this API has an index with the tag `sha256-<hex>`
//! instead; the caller reads and writes that index, as a manifest.

use crate::error::RegistryError;
use crate::headers::content_type;
use crate::list::Pages;
use crate::redirect::percent;
use crate::registry::Registry;
use ::http::{HeaderName, Response, StatusCode};
use sampan_oci as oci;
use sampan_oci::Descriptor;
use sampan_oci::digest::Digest;
use serde::Deserialize;
use ureq::Body;

/// Most referrers of one manifest that are read.
pub const REFERRERS_MAX: usize = 10_000;
/// The header by which a registry says which filters it has applied.
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A manifest whose `subject` is another manifest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    /// The manifest.
    #[serde(flatten)]
    pub descriptor: Descriptor,
    /// The type of the artifact; for an image, the media type of its config. Empty if the registry states none.
    #[serde(default)]
    pub artifact_type: String,
}

impl Registry {
    /// Lists the referrers of the manifest `digest`, or those of one `artifact_type`; `None` if the registry does not
    /// have the referrers API. The registry need not have the manifest itself.
    ///
    /// # Errors
    /// [`RegistryError::Answer`] if there are more than [`REFERRERS_MAX`] referrers, or the list is malformed.
    pub fn referrers(
        &self,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Referrer>>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            manifests: Option<Vec<Referrer>>,
        }
        let what = format!("referrers of {digest}");
        let path = self.path(&format!("referrers/{digest}"));
        let query = artifact_type.map_or(String::new(), |kind| format!("artifactType={}", percent(kind)));
        let mut pages = Pages::new(self, &what, path, oci::INDEX, query);
        let mut referrers: Vec<Referrer> = Vec::new();
        while let Some(response) = pages.request()? {
            match response.status() {
                StatusCode::OK if is_index(&response) => {}
                // A web page, for example: the path means something else there.
                StatusCode::OK => return Ok(None),
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => return Ok(None),
                _ => return Err(self.status_error(&what, response)),
            }
            let is_filtered = is_filtered(&response);
            let page = pages.read::<Page>(response)?.manifests.unwrap_or_default();
            let is_wanted = |referrer: &Referrer| {
                is_filtered || artifact_type.is_none_or(|wanted| referrer.artifact_type == wanted)
            };
            referrers.extend(page.into_iter().filter(is_wanted));
            if referrers.len() > REFERRERS_MAX {
                return Err(pages.too_many(REFERRERS_MAX));
            }
        }
        Ok(Some(referrers))
    }
}

fn is_index(response: &Response<Body>) -> bool {
    content_type(response).is_none_or(|kind| matches!(kind, oci::INDEX | "application/json"))
}

/// Whether the registry has applied the filter `artifactType`.
fn is_filtered(response: &Response<Body>) -> bool {
    let values = response.headers().get_all(FILTERS_APPLIED).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|filter| filter.trim().eq_ignore_ascii_case("artifactType"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrer_is_a_descriptor_with_a_type() {
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"mediaType":"{}","digest":"{digest}","size":1,"artifactType":"a/b","annotations":{{"k":"v"}}}}"#,
            oci::MANIFEST
        );
        let referrer: Referrer = serde_json::from_str(&text).expect("good");
        assert_eq!((referrer.descriptor.digest, referrer.descriptor.size), (digest, 1));
        assert_eq!((referrer.artifact_type.as_str(), &*referrer.descriptor.annotations["k"]), ("a/b", "v"));
    }
}
