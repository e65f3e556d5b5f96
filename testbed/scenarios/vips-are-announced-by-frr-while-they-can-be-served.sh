# shellcheck shell=bash
# proves: the same by FRR, which takes the table as a VRF, for IPv4 and IPv6
# topology: dsr:servers=3,balancers=2
# needs: queue conntrack traffic vrf routing
# captures: no
# limit_s: 1800

announcements_by frr
