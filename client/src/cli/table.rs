//! Columns for people: as wide as their widest word, two spaces apart.

/// Rows of words under a header.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub(crate) fn new(header: &[&str]) -> Self {
        Table { rows: vec![header.iter().map(|word| (*word).to_owned()).collect()] }
    }

    /// One more row; control characters are escaped.
    pub(crate) fn row(&mut self, words: Vec<String>) {
        let escape = |word: String| {
            let mut escaped = String::with_capacity(word.len());
            sampan_ipc::event::escape(&mut escaped, &word);
            escaped
        };
        self.rows.push(words.into_iter().map(escape).collect());
    }

    /// The lines.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |nth: usize| {
            self.rows.iter().filter_map(|row| row.get(nth)).map(|word| word.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|nth| width(nth).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(word, &width)| format!("{word:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
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
}
