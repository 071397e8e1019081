//! Prints tables of medians as plain text.

/// Prints a line that describes the machine.
pub fn machine() {
    let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown processor");
    println!("{cpus} processors ({model}), Linux {}", kernel.trim());
}

/// The median of `values`; NaN if there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// Prints rows below a title; the first column is aligned to the left, the others to the right.
pub fn print(title: &str, rows: &[Vec<String>]) {
    println!("\n{title}\n");
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |nth: usize| rows.iter().filter_map(|row| row.get(nth)).map(|cell| cell.chars().count()).max();
    for row in rows {
        let mut line = String::new();
        for nth in 0..columns {
            let (cell, width) = (row.get(nth).map_or("", String::as_str), width(nth).unwrap_or(0));
            if nth == 0 {
                line += &format!("{cell:<width$}");
            } else {
                line += &format!("  {cell:>width$}");
            }
        }
        println!("{}", line.trim_end());
    }
}

/// Makes a row of words.
pub fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Formats `value` with a suitable number of digits, and its ratio to `bare`.
pub fn with_ratio(value: f64, bare: f64) -> [String; 2] {
    let ratio = if bare.is_nan() || bare == 0.0 { String::new() } else { format!("{:.2} ×", value / bare) };
    [number(value), ratio]
}

/// Formats the least and the most of `values`.
pub fn range(values: impl Iterator<Item = f64> + Clone) -> String {
    let (least, most) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
    format!("[{} {}]", number(least), number(most))
}

/// Formats `value` with about three digits.
pub fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "–".to_owned(),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 1.0 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}
