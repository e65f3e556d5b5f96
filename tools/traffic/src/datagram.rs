//! The tool's datagrams. Question and answer have the same head, so that an answer that is late, or another flow's,
//! is told from the one that is awaited:
//!
//! ```text
//! 0           4          8         12
//! | magic     | run u32  | flow u32 | seq u32 | padding                       |   question
//! | magic     | run u32  | flow u32 | seq u32 | name length u8, name, padding |   answer
//! ```
//! Numbers are big-endian. The padding comes back as it was sent, so that a big datagram is big in both directions.

use crate::name::Name;

/// What stands before a question's padding.
pub(crate) const HEAD_BYTES: usize = 16;
/// The longest padding: question and answer still fit into a datagram.
pub(crate) const PADDING_BYTES_MAX: usize = 65_000;
/// The room for any datagram.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 65_535;

const QUESTION: [u8; 4] = *b"srq1";
const ANSWER: [u8; 4] = *b"sra1";

/// Which datagram it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id {
    /// The run of the tool, so that a reused port does not mix two of them up.
    pub(crate) run: u32,
    pub(crate) flow: u32,
    pub(crate) seq: u32,
}

/// Writes the question.
pub(crate) fn question(out: &mut Vec<u8>, id: Id, padding: &[u8]) {
    head(out, QUESTION, id);
    out.extend_from_slice(padding);
}

/// Writes the answer to a question; false, and nothing, when it is none.
pub(crate) fn answer(out: &mut Vec<u8>, question: &[u8], name: &Name) -> bool {
    out.clear();
    let Some((id, padding)) = parse(question, QUESTION) else { return false };
    if padding.len() > PADDING_BYTES_MAX {
        return false;
    }
    head(out, ANSWER, id);
    out.push(u8::try_from(name.as_str().len()).unwrap_or(u8::MAX)); // a name has at most 64 bytes
    out.extend_from_slice(name.as_str().as_bytes());
    out.extend_from_slice(padding);
    true
}

/// Reads an answer: which one, whose, and the padding that came back.
pub(crate) fn parse_answer(bytes: &[u8]) -> Option<(Id, Name, &[u8])> {
    let (id, rest) = parse(bytes, ANSWER)?;
    let (&length, rest) = rest.split_first()?;
    let (name, padding) = rest.split_at_checked(usize::from(length))?;
    Some((id, Name::from_bytes(name)?, padding))
}

fn head(out: &mut Vec<u8>, magic: [u8; 4], id: Id) {
    out.clear();
    out.extend_from_slice(&magic);
    for number in [id.run, id.flow, id.seq] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

fn parse(bytes: &[u8], magic: [u8; 4]) -> Option<(Id, &[u8])> {
    let rest = bytes.strip_prefix(&magic)?;
    let (run, rest) = rest.split_first_chunk::<4>()?;
    let (flow, rest) = rest.split_first_chunk::<4>()?;
    let (seq, rest) = rest.split_first_chunk::<4>()?;
    let [run, flow, seq] = [run, flow, seq].map(|number| u32::from_be_bytes(*number));
    Some((Id { run, flow, seq }, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_names_the_server_and_repeats_the_question() {
        let id = Id { run: 1, flow: 2, seq: 3 };
        let (mut asked, mut answered) = (Vec::new(), Vec::new());
        question(&mut asked, id, b"padding");
        let name: Name = "s1".parse().unwrap();
        assert!(answer(&mut answered, &asked, &name));
        assert_eq!(parse_answer(&answered), Some((id, name.clone(), b"padding".as_slice())));
        assert_eq!(parse_answer(&asked), None);
        assert!(
            !answer(&mut Vec::new(), &answered, &name),
            "an answer is never answered: two servers do not loop"
        );
    }

    proptest! {
        #[test]
        fn malformed_datagrams_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100), magic: bool) {
            let name: Name = "s1".parse().unwrap();
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&ANSWER);
                let _ = parse_answer(&bytes);
                bytes[..4].copy_from_slice(&QUESTION);
            }
            let _ = parse_answer(&bytes);
            let _ = answer(&mut Vec::new(), &bytes, &name);
        }
    }
}
