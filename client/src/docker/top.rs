//! The processes of a container in the output of ps(1), for `top`.
//!
//! ps(1) knows all processes of the host. A [`Selection`] keeps its header and the lines about the container's
//! processes, so that the output of a large host needs no memory.

/// Longest kept part of a line, in bytes.
const LINE_MAX: usize = 128 << 10;

/// The output of ps(1) has no column `PID`, by which the container's processes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot find the container's processes: the output of ps has no column PID")]
pub struct NoPidColumn;

/// Selects the lines of some processes.
#[derive(Clone, Debug)]
pub struct Selection {
    pids: Vec<i32>,
    partial: Vec<u8>,
    column: Option<usize>,
    lines: Vec<String>,
}

/// The header of ps(1) and its lines, in columns. The last column is the rest of the line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The words of the header.
    pub titles: Vec<String>,
    /// The columns of each line, as many as there are titles.
    pub processes: Vec<Vec<String>>,
}

impl Selection {
    /// Selects the lines of the processes `pids`.
    pub fn new(pids: Vec<i32>) -> Self {
        Selection { pids, partial: Vec::new(), column: None, lines: Vec::new() }
    }

    /// Takes the next bytes of the output.
    ///
    /// # Errors
    /// The header has no column `PID`.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), NoPidColumn> {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        let mut part = parts.next();
        while let Some(of_line) = part {
            let room = LINE_MAX.saturating_sub(self.partial.len());
            self.partial.extend(of_line.iter().take(room));
            part = parts.next();
            if part.is_some() {
                self.end_line()?;
            }
        }
        Ok(())
    }

    /// Ends the output. Returns the header and the selected lines.
    ///
    /// # Errors
    /// There is no header with a column `PID`.
    pub fn lines(mut self) -> Result<Vec<String>, NoPidColumn> {
        if !self.partial.is_empty() {
            self.end_line()?;
        }
        self.column.map(|_| self.lines).ok_or(NoPidColumn)
    }

    /// Ends the output. Returns the columns of the selected lines.
    ///
    /// # Errors
    /// There is no header with a column `PID`.
    pub fn table(self) -> Result<Table, NoPidColumn> {
        let mut lines = self.lines()?.into_iter();
        let header = lines.next().unwrap_or_default();
        let titles: Vec<String> = header.split_whitespace().map(str::to_owned).collect();
        let processes = lines.map(|line| columns(&line, titles.len())).collect();
        Ok(Table { titles, processes })
    }

    fn end_line(&mut self) -> Result<(), NoPidColumn> {
        let line = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        let Some(column) = self.column else {
            let column = line.split_whitespace().position(|word| word == "PID").ok_or(NoPidColumn)?;
            self.column = Some(column);
            self.lines.push(line);
            return Ok(());
        };
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        if pid.is_some_and(|pid| self.pids.contains(&pid)) {
            self.lines.push(line);
        }
        Ok(())
    }
}

/// Splits a line into `count` columns; the last one has the words that are left.
fn columns(line: &str, count: usize) -> Vec<String> {
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut columns: Vec<String> = words.by_ref().take(count.saturating_sub(1)).collect();
    columns.push(words.collect::<Vec<_>>().join(" "));
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "UID   PID  CMD\nroot    1  init\nroot   17  sh -c x\nroot  117  x 17\n";

    #[test]
    fn of_what_ps_says_the_processes_of_the_container_are_kept() {
        for size in [1, 7, OUTPUT.len()] {
            let mut selection = Selection::new(vec![17]);
            for bytes in OUTPUT.as_bytes().chunks(size) {
                selection.push(bytes).expect("a column PID");
            }
            assert_eq!(
                selection.clone().lines(),
                Ok(vec!["UID   PID  CMD".into(), "root   17  sh -c x".into()])
            );
            let table = selection.table().expect("a column PID");
            assert_eq!(table.titles, ["UID", "PID", "CMD"]);
            assert_eq!(table.processes, [["root", "17", "sh -c x"]]);
        }
    }

    #[test]
    fn output_without_process_ids_is_an_error() {
        assert_eq!(Selection::new(vec![1]).push(b"COMMAND\nsh\n"), Err(NoPidColumn));
        assert_eq!(Selection::new(vec![1]).lines(), Err(NoPidColumn));
    }

    #[test]
    fn a_long_line_is_cut() {
        let mut selection = Selection::new(vec![1]);
        selection.push(b"PID CMD\n1 ").expect("a column PID");
        for _ in 0..100 {
            selection.push(&[b'x'; 4096]).expect("a column PID");
        }
        let lines = selection.lines().expect("a column PID");
        assert_eq!(lines.last().map(String::len), Some(LINE_MAX));
    }
}
