//! What an answer holds: names and images cut, or spread over several frames, so that each can be sent.
//!
//! A registry has as many tags as it likes, and all of them may be one image's. Called where answers are made; knows
//! no socket.

use crate::engine::Image;
use crate::frame::FRAME_MAX;

/// Bytes of names or images in one frame; the rest is for what stands beside them.
const BYTES_MAX: usize = FRAME_MAX / 2;
/// What a name takes beside its bytes, at most.
const NAME_COST: usize = 4;
/// What an image takes beside its references, at most: two digests, a platform and numbers.
const IMAGE_COST: usize = 768;

/// The first of `names`, as many as one frame holds.
pub fn names(mut names: Vec<String>) -> Vec<String> {
    cut(&mut names, BYTES_MAX);
    names
}

/// All of `items` in parts of which each fits a frame; one part at least. Of an image with names without end, the
/// first of them.
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

/// Cuts `names` to `most` bytes; how many they take.
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
