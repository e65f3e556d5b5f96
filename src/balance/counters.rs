//! Counters of decisions: every verdict and every fault has a counter of its own, and every counter has a
//! line in `lbctl stats`. PURE.

use crate::{
    model::ids::{TARGETS_MAX, TargetId},
    packet::Malformed,
};

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal,)+) => {
        /// An event that a worker counts. The order is that of the statistics block in shared memory.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Counter {
            /// All counters, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns the name in `lbctl stats`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Returns what the counter counts, in one line.
            #[must_use]
            pub fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

counters! {
    /// Packets that came through the queue.
    Packets = "packets",
    /// TCP connections steered: SYNs, retransmitted ones included.
    SteeredSyn = "steered_syn",
    /// TCP packets of connections that this balancer did not see begin; with every-packet steering, all but
    /// SYNs.
    SteeredMidstream = "steered_midstream",
    /// UDP flows steered; with every-packet steering, packets.
    SteeredUdp = "steered_udp",
    /// SCTP packets steered.
    SteeredSctp = "steered_sctp",
    /// ICMP and ICMPv6 echo requests steered.
    SteeredEcho = "steered_echo",
    /// ICMP and ICMPv6 errors steered to where the flow that they quote goes.
    SteeredIcmpError = "steered_icmp_error",
    /// Packets of other protocols steered.
    SteeredOther = "steered_other",
    /// Of all those steered: packets whose flow is off-table, and stays where it is.
    FollowedOffTable = "followed_off_table",
    /// Packets for no virtual address, which a rule of another program sends to a queue of ours: accepted as
    /// they came.
    Foreign = "foreign",
    /// Dropped: no service claims the destination.
    DropNoService = "drop_no_service",
    /// Dropped: no backend gets new flows of the service (those that the kernel rejects do not come here).
    DropNoBackend = "drop_no_backend",
    /// Dropped: a later fragment, whose ports are not known.
    DropFragment = "drop_fragment",
    /// Dropped: IP header cut short.
    DropIpHeader = "drop_ip_header",
    /// Dropped: IP length field contradicts the header.
    DropIpLength = "drop_ip_length",
    /// Dropped: IPv6 extension header cut short.
    DropExtension = "drop_extension",
    /// Dropped: too many IPv6 extension headers.
    DropTooManyExtensions = "drop_too_many_extensions",
    /// Dropped: transport header cut short.
    DropL4Header = "drop_l4_header",
    /// Dropped: ICMP error that quotes no packet of its receiver, or a later fragment whose ports are not
    /// known.
    DropIcmpQuote = "drop_icmp_quote",
    /// Fragments that came to the fragment queue for the first time.
    Fragments = "fragments",
    /// Fragments steered to a backend.
    SteeredFragment = "steered_fragment",
    /// First fragments that followed their flow's connection mark, not the table.
    FragmentPinned = "fragment_pinned",
    /// UDP flows pinned, or kept, by a fragmented datagram.
    FragmentPins = "fragment_pins",
    /// Fragments that another balancer of the tier owns, sent there.
    FragmentForwarded = "fragment_forwarded",
    /// Fragments that another balancer of the tier sent here.
    FragmentFromTier = "fragment_from_tier",
    /// Fragments held until their first one comes.
    FragmentHeld = "fragment_held",
    /// Held fragments sent on when their first one had come, by the TUN device.
    FragmentInjected = "fragment_injected",
    /// Held fragments that the TUN device did not take, or for which too many others waited.
    FragmentInjectFailed = "fragment_inject_failed",
    /// Fragmented packets forgotten before their time, to make room for others.
    FragmentEvicted = "fragment_evicted",
    /// Dropped: a fragment that was there before, of a packet that is still under way.
    DropFragmentDuplicate = "drop_fragment_duplicate",
    /// Dropped: a fragment that overlaps another, or contradicts it about the packet's length (RFC 5722).
    DropFragmentOverlap = "drop_fragment_overlap",
    /// Dropped: a first fragment without the whole transport header, or one that would overwrite it (RFC
    /// 1858, 7112).
    DropFragmentTiny = "drop_fragment_tiny",
    /// Dropped: a fragment of impossible length.
    DropFragmentLength = "drop_fragment_length",
    /// Dropped: a fragment of a packet that was given up for one of the reasons above, or has no backend.
    DropFragmentPoisoned = "drop_fragment_poisoned",
    /// Dropped: a packet of too many fragments.
    DropFragmentParts = "drop_fragment_parts",
    /// Dropped: a fragment of a source that has its share of the fragment table.
    DropFragmentSource = "drop_fragment_source",
    /// Dropped: a fragment that cannot be held: not copied whole, or its packet alone would take more than is
    /// held of all.
    DropFragmentFull = "drop_fragment_full",
    /// Dropped: held fragments that had to make room for others.
    DropFragmentEvicted = "drop_fragment_evicted",
    /// Dropped: held fragments whose first one did not come in time.
    DropFragmentExpired = "drop_fragment_expired",
    /// Dropped: a fragment that came back by the TUN device when its packet was forgotten.
    DropFragmentLate = "drop_fragment_late",
    /// Probes of the packet tracer that came through the queue; none goes any further.
    Probes = "probes",
    /// Probes whose sender was told what becomes of such packets.
    ProbesReported = "probes_reported",
    /// Probes that ask for a report to an address that is not among the tracer's `receivers`, or to a
    /// well-known port.
    ProbesRefused = "probes_refused",
    /// Probes that cannot be read: damaged, of another version, or without a receiver.
    ProbesMalformed = "probes_malformed",
    /// Probes about which the report could not be sent.
    ProbesUnsent = "probes_unsent",
    /// Connection tracking could not be asked about a first fragment or a probe, and the table decided; or it
    /// could not be told.
    ConntrackError = "conntrack_error",
    /// Now: fragmented packets of which something is remembered.
    FragmentEntriesNow = "fragment_entries_now",
    /// Now: fragments held.
    FragmentHeldPacketsNow = "fragment_held_packets_now",
    /// Now: bytes of them.
    FragmentHeldBytesNow = "fragment_held_bytes_now",
    /// The socket's receive buffer overflowed (ENOBUFS); the kernel let those packets go on undecided.
    SocketOverrun = "socket_overrun",
    /// Verdicts for packets that the kernel had already dropped (ENOENT).
    VerdictTooLate = "verdict_too_late",
    /// Other errors of the queue's socket.
    SocketError = "socket_error",
}

impl Counter {
    /// Reports whether it is a level, which shows the present amount, and not a count.
    #[must_use]
    pub fn is_level(self) -> bool {
        self.name().ends_with("_now")
    }
}

impl From<Malformed> for Counter {
    fn from(reason: Malformed) -> Self {
        match reason {
            // Such a packet has no destination, so it is not for a virtual address.
            Malformed::Version => Self::Foreign,
            Malformed::IpHeader => Self::DropIpHeader,
            Malformed::IpLength => Self::DropIpLength,
            Malformed::Extension => Self::DropExtension,
            Malformed::TooManyExtensions => Self::DropTooManyExtensions,
            Malformed::L4Header => Self::DropL4Header,
            Malformed::IcmpQuote => Self::DropIcmpQuote,
            Malformed::FragmentLength => Self::DropFragmentLength,
        }
    }
}

/// The counters of one worker since its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    values: [u64; Counter::ALL.len()],
    /// Packets steered to each target, by [`TargetId::index`].
    targets: Vec<u64>,
    /// Targets counted since they were last drained, some more than once. A worker drains the list after each
    /// batch. If that fails for long, the list stays at [`TARGETS_MAX`] entries.
    touched: Vec<TargetId>,
}

