//! The TUN device by which fragments that were held come back into the kernel, as if they had just come in. They meet the
//! ruleset from its beginning, are queued once more, and find their packet's mark.
//!
//! The device is not persistent: it goes when lbd does, with everything about it. While lbd runs, somebody may remove it
//! or set it down; then the kernel takes nothing, which the worker counts, until [`Tun::renew`] finds out.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use thiserror::Error;
use tun_tap::{Iface, Mode};

use super::{clock, interface_index};
use crate::{io::Inject, plan::elements::FRAGMENTS_DEVICE};

/// What the kernel sends into the device at one time before it is read again; more than its queue holds (500).
const DRAINED_PACKETS_MAX: usize = 1024;
/// How long the kernel may take to remove the device of an lbd that was killed.
const REMOVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether it has.
const REMOVAL_CHECK: Duration = Duration::from_millis(20);

/// Why there is no device.
#[derive(Debug, Error)]
pub enum TunError {
    /// Somebody has one of that name.
    #[error(
        "there is a device {FRAGMENTS_DEVICE} that is not this lbd's: rename it, or remove it with: \
         ip link del {FRAGMENTS_DEVICE}"
    )]
    Taken,
    /// No module, or no device node.
    #[error("/dev/net/tun cannot be opened ({0}): `modprobe tun`; a container must be given the device")]
    NoKernelPart(io::Error),
    /// The operating system said no.
    #[error("TUN device {FRAGMENTS_DEVICE}: {0}")]
    Os(#[from] io::Error),
}

/// The device. Workers inject through it; one thread looks after it.
pub struct Tun(ArcSwap<Device>);

struct Device {
    iface: Iface,
    index: u32,
}

impl Tun {
    /// Makes the device, down and without any settings. That of an lbd that was killed just now is waited for.
    ///
    /// # Errors
    /// When there is one already, or the kernel cannot.
    pub fn open() -> Result<Self, TunError> {
        Ok(Self(ArcSwap::from_pointee(unless_taken(Device::open)?)))
    }

    /// The device's index.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.0.load().index
    }

    /// Makes the device anew if somebody has removed it; says whether it had to. To be called now and then: it also throws
    /// away what the kernel itself has sent into the device.
    ///
    /// # Errors
    /// As [`Tun::open`], which unlike this waits.
    pub fn renew(&self) -> Result<bool, TunError> {
        let device = self.0.load();
        if interface_index(FRAGMENTS_DEVICE) == Some(device.index) {
            device.drain();
            return Ok(false);
        }
        self.0.store(Arc::new(Device::open()?));
        Ok(true)
    }
}

impl Inject for Arc<Tun> {
    fn inject(&mut self, packet: &[u8]) -> io::Result<()> {
        match self.0.load().iface.send(packet)? {
            taken if taken == packet.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

/// Tries for a while to make a device whose name is taken.
fn unless_taken<T>(mut make: impl FnMut() -> Result<T, TunError>) -> Result<T, TunError> {
    let made = clock::wait_for(REMOVAL, REMOVAL_CHECK, || match make() {
        Err(TunError::Taken) => None,
        made => Some(made),
    });
    made.unwrap_or(Err(TunError::Taken))
}

impl Device {
    fn open() -> Result<Self, TunError> {
        // The kernel would hand out a persistent device of somebody else, to which no program is attached.
        if interface_index(FRAGMENTS_DEVICE).is_some() {
            return Err(TunError::Taken);
        }
        let iface = Iface::without_packet_info(FRAGMENTS_DEVICE, Mode::Tun);
        let iface = iface.map_err(|error| match error.raw_os_error() {
            // One was made since: by a program that is attached to it, or no TUN device.
            Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => TunError::Taken,
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoKernelPart(error),
            Some(_) | None => TunError::Os(error),
        })?;
        iface.set_non_blocking()?;
        let index = interface_index(iface.name()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { iface, index })
    }

    fn drain(&self) {
        let mut packet = [0; 2048];
        for _ in 0..DRAINED_PACKETS_MAX {
            // Nothing there, or the device is down.
            if self.iface.recv(&mut packet).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
