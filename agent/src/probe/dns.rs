//! A DNS query over UDP (RFC 1035), and what comes back: no error, and the address that is expected if there is one.

use std::net::IpAddr;

use synrail::model::{DnsProbe, DnsRecord};

use super::{Failed, Found, Target, random, udp};

/// How many datagrams that are no answer to the query are passed over.
const STRANGERS_MAX: usize = 16;
const HEADER_BYTES: usize = 12;
const CLASS_IN: u16 = 1;
/// RFC 1035, section 4.1.1: an answer, its kind of query, cut off, recursion desired, code of the result.
const QR: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RCODE: u16 = 0x000f;

/// Asks a server.
pub async fn probe(target: &Target, probe: &DnsProbe) -> Found {
    let id = (random() & 0xffff) as u16;
    let query = query(id, probe);
    let socket = udp::exchange_socket(target)?;
    udp::send(&socket, &query, target).await?;
    for _ in 0..STRANGERS_MAX {
        let answer = udp::receive(&socket, target).await?;
        if is_answer(&query, &answer) {
            return judge(&query, &answer, probe).map_err(Failed::Backend);
        }
    }
    Err("answers to other queries".into())
}

/// The number of the record's type (RFC 1035, section 3.2.2, and RFC 3596).
fn number(record: DnsRecord) -> u16 {
    match record {
        DnsRecord::A => 1,
        DnsRecord::Soa => 6,
        DnsRecord::Txt => 16,
        DnsRecord::Aaaa => 28,
    }
}

fn query(id: u16, probe: &DnsProbe) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + probe.query.len() + 6);
    for word in [id, RD, 1, 0, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    for label in probe.query.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(number(probe.record).to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    bytes
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

/// Reports whether it answers this query: the same number, the same question.
fn is_answer(query: &[u8], answer: &[u8]) -> bool {
    let question = answer.get(HEADER_BYTES..query.len());
    word(answer, 0) == word(query, 0)
        && word(answer, 2).is_some_and(|flags| flags & (QR | OPCODE) == QR)
        && word(answer, 4) == Some(1)
        && question.is_some_and(|question| question.eq_ignore_ascii_case(&query[HEADER_BYTES..]))
}

fn judge(query: &[u8], answer: &[u8], probe: &DnsProbe) -> Result<String, String> {
    let flags = word(answer, 2).unwrap_or(0);
    match flags & RCODE {
        0 => {}
        1 => return Err("the server says that the query has a wrong form (FORMERR)".into()),
        2 => return Err("the server failed (SERVFAIL)".into()),
        3 => return Err(format!("there is no {} (NXDOMAIN)", probe.query)),
        4 => return Err("the server does not answer such queries (NOTIMP)".into()),
        5 => return Err("the server refused (REFUSED)".into()),
        other => return Err(format!("the server answered with error {other}")),
    }
    let records = usize::from(word(answer, 6).unwrap_or(0));
    let Some(expected) = probe.expect else { return Ok(format!("{records} records")) };
    match addresses(&answer[query.len()..], records) {
        Some(found) if found.contains(&expected) => Ok(format!("the answer has {expected}")),
        _ if flags & TC != 0 => Err(format!("the answer is cut off, and has no {expected}")),
        Some(_) => Err(format!("the answer has no {expected}")),
        None => Err("the answer has a wrong form".into()),
    }
}

/// Returns the addresses of the answer's records; `None` if they are not as they should be.
fn addresses(mut bytes: &[u8], records: usize) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    for _ in 0..records {
        bytes = after_name(bytes)?;
        let (kind, class, length) = (word(bytes, 0)?, word(bytes, 2)?, usize::from(word(bytes, 8)?));
        let data = bytes.get(10..10 + length)?;
        bytes = bytes.get(10 + length..)?;
        let address = match (kind, class) {
            (1, CLASS_IN) => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            (28, CLASS_IN) => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        found.extend(address);
    }
    Some(found)
}

/// Returns what follows a name. Whose records they are does not matter, so references to other places (section 4.1.4)
/// are not followed.
fn after_name(mut bytes: &[u8]) -> Option<&[u8]> {
    loop {
        let (&length, rest) = bytes.split_first()?;
        match length {
            0 => return Some(rest),
            1..=63 => bytes = rest.get(usize::from(length)..)?,
            192.. => return rest.get(1..),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> DnsProbe {
        DnsProbe { query: "www.example.org".into(), record: DnsRecord::A, expect: "192.0.2.7".parse().ok() }
    }

    /// An answer with these flags and records.
    fn answer(query: &[u8], flags: u16, count: u16, records: &[u8]) -> Vec<u8> {
        let mut answer = query.to_vec();
        answer[2..4].copy_from_slice(&flags.to_be_bytes());
        answer[6..8].copy_from_slice(&count.to_be_bytes());
        answer.extend(records);
        answer
    }

    /// An alias, then an address, with references to names before.
    const RECORDS: [u8; 34] = [
        0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 6, 3, b'a', b'b', b'c', 0xc0, 16, // CNAME abc.example.org
        0xc0, 43, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7,
    ];

    #[test]
    fn the_query_is_as_the_rfc_says() {
        let query = query(0x1234, &asked());
        assert_eq!(query[..12], [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&query[12..], b"\x03www\x07example\x03org\x00\x00\x01\x00\x01");
        let root = DnsProbe { query: ".".into(), record: DnsRecord::Soa, expect: None };
        assert_eq!(&super::query(1, &root)[12..], b"\x00\x00\x06\x00\x01");
    }

    #[test]
    fn an_answer_is_one_to_this_query() {
        let query = query(7, &asked());
        let good = answer(&query, QR, 2, &RECORDS);
        assert!(is_answer(&query, &good));
        assert!(!is_answer(&query, &query), "a query is no answer");
        let mut other = good.clone();
        other[1] ^= 1;
        assert!(!is_answer(&query, &other));
        let mut other = good.clone();
        other[20] ^= 1;
        assert!(!is_answer(&query, &other));
        assert!((0..query.len()).all(|length| !is_answer(&query, &good[..length])));
    }

    #[test]
    fn the_expected_address_is_found_and_errors_are_named() {
        let probe = asked();
        let query = query(7, &probe);
        let judged =
            |flags, count, records: &[u8]| judge(&query, &answer(&query, flags, count, records), &probe);
        assert_eq!(judged(QR, 2, &RECORDS).unwrap(), "the answer has 192.0.2.7");
        assert_eq!(judged(QR, 1, &RECORDS).unwrap_err(), "the answer has no 192.0.2.7");
        assert!(judged(QR | TC, 1, &RECORDS).unwrap_err().contains("cut off"));
        assert!(judged(QR | 2, 0, &[]).unwrap_err().contains("SERVFAIL"));
        assert!(judged(QR | 3, 0, &[]).unwrap_err().contains("NXDOMAIN"));
        for length in 0..RECORDS.len() {
            assert!(judged(QR, 2, &RECORDS[..length]).unwrap_err().contains("wrong form"), "{length}");
        }
        let without = DnsProbe { expect: None, ..probe.clone() };
        assert_eq!(judge(&query, &answer(&query, QR, 9, b"garbage"), &without).unwrap(), "9 records");
    }

    #[test]
    fn a_name_that_refers_to_itself_ends() {
        assert_eq!(addresses(&[0xc0, 0, 0, 1], 1), None);
        assert_eq!(addresses(&[0x80, 0], 1), None);
        assert_eq!(addresses(&[63], 65_535), None);
    }
}
