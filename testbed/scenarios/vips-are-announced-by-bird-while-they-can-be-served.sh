# shellcheck shell=bash
# proves: BIRD tells a router by BGP with BFD which VIPs a balancer can serve: drained, without a backend, or cut off it loses its routes, and no flow is lost
# topology: dsr:servers=3,balancers=2
# steering: any
# needs: queue conntrack traffic routing
# captures: no
# limit_s: 1800

announcements_by bird
