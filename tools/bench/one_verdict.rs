//! Who answers each packet of a queue by itself: one system call receives it, one gives the verdict and a mark. For
//! `tools/bench/compare`; it does what a program on libnetfilter_queue mostly does: it has whole packets copied, by the crate
//! `nfq`, which allocates for each, and hashes.
//!
//! `one_verdict QUEUE MARKS`: a flow's addresses and ports choose one of the marks 1 to MARKS. IPv4 without options only.
//! It says `ready` when it listens, and runs until it is ended.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a program of its own, and no part of the product"
)]

use std::{error::Error, io::Write as _};

use synrail::{
    balance::Verdict,
    io::{Message as _, Queue as _, QueueError},
    model::ids::{Mark, MarkMask, QueueNum},
    sys::nfqueue::FragmentQueue,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, queue, marks] = &arguments[..] else { return Err("usage: one_verdict QUEUE MARKS".into()) };
    let marks: u32 = marks.parse()?;
    let mut queue = FragmentQueue::open(QueueNum(queue.parse()?), MarkMask::new(0xffff)?)?;
    println!("ready");
    std::io::stdout().flush()?;
    loop {
        let answered = queue.receive().and_then(|message| match message {
            Some(message) => {
                let mark = Mark(1 + hash(message.bytes()) % marks);
                queue.answer(message, Verdict::Steer(mark))
            }
            None => Ok(()),
        });
        match answered {
            Ok(()) | Err(QueueError::Overrun | QueueError::TooLate) => {}
            Err(QueueError::Closed(error) | QueueError::Other(error)) => return Err(error.into()),
        }
    }
}

/// FNV-1a of addresses and ports.
fn hash(packet: &[u8]) -> u32 {
    let key = packet.get(12..24).unwrap_or_default();
    key.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
