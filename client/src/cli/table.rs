//! Tables for people: each column is as wide as its widest word, and two spaces separate columns.

/// Spaces between two columns.
const SPACE: usize = 2;
/// Fewest characters of a name that [`Table::cropped`] leaves.
const NAME_MIN: usize = 20;

#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Table { rows: vec![header.iter().map(|word| (*word).to_owned()).collect()] }
    }

    /// Adds a row, with control characters escaped.
    pub(crate) fn row(&mut self, words: Vec<String>) {
        let escape = |word: String| {
            let mut escaped = String::with_capacity(word.len());
            sampan_ipc::event::escape(&mut escaped, &word);
            escaped
        };
        self.rows.push(words.into_iter().map(escape).collect());
    }

    pub(crate) fn text(&self) -> String {
        self.lines(&self.widths(), usize::MAX)
    }

    /// Like [`Table::text`], for a terminal with this number of columns. Words of the first `names` columns lose their
    /// beginning if a line is too long, and then the lines lose their end.
    pub(crate) fn cropped(&self, columns: usize, names: usize) -> String {
        // Text in the last column of a terminal would make some terminals wrap.
        let room = columns.saturating_sub(1);
        let mut widths = self.widths();
        let mut excess =
            (widths.iter().sum::<usize>() + SPACE * widths.len().saturating_sub(1)).saturating_sub(room);
        while excess > 0
            && let Some(widest) = widths.iter_mut().take(names).max()
            && *widest > NAME_MIN
        {
            *widest -= 1;
            excess -= 1;
        }
        self.lines(&widths, room)
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |nth: usize| {
            self.rows.iter().filter_map(|row| row.get(nth)).map(|word| word.chars().count()).max()
        };
        (0..columns).map(|nth| width(nth).unwrap_or(0)).collect()
    }

    fn lines(&self, widths: &[usize], room: usize) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(word, &width)| format!("{:<width$}", end(word, width)));
            let line = cells.collect::<Vec<_>>().join(&" ".repeat(SPACE));
            text.push_str(&beginning(line.trim_end(), room));
            text.push('\n');
        }
        text
    }
}

/// Returns the last `width` characters of a word, the first of which is an ellipsis if the word is longer.
fn end(word: &str, width: usize) -> String {
    let skipped = word.chars().count().saturating_sub(width);
    match skipped {
        0 => word.to_owned(),
        _ => "…".chars().chain(word.chars().skip(skipped + 1)).collect(),
    }
}

/// Returns the first `width` characters of a line, the last of which is an ellipsis if the line is longer.
fn beginning(line: &str, width: usize) -> String {
    match line.chars().count() > width {
        true => line.chars().take(width.saturating_sub(1)).chain("…".chars()).collect(),
        false => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_word() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row(vec!["wide".into(), "b\n".into()]);
        assert_eq!(table.text(), "A     LONG\nwide  b\\n\n");
    }

    #[test]
    fn a_cropped_table_keeps_the_ends_of_names_and_the_beginnings_of_lines() {
        let mut table = Table::new(&["FROM", "TO", "RESULT"]);
        table.row(vec!["host.example/team/project/app:1.2".into(), "short".into(), "unchanged".into()]);
        assert_eq!(table.cropped(80, 2), table.text());
        let narrow = "\
FROM                   TO     RESULT
…team/project/app:1.2  short  unchanged
";
        assert_eq!(table.cropped(40, 2), narrow);
        assert!(table.cropped(30, 2).lines().all(|line| line.chars().count() <= 29));
        assert!(table.cropped(30, 2).ends_with("…\n"));
        assert_eq!(table.cropped(1, 2), "…\n…\n");
    }
}
