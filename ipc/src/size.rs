//! Sizes in bytes: the parser and the formatter for the form that people write and read.
//!
//! Used for options, settings and messages. All units are powers of 1024, as in docker's options. The caller checks
//! limits.

/// Most digits after the decimal point.
const DECIMALS_MAX: usize = 9;

/// Parses `500`, `64k`, `1.5M`, `10MiB`, `2 GB`: a number and a unit in any case, rounded down to whole bytes.
///
/// Units are `b`, `k`, `m`, `g`, `t` and `p`, the last five also with `b` or `ib` after them. A leading `+` is allowed.
/// Returns `None` if `text` is not a size, or if the size is 2^64 bytes or more.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.strip_prefix('+').unwrap_or(text);
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(number.len()..)?.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return None,
    };
    let (whole, fraction, scale) = decimal(number.trim_end())?;
    let bytes = (u128::from(whole) << shift) + (u128::from(fraction) << shift) / u128::from(scale);
    u64::try_from(bytes).ok()
}

/// Parses a decimal number; returns the digits before the point, the digits after it, and the power of ten by which the
/// latter are divided. `1.` and `.5` are numbers, `.` is not.
pub fn decimal(text: &str) -> Option<(u64, u64, u64)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let fraction = if fraction.is_empty() && !whole.is_empty() { "0" } else { fraction };
    let whole = if whole.is_empty() && text.len() > 1 { "0" } else { whole };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || fraction.len() > DECIMALS_MAX {
        return None;
    }
    let scale = 10u64.pow(u32::try_from(fraction.len()).ok()?);
    Some((whole.parse().ok()?, fraction.parse().ok()?, scale))
}

/// Formats a size, such as `512 B`, `1.50 KiB` or `20.00 MiB`.
pub fn format(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // A float is exact to 15 digits even beyond 2^53, which is enough for two digits after the point.
    let mut value = bytes as f64 / 1024.0;
    let mut name = "KiB";
    for next in ["MiB", "GiB", "TiB", "PiB"] {
        // Use the next unit instead of printing 1024.00 of this one.
        if value < 1023.995 {
            break;
        }
        (value, name) = (value / 1024.0, next);
    }
    format!("{value:.2} {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_units_and_fractions() {
        let cases = [
            ("0", 0),
            ("500", 500),
            ("500b", 500),
            ("1K", 1024),
            ("1.5M", 1_572_864),
            ("10MiB", 10 << 20),
            ("2 gb", 2 << 30),
            ("+10m", 10 << 20),
            (".5k", 512),
            ("1.t", 1 << 40),
            ("0.0000001p", 112_589_990),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse(text), Some(bytes), "{text:?}");
        }
        for text in
            ["", ".", "K", "1.5.5M", "-1", "1X", "1e9", "1.5.G", "\u{e4}M", "++1", "1 2", "0.0000000001g"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
        assert_eq!(parse("99999999999999999999G"), None);
        assert_eq!(parse("16384p"), None, "2^64");
    }

    #[test]
    fn sizes_are_printed_with_two_digits_and_change_unit_in_time() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (1024 * 1024 - 1, "1.00 MiB"),
            (5 << 30, "5.00 GiB"),
            (u64::MAX, "16384.00 PiB"),
        ];
        for (value, text) in cases {
            assert_eq!(format(value), text);
        }
    }
}
