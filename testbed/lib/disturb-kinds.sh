# shellcheck shell=bash
# The disturbances that `testbed/run disturb` knows: each a function of a few lines, with a line for what it proves.
#
# A kind holds connections (hold), does what it is about, and asks each connection once more (held_end); new begins new
# connections and counts those that fail. Where the table is the point, drain takes two of the five servers out of service:
# the servers themselves run on, so nothing needs to be lost. Packets of no connection come from the client's namespace
# (traffic forge). All of that is in disturb.sh, which also undoes what a kind has left.

# shellcheck disable=SC2034 # for disturb-command.sh
DISTURB_KINDS=(late-syn forged-syn syn-again forged-rst forged-fin half-closed ack-flood udp-flood conntrack-full unreachable
    too-big cable hang kill flush drain)

disturb_label() { # KIND: what the table calls it
    case $1 in
        late-syn) echo "a copy of the SYN comes late, drained" ;;
        forged-syn) echo "a forged SYN, drained" ;;
        syn-again) echo "SYN-ACK late, drained, SYN again" ;;
        forged-rst) echo "a forged RST, drained" ;;
        forged-fin) echo "a forged FIN, 40 s of silence, drained" ;;
        half-closed) echo "half-closed, answered 45 s later, drained" ;;
        ack-flood) echo "forged ACKs, 3000/s, drained" ;;
        udp-flood) echo "forged UDP, 1000/s, drained" ;;
        conntrack-full) echo "conntrack full, 1000 datagrams/s" ;;
        unreachable) echo "200 forged ICMP host unreachable" ;;
        too-big) echo "forged ICMP fragmentation needed, 552" ;;
        cable) echo "a server's cable out and in again" ;;
        hang) echo "the daemon hangs (SIGSTOP)" ;;
        kill) echo "the daemon is killed (SIGKILL)" ;;
        flush) echo "nft flush ruleset, drained" ;;
        drain) echo "two servers drained and back (control)" ;;
        *) return 1 ;;
    esac
}

# Proves: an open connection does not follow a late copy of its own SYN to another server.
disturb_late_syn() {
    in_ns "$CLIENT" ethtool -K eth0 tx off > /dev/null # so that the capture has whole checksums
    capture_syns
    hold
    wait_until 30 "the capture has each SYN" captured_at_least "$HELD"
    drain
    forge --kind copy --file syns.pcap
    held_end
}

# Proves: nor a SYN that a stranger sends who knows its addresses and ports.
disturb_forged_syn() { hold; drain; forge_held syn; held_end; }

# Proves: while a connection is being opened, a SYN that is sent again goes where the first one went.
disturb_syn_again() {
    answers_wait
    opening
    wait_until 30 "each SYN was sent" syns_seen "$HELD"
    drain
    wait_until 30 "each SYN was sent again, after that" syns_seen "$(($(counter_of "$CLIENT" disturb syns) + HELD))"
    answers_go_on
    opened
}

# Proves: a RST with a wrong sequence number, which both ends ignore, ends nothing.
disturb_forged_rst() { hold; drain; forge_held rst; held_end; }

# Proves: a FIN with a wrong sequence number does not shorten what is remembered of a connection that is silent for 40 s.
disturb_forged_fin() { hold "$SILENT"; drain; forge_held fin; pass_s 40; held_end; }

# Proves: a client that has sent its FIN has a long answer 45 s later from the server that it asked.
disturb_half_closed() {
    servers_signal STOP # the kernel takes connection, question and FIN; the answer waits
    ask_half_closed 20
    drain
    pass_s 45
    servers_signal CONT
    half_closed_end
}

# Proves: 30 000 pairs of forged ACKs push no flow out of a connection tracking table of 8192.
disturb_ack_flood() {
    conntrack_max 8192
    hold
    flood ack 30000 3000
    drain
    flood ack 30000 3000
    held_end
}

# Proves: nor do as many forged datagrams, more than there is room for.
disturb_udp_flood() {
    conntrack_max 8192
    hold
    flood datagram 10000 1000
    drain
    flood datagram 10000 1000
    held_end
}

# Proves: with connection tracking full (1500) amid a flood, open connections go on and new ones begin.
disturb_conntrack_full() {
    conntrack_max 1500
    hold
    flood datagram 3000 1000
    flood_on datagram 60000 1000
    new 20
    held_end
}

# Proves: forged errors about packets of the tunnels reach no client.
disturb_unreachable() { hold; forge_about_tunnels unreachable 200; new 40; held_end; }

# Proves: a forged path MTU of 552 for the tunnels loses no datagram of 1000 bytes.
disturb_too_big() { hold 1000 --message-bytes 1000; forge_about_tunnels too-big 1 --mtu 552; new_datagrams 20 1000; held_end; }

# Proves: right after a server is back on the network, new connections begin.
disturb_cable() {
    HOLD_TIMEOUT_MS=60000 hold # TCP sends again later and later
    cable_out s1
    ip -netns lb201 neigh flush dev eth1
    flood datagram 800 100 # a fifth of it goes to s1, and cannot
    cable_in s1
    wait_until 60 "s1 answers the balancer" in_ns lb201 busybox ping -c 1 -W 1 192.168.1.1
    new 100
    held_end
}

# Proves: new connections begin while the daemon hangs.
disturb_hang() { hold; kill -STOP "${LBD_PID[lb201]}"; new 20 10000; kill -CONT "${LBD_PID[lb201]}"; held_end; }

# Proves: new connections begin while the daemon is dead.
disturb_kill() { hold; balancer_kill lb201; new 20 10000; held_end; }

# Proves: another program's `nft flush ruleset` costs no connection, old or new.
disturb_flush() { hold; drain; in_ns lb201 nft flush ruleset; new 20 20000; held_end; }

# Control. Proves: connections of servers that are drained, and of those that are back, go on.
disturb_drain() { hold; drain; new 20; undrain; new 20; held_end; }