impl Default for Counters {
    fn default() -> Self {
        Self { values: [0; Counter::ALL.len()], targets: vec![0; TARGETS_MAX], touched: Vec::new() }
    }
}

impl Counters {
    /// Adds one to a counter.
    pub fn count(&mut self, counter: Counter) {
        self.values[counter as usize] += 1;
    }

    /// Adds `by` to a counter.
    pub fn add(&mut self, counter: Counter, by: u64) {
        self.values[counter as usize] += by;
    }

    /// Sets a level.
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.values[counter as usize] = value;
    }

    /// Counts a packet steered to `target`.
    pub fn count_target(&mut self, target: TargetId) {
        if let Some(count) = self.targets.get_mut(target.index()) {
            *count += 1;
            if self.touched.last() != Some(&target) && self.touched.len() < TARGETS_MAX {
                self.touched.push(target);
            }
        }
    }

    /// Passes every target that was counted since the last call to `each`, with its count.
    ///
    /// # Errors
    /// Returns the first error of `each`.
    pub fn drain_touched<E>(
        &mut self,
        mut each: impl FnMut(TargetId, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let targets = &self.targets;
        self.touched.drain(..).try_for_each(|target| each(target, targets[target.index()]))
    }

    /// Returns the value of a counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Returns all values in the order of [`Counter::ALL`].
    #[must_use]
    pub fn values(&self) -> &[u64] {
        &self.values
    }

    /// Returns the number of packets steered to each target, by [`TargetId::index`].
    #[must_use]
    pub fn targets(&self) -> &[u64] {
        &self.targets
    }
}
