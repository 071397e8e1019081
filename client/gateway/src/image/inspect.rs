//! `GET /images/NAME/json`. The engine makes the document.

use super::lookup;
use crate::call::{self, Call, Started};
use crate::engine_call::Then;
use crate::exchange::Shared;
use crate::refusal::Refusal;
use sampan_client::engine;
use sampan_http::answer::Answer;
use serde::Deserialize;

/// A platform as docker's clients name it in a query. OCI image-spec, "Image Index".
#[derive(Debug, Deserialize)]
pub struct Platform {
    architecture: String,
    os: String,
    #[serde(default)]
    variant: String,
}

impl Platform {
    /// Reads the parameter `platform`.
    ///
    /// # Errors
    /// The parameter is no JSON of a platform.
    pub fn parse(call: &Call<'_>) -> Result<Option<Self>, Refusal> {
        let Some(text) = call.query.get("platform") else { return Ok(None) };
        serde_json::from_str(text)
            .map(Some)
            .map_err(|error| Refusal::bad(format!("platform {text:?} is not valid: {error}")))
    }

    /// Checks that the image `name` is for this platform; `own` is the image's, `os/arch[/variant]`.
    ///
    /// # Errors
    /// The image is for another platform.
    pub fn check(&self, name: &str, own: &str) -> Result<(), Refusal> {
        let mut words = own.split('/');
        let is_own = words.next() == Some(&self.os)
            && words.next() == Some(&self.architecture)
            && (self.variant.is_empty() || words.next() == Some(&self.variant));
        match is_own {
            true => Ok(()),
            false => Err(Refusal::not_found(format!(
                "image {name} is for {own}, and not for {}/{}",
                self.os, self.architecture
            ))),
        }
    }
}

/// Describes an image. `manifests` changes nothing: the store keeps the manifest of one platform.
///
/// # Errors
/// The platform is not valid.
pub fn start(call: &Call<'_>, name: &str, shared: &mut Shared) -> call::Result {
    let _ = shared;
    let platform = Platform::parse(call)?;
    Ok(Started::Operation(lookup::start(name, move |found, _| {
        let text = found.document;
        if let Some(platform) = platform {
            let own: Own = serde_json::from_str(&text)
                .map_err(|error| Refusal::new(500, format!("the engine's document is not valid: {error}")))?;
            platform.check(&found.name, &format!("{}/{}/{}", own.os, own.architecture, own.variant))?;
        }
        Ok(Then::Answer(Answer::new(200, "application/json", text + "\n")))
    })))
}

/// The platform in the engine's document.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Own {
    os: String,
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// The document in the engine's answers.
///
/// # Errors
/// The engine sent none.
pub fn document(answers: Vec<engine::Answer>) -> Result<String, Refusal> {
    let document = answers.into_iter().find_map(|answer| match answer {
        engine::Answer::Json(text) => Some(text),
        _ => None,
    });
    document.ok_or_else(|| Refusal::new(500, "the engine gave no document"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_another_platform_is_not_found() {
        let platform: Platform =
            serde_json::from_str(r#"{"os":"linux","architecture":"arm64"}"#).expect("valid");
        assert!(platform.check("a", "linux/arm64/v8").is_ok());
        assert_eq!(platform.check("a", "linux/amd64/").expect_err("another").status, 404);
    }
}
