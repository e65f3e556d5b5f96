# shellcheck shell=bash
# The machines of a cluster: names, numbers, addresses. On the host and in the machines.
#
# vm-001 .. servers, vm-201 .. balancers, vm-221 .. testers; a machine's number ends its addresses, as in xcluster.

# shellcheck disable=SC2034 # for run
CLUSTER_LIMITS="1 to 200 servers, 1 to 20 balancers, 1 to 20 testers"
sizes_allowed() { # SERVERS BALANCERS TESTERS
    (($1 >= 1 && $1 <= 200 && $2 >= 1 && $2 <= 20 && $3 >= 1 && $3 <= 20))
}
node_names() {
    printf 'vm-%03d\n' $(seq 1 "$SERVERS") $(seq 201 $((200 + BALANCERS))) $(seq 221 $((220 + TESTERS)))
}
node_role() {
    case $((10#${1#vm-})) in
        20[1-9] | 21? | 220) echo balancer ;;
        2[2-9]?) echo tester ;;
        *) echo server ;;
    esac
}
# The networks that machines of a role have cards in.
node_networks() { case $1 in server) echo 1 ;; balancer) echo 1 2 ;; tester) echo 2 ;; esac; }

# The clients' addresses on the Nth tester, from 0: the first has 50.0.0.0/16 and 2000::/112.
clients4() { echo "50.$1.0.0/16"; }
clients6() { if (($1)); then printf '2000::%x:0/112\n' "$1"; else echo 2000::/112; fi; }
