# shellcheck shell=bash
# proves: TCP and UDP over IPv4 and IPv6 reach four backends; nothing is lost; one packet a connection is queued
#
# The first thing to look at. Ends with a summary that a person can read.
# topology: dsr:servers=4,balancers=1
# needs: queue conntrack gre traffic
# limit_s: 200

web_up gre
demo_traffic 200 lb201
expect_eq "replies that passed the balancer" "$(witness lb201 from_vip)" 0
