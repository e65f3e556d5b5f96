//! The TUN device by which held fragments return to the kernel, as if they had just arrived. They pass the
//! ruleset from its beginning, are queued once more, and then find the mark of their packet.
//!
//! The device is not persistent: it ends with lbd, with all its settings. While lbd runs, another program may
//! remove it or set it down. Then the kernel accepts no packets, which the worker counts, until
//! [`Tun::renew`] detects it.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use thiserror::Error;
use tun_tap::{Iface, Mode};

use super::{clock, interface_index};
use crate::{io::Inject, plan::routing::FRAGMENTS_DEVICE};

/// How many packets that the kernel has sent into the device are read at a time; more than the device's queue
/// holds (500).
const DRAINED_PACKETS_MAX: usize = 1024;
/// How long the kernel may take to remove the device of an lbd that was killed.
const REMOVAL: Duration = Duration::from_secs(1);
/// The interval at which lbd checks whether the device is removed.
const REMOVAL_CHECK: Duration = Duration::from_millis(20);

/// Why the device could not be created.
#[derive(Debug, Error)]
pub enum TunError {
    /// Another device has this name.
    #[error(
        "there is a device {FRAGMENTS_DEVICE} that is not this lbd's: rename it, or remove it with: \
         ip link del {FRAGMENTS_DEVICE}"
    )]
    Taken,
    /// The kernel module or the device node is missing.
    #[error("/dev/net/tun cannot be opened ({0}): `modprobe tun`; a container must be given the device")]
    NoKernelPart(io::Error),
    /// A system call failed.
    #[error("TUN device {FRAGMENTS_DEVICE}: {0}")]
    Os(#[from] io::Error),
}

/// The device. Workers inject packets through it; one thread maintains it.
pub struct Tun(ArcSwap<Device>);

struct Device {
    iface: Iface,
    index: u32,
}

impl Tun {
    /// Creates the device, down and without any settings. Waits for the removal of the device of an lbd that
    /// was just killed.
    ///
    /// # Errors
    /// Returns an error if there is such a device already, or the kernel cannot create it.
    pub fn open() -> Result<Self, TunError> {
        Ok(Self(ArcSwap::from_pointee(unless_taken(Device::open)?)))
    }

    /// Returns the device's index.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.0.load().index
    }

    /// Creates the device anew if another program has removed it. Returns whether it was created. Callers
    /// must call this now and then: it also discards the packets that the kernel itself has sent into the
    /// device.
    ///
    /// # Errors
    /// As [`Tun::open`], but without waiting.
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

/// Tries for [`REMOVAL`] to create a device whose name is taken.
fn unless_taken<T>(mut make: impl FnMut() -> Result<T, TunError>) -> Result<T, TunError> {
    let made = clock::wait_for(REMOVAL, REMOVAL_CHECK, || match make() {
        Err(TunError::Taken) => None,
        made => Some(made),
    });
    made.unwrap_or(Err(TunError::Taken))
}

impl Device {
    fn open() -> Result<Self, TunError> {
        // If the name belonged to a persistent device of another program, to which no program is attached,
        // the kernel would return that one.
        if interface_index(FRAGMENTS_DEVICE).is_some() {
            return Err(TunError::Taken);
        }
        let iface = Iface::without_packet_info(FRAGMENTS_DEVICE, Mode::Tun);
        let iface = iface.map_err(|error| match error.raw_os_error() {
            // A device of this name was created meanwhile: another program is attached to it, or it is no TUN
            // device.
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
            // The device has no packet, or is down.
            if self.iface.recv(&mut packet).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
