//! The name by which a server answers, and by which clients tell which server they reached.

use std::str::FromStr;

/// 1 to 64 printable ASCII characters without spaces.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

impl Name {
    pub(crate) const BYTES_MAX: usize = 64;

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fits = (1..=Self::BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic);
        fits.then(|| Self(bytes.iter().map(|&byte| char::from(byte)).collect()))
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::from_bytes(text.as_bytes()).ok_or_else(|| {
            format!("a name has 1 to {} printable ASCII characters and no space", Self::BYTES_MAX)
        })
    }
}
