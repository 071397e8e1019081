//! Tables for people: each column is as wide as its widest word, and two spaces separate columns.

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
