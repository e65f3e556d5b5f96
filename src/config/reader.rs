//! Reads TOML so that every error names its place: file, line, key, what was found and what is allowed. All
//! errors of a file are collected, so that one run of `lbd --check` shows them all.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not the wanted kind of TOML value is all the same"
)]

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

/// One error in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, as it was given.
    pub file: String,
    /// Counted from 1.
    pub line: usize,
    /// Where in the document, such as `service "web": backend "s1": weight`.
    pub key: String,
    /// The value that was found.
    pub found: String,
    /// The values that are allowed.
    pub allowed: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, key, found, allowed } = self;
        write!(f, "{file}:{line}: {key}: found {found}; allowed: {allowed}")
    }
}

/// All errors of a configuration file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A document that is being read, and the errors so far.
pub(super) struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    /// Opens the document. Records an error and returns `None` if it is not TOML.
    pub(super) fn open(file: &'a str, text: &'a str) -> (Self, Option<Table<'a>>) {
        let mut reader = Self { file, text, errors: Vec::new() };
        match DeTable::parse(text) {
            Ok(document) => {
                let at = document.span();
                (reader, Some(Table { place: String::new(), at, entries: document.into_inner() }))
            }
            Err(error) => {
                let at = error.span().unwrap_or(0..0);
                let found = text.get(at.clone()).map(str::trim).filter(|found| !found.is_empty());
                let found = found.map_or_else(String::new, |found| format!(" at `{found}`"));
                let fault = error.message().replace('\n', ", ");
                reader.diagnose(&at, "TOML", format_args!("a fault{found}: {fault}"), "TOML 1.0");
                (reader, None)
            }
        }
    }

    pub(super) fn diagnose(
        &mut self,
        at: &Range<usize>,
        key: &str,
        found: impl fmt::Display,
        allowed: impl fmt::Display,
    ) {
        let line = self.text.bytes().take(at.start).filter(|&byte| byte == b'\n').count() + 1;
        self.errors.push(ConfigError {
            file: self.file.to_owned(),
            line,
            key: visible(key),
            found: visible(&found.to_string()),
            allowed: visible(&allowed.to_string()),
        });
    }

    /// Returns `value`, or the errors if there are any.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigErrors> {
        self.errors.sort_by_key(|error| error.line);
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(ConfigErrors(self.errors)),
        }
    }
}

/// A TOML table, from which keys are taken one by one.
pub(super) struct Table<'a> {
    /// Where the table is, for error messages; empty for the document.
    pub place: String,
    pub at: Range<usize>,
    entries: DeTable<'a>,
}

/// A value and its place in the file.
pub(super) struct Item<'a> {
    pub key: String,
    pub at: Range<usize>,
    pub value: DeValue<'a>,
}

impl<'a> Table<'a> {
    pub(super) fn key(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}: {key}", self.place) }
    }

    /// Takes a key out of the table.
    pub(super) fn take(&mut self, key: &str) -> Option<Item<'a>> {
        let name: DeString<'a> = DeString::from(key.to_owned());
        let (_, value) = self.entries.remove_entry(&Spanned::new(0..0, name))?;
        let at = value.span();
        Some(Item { key: self.key(key), at, value: value.into_inner() })
    }

    /// Takes a key that is required. Records an error if it is missing.
    pub(super) fn require(&mut self, reader: &mut Reader<'_>, key: &str, allowed: &str) -> Option<Item<'a>> {
        let item = self.take(key);
        if item.is_none() {
            reader.diagnose(&self.at, &self.key(key), "nothing", allowed);
        }
        item
    }

    /// Records an error for every key that was not taken.
    pub(super) fn finish(self, reader: &mut Reader<'_>, known: &[&str]) {
        for key in self.entries.keys() {
            reader.diagnose(&key.span(), &self.key(key.get_ref()), "an unknown key", known.join(", "));
        }
    }
}

impl<'a> Item<'a> {
    pub(super) fn diagnose(&self, reader: &mut Reader<'_>, allowed: impl fmt::Display) {
        reader.diagnose(&self.at, &self.key, describe(&self.value), allowed);
    }

    /// Returns the value as a table. Records an error if it is none.
    pub(super) fn table(self, reader: &mut Reader<'_>) -> Option<Table<'a>> {
        match self.value {
            DeValue::Table(entries) => Some(Table { place: self.key, at: self.at, entries }),
            _ => {
                self.diagnose(reader, "a table");
                None
            }
        }
    }

    /// Returns the elements of an array. A single value is treated as an array of one.
    pub(super) fn list(self) -> Vec<Item<'a>> {
        match self.value {
            DeValue::Array(array) => array
                .into_iter()
                .map(|value| Item { key: self.key.clone(), at: value.span(), value: value.into_inner() })
                .collect(),
            value => vec![Item { value, ..self }],
        }
    }

    /// Returns the elements of an array, and records an error if there are none.
    pub(super) fn non_empty_list(self, reader: &mut Reader<'_>, allowed: &str) -> Vec<Item<'a>> {
        if self.value.as_array().is_some_and(|array| array.is_empty()) {
            reader.diagnose(&self.at, &self.key, "an empty array", allowed);
        }
        self.list()
    }

    pub(super) fn bool(&self, reader: &mut Reader<'_>) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            self.diagnose(reader, "true or false");
        }
        value
    }

    /// Returns the value as an integer from `range`. Records an error if it is none.
    pub(super) fn integer<T>(&self, reader: &mut Reader<'_>, range: std::ops::RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i128> + PartialOrd + fmt::Display,
    {
        let value =
            self.as_i128().and_then(|value| T::try_from(value).ok()).filter(|value| range.contains(value));
        if value.is_none() {
            self.diagnose(reader, format_args!("a number from {} to {}", range.start(), range.end()));
        }
        value
    }

    pub(super) fn as_i128(&self) -> Option<i128> {
        let integer = self.value.as_integer()?;
        i128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok()
    }

    /// Returns the value as a string that `read` accepts. Records an error if it is none.
    pub(super) fn string<T>(
        &self,
        reader: &mut Reader<'_>,
        allowed: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let value = self.value.as_str().and_then(read);
        if value.is_none() {
            self.diagnose(reader, allowed);
        }
        value
    }
}

/// Makes text of a file fit for a terminal and for one line of a log: characters that are not visible are
/// escaped, as in `\\u{1b}`.
fn visible(text: &str) -> String {
    let mut seen = String::with_capacity(text.len());
    for one in text.chars() {
        if matches!(one, '"' | '\'' | '\\') {
            seen.push(one);
        } else {
            seen.extend(one.escape_debug());
        }
    }
    seen
}

/// Returns a value as text for an error message.
fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(integer) => integer.to_string(),
        DeValue::Float(float) => float.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
