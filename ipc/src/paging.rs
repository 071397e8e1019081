//! Fits lists of names and images into frames: cuts a list, or distributes it over several frames.
//!
//! The number of tags of a repository has no limit, and all tags may belong to one image. Called when the engine makes
//! an answer; does no I/O.

use crate::engine::Image;
use crate::frame::FRAME_MAX;

/// Most bytes of names or images in one frame. The rest of the frame is for the other fields.
const BYTES_MAX: usize = FRAME_MAX / 2;
/// Most bytes that a name needs besides its text.
const NAME_COST: usize = 4;
/// Most bytes that an image needs besides its references: two digests, a platform and numbers.
const IMAGE_COST: usize = 768;

/// Shortens `names` to its first names that fit into one frame.
pub fn names(mut names: Vec<String>) -> Vec<String> {
    cut(&mut names, BYTES_MAX);
    names
}

/// Splits `items` into parts that each fit into one frame; returns at least one part. If the references of an image do
/// not fit into a frame, removes the last references.
pub fn parts<T>(items: Vec<T>, image: impl Fn(&mut T) -> &mut Image) -> Vec<Vec<T>> {
    let mut parts = Vec::new();
    let (mut part, mut room) = (Vec::new(), BYTES_MAX);
    for mut item in items {
        let cost = IMAGE_COST + cut(&mut image(&mut item).references, BYTES_MAX - IMAGE_COST);
        if cost > room {
            parts.push(std::mem::take(&mut part));
            room = BYTES_MAX;
        }
        room -= cost;
        part.push(item);
    }
    parts.push(part);
    parts
}

/// Removes names from the end until the rest takes at most `most` bytes; returns the number of bytes that the rest
/// takes.
fn cut(names: &mut Vec<String>, most: usize) -> usize {
    let mut bytes = 0;
    let mut fit = 0;
    for name in names.iter() {
        let cost = name.len() + NAME_COST;
        if bytes + cost > most {
            break;
        }
        bytes += cost;
        fit += 1;
    }
    names.truncate(fit);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Answer, Done};
    use crate::frame::encode;

    fn many(count: usize) -> Vec<String> {
        (0..count).map(|nth| format!("registry.example/some/image:{nth}")).collect()
    }

    #[test]
    fn names_without_end_fit_a_frame() {
        let (all, cut) = (many(100_000), names(many(100_000)));
        assert!(cut.len() > 10_000 && all.starts_with(&cut));
        encode(&Answer::Done(Done { references: cut, ..Done::default() })).expect("it fits");
        assert_eq!(names(many(3)), many(3));
    }

    #[test]
    fn images_are_spread_over_frames_that_fit_and_none_is_lost() {
        let image = |count| Image { references: many(count), platform: "x".repeat(200), ..Image::default() };
        let images: Vec<Image> = [1, 100_000, 2].into_iter().chain([500; 100]).map(image).collect();
        let parts = parts(images, |image| image);
        assert!(parts.len() > 2);
        assert_eq!(parts.iter().map(Vec::len).sum::<usize>(), 103);
        for part in parts {
            encode(&Answer::Images(part)).expect("it fits");
        }
        assert_eq!(super::parts(Vec::new(), |image| image), [Vec::<Image>::new()]);
    }
}
