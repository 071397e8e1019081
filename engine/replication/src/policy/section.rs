//! Reads typed values from a table of TOML, all of whose keys are known.
//!
//! Used by `file`. Refuses keys that it does not know. Each error has its key and its position in the text.

use std::ops::Range;
use std::sync::LazyLock;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most entries of a list.
const LIST_MAX: usize = 256;

static EMPTY: LazyLock<DeTable<'static>> = LazyLock::new(DeTable::new);

/// Why a key cannot be used.
#[derive(Debug)]
pub(crate) struct Wrong {
    /// Position of the key in the text, in bytes; 0 if the key is missing.
    pub(crate) span: Range<usize>,
    /// The key with its table, such as `filter.tag`.
    pub(crate) key: String,
    /// What is wrong with it.
    pub(crate) why: String,
}

/// One table of the file, with the keys that this version knows.
pub(crate) struct Section<'a> {
    prefix: &'static str,
    table: &'a DeTable<'a>,
    known: &'static [&'static str],
}

impl<'a> Section<'a> {
    /// The top of a file, whose keys are `known`.
    ///
    /// # Errors
    /// It has another key. This comes first, since a misspelt key would make others look absent.
    pub(crate) fn top(table: &'a DeTable<'a>, known: &'static [&'static str]) -> Result<Self, Wrong> {
        Section { prefix: "", table, known }.checked()
    }

    /// Reads the value of `key`, if there is one.
    pub(crate) fn read<T>(
        &self,
        key: &'static str,
        value: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Result<Option<T>, Wrong> {
        debug_assert!(self.known.contains(&key), "{key} is in the list of keys");
        self.table
            .get(key)
            .map(|found| value(found.get_ref()).map_err(|why| self.wrong(key, why)))
            .transpose()
    }

    pub(crate) fn required<T>(
        &self,
        key: &'static str,
        value: impl FnOnce(&DeValue<'a>) -> Result<T, String>,
    ) -> Result<T, Wrong> {
        self.read(key, value)?.ok_or_else(|| self.wrong(key, "it is missing"))
    }

    /// The table `key`, whose keys are `known`; an empty one if the file has none.
    pub(crate) fn section(
        &self,
        key: &'static str,
        known: &'static [&'static str],
    ) -> Result<Section<'a>, Wrong> {
        let table = match self.table.get(key) {
            Some(found) => found.get_ref().as_table().ok_or_else(|| self.wrong(key, "it is not a table"))?,
            None => &EMPTY,
        };
        Section { prefix: key, table, known }.checked()
    }

    /// The error that the value of `key` is wrong.
    pub(crate) fn wrong(&self, key: &str, why: impl Into<String>) -> Wrong {
        let span = self.table.get_key_value(key).map_or(0..0, |(key, _)| key.span());
        let dot = if self.prefix.is_empty() { "" } else { "." };
        Wrong { span, key: format!("{}{dot}{key}", self.prefix), why: why.into() }
    }

    /// Refuses the first key that is not known.
    fn checked(self) -> Result<Self, Wrong> {
        let unknown = |key: &&Spanned<_>| !self.known.contains(&AsRef::<str>::as_ref(key.get_ref()));
        let first = self.table.keys().filter(unknown).min_by_key(|key| key.span().start);
        let Some(key) = first.map(|key| key.get_ref().as_ref()) else { return Ok(self) };
        let rest = match self.known.iter().find(|known| is_near(key, known)) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", self.known.join(", ")),
        };
        Err(self.wrong(key, format!("there is no such key; {rest}")))
    }
}

/// Whether `text` may be `key` misspelt: one letter in three may be wrong, absent or too many.
fn is_near(text: &str, key: &str) -> bool {
    let (text, key): (Vec<char>, Vec<char>) = (text.chars().collect(), key.chars().collect());
    let edits_max = key.len() / 3;
    if text.len().abs_diff(key.len()) > edits_max {
        return false;
    }
    // The Levenshtein distance, one row of the matrix after the other.
    let mut row: Vec<usize> = (0..=key.len()).collect();
    for (at, letter) in text.iter().enumerate() {
        let mut left = at + 1;
        let mut next = vec![left];
        for (pair, other) in row.windows(2).zip(&key) {
            if let [diagonal, above] = pair {
                left = (diagonal + usize::from(letter != other)).min(above + 1).min(left + 1);
                next.push(left);
            }
        }
        row = next;
    }
    row.last().is_some_and(|edits| *edits <= edits_max)
}

pub(crate) fn string<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| format!("it is not a string but a TOML {}", value.type_str()))
}

pub(crate) fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "it is neither true nor false".to_owned())
}

pub(crate) fn integer<T: TryFrom<i64>>(value: &DeValue<'_>, low: i64, high: i64) -> Result<T, String> {
    let number =
        value.as_integer().and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok());
    let number =
        number.filter(|number| (low..=high).contains(number)).and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("it is not a whole number from {low} to {high}"))
}

/// Reads a share from 0 to 1, and rounds it to whole percent.
pub(crate) fn percent(value: &DeValue<'_>) -> Result<u8, String> {
    let text = value.as_float().map(|share| share.as_str()).or_else(|| Some(value.as_integer()?.as_str()));
    let share = text.and_then(|text| text.parse().ok()).filter(|share| (0.0..=1.0).contains(share));
    share
        .map(|share: f64| (share * 100.0).round() as u8)
        .ok_or_else(|| "it is not a number from 0 to 1".to_owned())
}

pub(crate) fn list<T>(
    value: &DeValue<'_>,
    item: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let values = value.as_array().ok_or("it is not a list of strings")?;
    if values.len() > LIST_MAX {
        return Err(format!("it has more than {LIST_MAX} entries"));
    }
    values.iter().map(|value| item(string(value.get_ref())?)).collect()
}

pub(crate) fn one_of<T: Copy>(value: &DeValue<'_>, cases: &[(&str, T)]) -> Result<T, String> {
    choose(string(value)?, cases)
}

pub(crate) fn choose<T: Copy>(text: &str, cases: &[(&str, T)]) -> Result<T, String> {
    let names = || cases.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let case = cases.iter().find(|(name, _)| *name == text);
    case.map(|(_, case)| *case).ok_or_else(|| format!("{text:?} is none of {}", names()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_with_a_few_wrong_letters_is_recognised() {
        for (text, key) in [("destinaton", "destination"), ("sped", "speed"), ("exclude_tag", "exclude-tag")]
        {
            assert!(is_near(text, key), "{text}");
        }
        for (text, key) in [("x", "on"), ("", "on"), ("tags", "name"), ("destiny", "destination")] {
            assert!(!is_near(text, key), "{text}");
        }
    }
}
