# shellcheck shell=bash
# proves: the scale test with synrail: 100 connections, 2 of 10 backends deactivated and activated again: none is lost
#
# The connections of the two as well: they stay until they end, while new ones go elsewhere.
# topology: dsr:servers=10
# needs: gre traffic queue conntrack
# captures: no
# limit_s: 400

scale_run synrail 100 "1 2"
expect_eq "connections lost when two backends went out" "$(row lost_out)" 0
expect_eq "connections lost when they came in again" "$(row lost_in)" 0
expect_eq "packets that lbd was asked about, of $(row packets) to the VIP: SYNs" "$(row packets_asked)" "$(syns_asked lb201)"
