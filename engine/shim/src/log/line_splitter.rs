//! Splits the output of one stream into lines, as docker's log copier does. Holds at most one unfinished line.

/// Longest line that is logged as one entry, in bytes. A longer line is logged in several parts.
pub(crate) const LINE_MAX: usize = 16 << 10;

#[derive(Debug, Default)]
pub(crate) struct LineSplitter {
    /// The unfinished line.
    held: Vec<u8>,
}

impl LineSplitter {
    /// Adds the next bytes of the stream. Calls `emit` for each line or part of a line; the second argument is whether
    /// the line is complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8], bool)) {
        while !bytes.is_empty() {
            let room = LINE_MAX.saturating_sub(self.held.len()).min(bytes.len());
            let (window, after) = bytes.split_at(room);
            let end = window.iter().position(|byte| *byte == b'\n');
            match end.and_then(|end| bytes.split_at_checked(end)) {
                Some((line, rest)) => {
                    self.emit(line, true, &mut emit);
                    bytes = rest.strip_prefix(b"\n").unwrap_or(rest);
                }
                None if self.held.len() + window.len() >= LINE_MAX => {
                    self.emit(window, false, &mut emit);
                    bytes = after;
                }
                None => {
                    self.held.extend_from_slice(window);
                    bytes = after;
                }
            }
        }
        if self.held.is_empty() {
            self.held = Vec::new();
        }
    }

    /// Calls `emit` with the unfinished line of a stream that has ended, as a part of a line.
    pub(crate) fn end(&mut self, emit: impl FnOnce(&[u8], bool)) {
        if !self.held.is_empty() {
            emit(&std::mem::take(&mut self.held), false);
        }
    }

    fn emit(&mut self, tail: &[u8], is_end: bool, emit: &mut impl FnMut(&[u8], bool)) {
        if self.held.is_empty() {
            return emit(tail, is_end);
        }
        self.held.extend_from_slice(tail);
        emit(&self.held, is_end);
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(parts: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let (mut lines, mut got) = (LineSplitter::default(), Vec::new());
        for part in parts {
            lines.feed(part, |line, is_end| got.push((line.to_vec(), is_end)));
        }
        lines.end(|line, is_end| got.push((line.to_vec(), is_end)));
        got
    }

    #[test]
    fn every_split_of_a_text_gives_the_same_lines() {
        let text = b"one\n\ntwo three\nfour";
        let whole = split(&[text]);
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[3], (b"four".to_vec(), false));
        for cut in 0..text.len() {
            assert_eq!(split(&[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_long_line_comes_in_parts_and_only_the_last_ends_it() {
        let text = [vec![b'x'; LINE_MAX * 2 + 5], b"\ny\n".to_vec()].concat();
        let got: Vec<(usize, bool)> = split(&[&text]).iter().map(|(line, end)| (line.len(), *end)).collect();
        assert_eq!(got, [(LINE_MAX, false), (LINE_MAX, false), (5, true), (1, true)]);
    }
}
