//! Small values that cannot be invalid: ports, queues, weights, names.

use std::{fmt, str::FromStr, sync::Arc};

use crate::model::{
    ids::{QUEUES_MAX, QueueNum},
    reported::Percent,
};

/// Ports `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    /// The lowest port.
    pub first: u16,
    /// The highest port; not less than `first`.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };
}

/// Reads "80" or "8000-8010".
impl FromStr for PortRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        // `parse` alone would allow a sign.
        let port = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Neighbouring queue numbers, at most [`QUEUES_MAX`]. The default is one queue, with a number that no other
/// program uses by default: 0 is the default of suricata and of most examples of firewall rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRange {
    first: u16,
    last: u16,
}

impl QueueRange {
    /// Makes queues `first..=last`. Returns `None` if there are none or too many.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last && usize::from(last - first) < QUEUES_MAX).then_some(Self { first, last })
    }

    /// Returns the lowest queue.
    #[must_use]
    pub fn first(self) -> QueueNum {
        QueueNum(self.first)
    }

    /// Returns the highest queue.
    #[must_use]
    pub fn last(self) -> QueueNum {
        QueueNum(self.last)
    }

    /// Iterates over all queues, ascending.
    pub fn iter(self) -> impl ExactSizeIterator<Item = QueueNum> {
        (self.first..=self.last).map(QueueNum)
    }

    /// Reports whether `queue` is one of the queues.
    #[must_use]
    pub fn contains(self, queue: QueueNum) -> bool {
        (self.first..=self.last).contains(&queue.0)
    }
}

impl FromStr for QueueRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let PortRange { first, last } = text.parse()?;
        Self::new(first, last).ok_or(())
    }
}

impl Default for QueueRange {
    fn default() -> Self {
        Self { first: 20200, last: 20200 }
    }
}

impl From<QueueNum> for QueueRange {
    /// Makes a range of that queue alone.
    fn from(queue: QueueNum) -> Self {
        Self { first: queue.0, last: queue.0 }
    }
}

impl fmt::Display for QueueRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        PortRange { first: self.first, last: self.last }.fmt(f)
    }
}

/// A share of the table: 1..=100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u8);

impl Weight {
    /// The weight of a backend for which none is configured.
    pub const ONE: Self = Self(1);
    /// The highest weight.
    pub const MAX: u8 = 100;

    /// Makes a weight. Returns `None` outside 1..=100.
    #[must_use]
    pub fn new(weight: u8) -> Option<Self> {
        (1..=Self::MAX).contains(&weight).then_some(Self(weight))
    }

    /// Returns the number.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

/// How often a backend takes its turn in the table: percents of its weight. Only the ratios of shares matter, so with all
/// of every weight the table is that of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u16);

impl Share {
    /// Returns that share of a weight; not less than the smallest there is.
    #[must_use]
    pub fn of(weight: Weight, percent: Percent) -> Self {
        Self(u16::from(weight.get()) * u16::from(percent.get().max(1)))
    }

    /// Returns the number, 1 to 10000.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl From<Weight> for Share {
    fn from(weight: Weight) -> Self {
        Self::of(weight, Percent::ALL)
    }
}

/// The name of a balancer, service or backend: 1 to [`Name::BYTES_MAX`] of `A-Z a-z 0-9 . _ -`, not starting
/// with `-`. Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The maximum length in bytes.
    pub const BYTES_MAX: usize = 48;

    /// Makes a name of `text`. Returns `None` if it is not valid.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = (1..=Self::BYTES_MAX).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        valid.then(|| Self(text.into()))
    }

    /// Makes a name from a literal in this program.
    pub(crate) fn known(text: &'static str) -> Self {
        debug_assert!(Self::new(text).is_some());
        Self(text.into())
    }

    /// Makes a name from a number.
    pub(crate) fn from_index(index: usize) -> Self {
        Self(index.to_string().into())
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a network device: 1 to 15 bytes that the kernel accepts (`dev_valid_name`), without characters
/// that have another meaning in a ruleset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The maximum length in bytes (`IFNAMSIZ` - 1).
    pub const BYTES_MAX: usize = 15;

    /// Makes a device name of `text`. Returns `None` if it is not valid.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let valid = (1..=Self::BYTES_MAX).contains(&text.len())
            && text != "."
            && text != ".."
            && text.bytes().all(|b| b.is_ascii_graphic() && !b"/:*\"\\".contains(&b));
        valid.then(|| Self(text.to_owned()))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The names of an enumeration's variants, in the configuration file and in output.
macro_rules! named {
    ($type:ty { $($variant:ident = $name:literal),+ }) => {
        impl $type {
            /// All variants.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// Returns the name in the configuration file.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name),+
                }
            }

            /// Returns the variant of that name.
            #[must_use]
            pub fn named(name: &str) -> Option<Self> {
                Self::ALL.into_iter().find(|one| one.name() == name)
            }
        }
    };
}
pub(super) use named;

/// Conversion to and from text: `$write` makes the text for output, including JSON, and `$read` reads it.
macro_rules! as_text {
    ($type:ty, $read:expr, $write:expr, $what:literal) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad($write(self))
            }
        }

        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str($write(self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                $read(&text).ok_or_else(|| <D::Error as serde::de::Error>::custom(concat!("no ", $what)))
            }
        }
    };
}
pub(super) use as_text;

/// Serialises a type as the text that `Display` gives, and reads it back by `FromStr`.
macro_rules! as_string {
    ($type:ty, $what:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(|_| <D::Error as serde::de::Error>::custom(concat!("no ", $what)))
            }
        }
    };
}
pub(super) use as_string;

/// Serialises a number that cannot be invalid as that number.
macro_rules! as_number {
    ($type:ty, $number:ty, $read:expr, $write:expr, $what:literal) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serde::Serialize::serialize(&$write(*self), serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let number = <$number as serde::Deserialize>::deserialize(deserializer)?;
                $read(number).ok_or_else(|| <D::Error as serde::de::Error>::custom(concat!("no ", $what)))
            }
        }
    };
}
pub(super) use as_number;

as_string!(PortRange, "range of ports");
as_string!(QueueRange, "range of queues");
as_number!(Weight, u8, Weight::new, Weight::get, "weight");

impl AsRef<str> for InterfaceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

as_text!(Name, Name::new, Name::as_str, "name");
as_text!(InterfaceName, InterfaceName::new, InterfaceName::as_str, "device name");
