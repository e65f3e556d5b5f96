//! The queue of fragments, and of probes. The crate `nfq` reads and answers it, one packet at a time.

use super::{Capacity, OpenError, classify, listen};
use crate::{
    balance::Verdict,
    io::{Message, Queue, QueueError},
    model::ids::{Mark, MarkMask, QueueNum},
};

/// A queue of fragments that this process listens to.
pub struct FragmentQueue {
    inner: nfq::Queue,
    number: QueueNum,
    mask: MarkMask,
}

impl FragmentQueue {
    /// Listens to queue `number`. Only bits within `mask` are set in marks.
    ///
    /// # Errors
    /// Returns an error if another process listens, or the kernel cannot queue.
    pub fn open(number: QueueNum, mask: MarkMask) -> Result<Self, OpenError> {
        let (inner, _) = listen(number, Capacity::FRAGMENTS)?;
        Ok(Self { inner, number, mask })
    }
}

/// A packet that waits for a verdict.
pub struct NfMessage(nfq::Message);

impl Message for NfMessage {
    fn bytes(&self) -> &[u8] {
        self.0.get_payload()
    }

    fn arrived_by(&self) -> u32 {
        self.0.get_indev()
    }
}

impl Queue for FragmentQueue {
    type Message = NfMessage;

    fn number(&self) -> QueueNum {
        self.number
    }

    fn receive(&mut self) -> Result<Option<NfMessage>, QueueError> {
        match self.inner.recv() {
            Ok(message) => Ok(Some(NfMessage(message))),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => Ok(None),
                _ => Err(classify(error)),
            },
        }
    }

    fn answer(&mut self, NfMessage(mut message): NfMessage, verdict: Verdict) -> Result<(), QueueError> {
        match verdict {
            Verdict::Steer(Mark(mark)) => {
                message.set_nfmark(message.get_nfmark() & !self.mask.bits() | mark);
                message.set_verdict(nfq::Verdict::Accept);
            }
            Verdict::Pass => message.set_verdict(nfq::Verdict::Accept),
            Verdict::Drop => message.set_verdict(nfq::Verdict::Drop),
        }
        self.inner.verdict(message).map_err(classify)
    }
}
