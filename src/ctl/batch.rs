//! Questions about packets in a file, one a line.

use std::{
    io::{BufRead as _, BufReader, Read},
    path::Path,
};

use super::error::CtlError;
use crate::status::question::Question;

/// Passes every question of a file to `ask`; for `-` it reads `input`. Skips empty lines and lines that begin
/// with #.
pub(super) fn each(
    input: &mut dyn Read,
    file: &Path,
    mut ask: impl FnMut(Question) -> Result<(), CtlError>,
) -> Result<(), CtlError> {
    let stdin = file == Path::new("-");
    let label = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let input_error = |error| CtlError::Input { file: label.clone(), error };
    let mut opened;
    let input: &mut dyn Read = if stdin {
        input
    } else {
        opened = std::fs::File::open(file).map_err(input_error)?;
        &mut opened
    };
    for (number, line) in (1..).zip(BufReader::new(input).lines()) {
        let line = line.map_err(input_error)?;
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with('#')) {
            continue;
        }
        let question = Question::parse(&words).map_err(|complaint| CtlError::Batch {
            file: label.clone(),
            line: number,
            complaint,
        })?;
        ask(question)?;
    }
    Ok(())
}
