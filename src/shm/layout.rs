//! A state in a region: a JSON document, and the Maglev tables. Services with the same table share one. Tables
//! are stored anywhere in the region, and stay in place as long as a live state uses them. So a reader reads
//! only the tables that it does not have yet, and a writer writes only the new ones.
//!
//! ```text
//!  a document     { "generation", "state", "tables" }, and spaces up to a multiple of 8. The state is
//!                 [`State`] as serde writes it; `tables` has for each service where its table begins and the
//!                 checksum of its entries, or null
//!
//!  a table        2 bytes for each of M ranks, in the machine's byte order, and zeros up to a multiple of 8;
//!                 none if no backend is active
//! ```
//!
//! A setting of [`Balancer`](crate::config::Balancer) that a document does not have gets its default, and what a
//! document has besides is not read. So a region outlives a change of lbd and lbctl to another version; an older
//! lbctl that changes it drops what it does not know. A key that a service or a backend gets needs
//! `#[serde(default)]` for that.
//!
//! [`decode`] takes no value unchecked: every value is converted to the type that cannot be invalid, and all
//! of them are checked together ([`State::check`]). So are tables ([`TablePlace::table`]). A checksum detects
//! accidents; this detects everything else.

use std::{collections::HashMap, ops::Range, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{RegionError, slots::REGION_BYTES_MAX};
use crate::{lookup::maglev::Table, model::ids::Generation, state::State};

/// What is written.
#[derive(Serialize)]
struct Written<'a> {
    generation: Generation,
    state: &'a State,
    tables: Vec<Option<TableRecord>>,
}

/// What is read.
#[derive(Deserialize)]
struct Document {
    generation: Generation,
    state: State,
    tables: Vec<Option<TableRecord>>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct TableRecord {
    /// Where the table begins in the region, in bytes.
    at: usize,
    /// See [`Table::digest`].
    checksum: u64,
}

/// Where the table of a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TablePlace {
    at: usize,
    entries: usize,
    /// The number of backends that the table may name.
    ranks: usize,
    checksum: u64,
}

impl TablePlace {
    /// Returns the table's bytes in the region.
    #[must_use]
    pub fn bytes(&self) -> Range<usize> {
        self.at..self.at + table_bytes(self.entries)
    }

    /// Returns the table of this place, without its entries.
    #[must_use]
    pub fn unread(&self) -> Table {
        Table::unread(self.checksum, self.entries, self.ranks)
    }

    /// Returns the table in these bytes.
    ///
    /// # Errors
    /// When it is another table, or names a backend that does not exist.
    pub fn table(&self, bytes: &[u8]) -> Result<Table, RegionError> {
        let entries =
            bytes.as_chunks().0.get(..self.entries).ok_or(RegionError::Corrupt("a table's length"))?;
        self.checked(&Table::new(entries.iter().map(|entry| u16::from_ne_bytes(*entry)).collect::<Arc<_>>()))
    }

    /// Returns a table that the reader has already, if it is the one of this place.
    ///
    /// # Errors
    /// As [`TablePlace::table`].
    pub fn checked(&self, table: &Table) -> Result<Table, RegionError> {
        if !table.is_read() || table.identity() != (self.checksum, self.entries) {
            return Err(RegionError::Corrupt("a table's checksum"));
        }
        if table.ranks() > self.ranks {
            return Err(RegionError::Corrupt("a table entry"));
        }
        Ok(table.clone())
    }
}

/// Returns the number of bytes that a table of this many entries takes.
#[must_use]
pub const fn table_bytes(entries: usize) -> usize {
    (entries * 2).next_multiple_of(8)
}

/// Returns the document of `state`, a multiple of 8 bytes. `place` is called once for each of its tables. It
/// returns where the table is or will be in the region, at a multiple of 8.
///
/// # Errors
/// Never for a state: all of it is text, numbers and lists.
pub fn encode(
    state: &State,
    generation: Generation,
    mut place: impl FnMut(&Table) -> usize,
) -> Result<Vec<u8>, RegionError> {
    let mut places = HashMap::new();
    let tables = state.services.iter().map(|service| {
        let table = &service.table;
        let mut at = || *places.entry(table.identity()).or_insert_with(|| place(table));
        (!table.is_empty()).then(|| TableRecord { at: at(), checksum: table.digest() })
    });
    let tables = tables.collect();
    let mut bytes = serde_json::to_vec(&Written { generation, state, tables })?;
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}

/// Returns the generation and the state in a document. The tables of the state are not read. Also returns where
/// the table of each service is; `None` if it has none.
///
/// # Errors
/// When the document is not valid.
pub fn decode(bytes: &[u8]) -> Result<(Generation, State, Vec<Option<TablePlace>>), RegionError> {
    let Document { generation, mut state, tables } = serde_json::from_slice(bytes)?;
    state.check().map_err(RegionError::Corrupt)?;
    if tables.len() != state.services.len() {
        return Err(RegionError::Corrupt("the number of tables"));
    }
    let mut places = Vec::with_capacity(tables.len());
    let ranks: Vec<usize> = state.services.iter().map(|service| state.serving(service).count()).collect();
    for ((service, table), ranks) in state.services.iter_mut().zip(tables).zip(ranks) {
        if table.is_some() == (ranks == 0) {
            return Err(RegionError::Corrupt("which services have a table"));
        }
        let entries = service.table_size.entries();
        let place = table.map(|TableRecord { at, checksum }| TablePlace { at, entries, ranks, checksum });
        if place.is_some_and(|place| !place.at.is_multiple_of(8) || place.at > REGION_BYTES_MAX) {
            return Err(RegionError::Corrupt("where a table is"));
        }
        service.table = place.as_ref().map_or_else(Table::default, TablePlace::unread);
        places.push(place);
    }
    Ok((generation, state, places))
}

#[cfg(test)]
mod tests;
