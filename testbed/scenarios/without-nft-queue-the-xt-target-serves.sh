# shellcheck shell=bash
# proves: on a kernel without the module nft_queue lbd falls back to the xt NFQUEUE target by itself, and says so
#
# The module is unloaded, and modprobe is told that it cannot be loaded; as on custom and microVM kernels.
# topology: dsr:servers=3
# needs: modules conntrack gre traffic
# limit_s: 500

echo 'install nft_queue /bin/false' > /etc/modprobe.d/testbed-no-nft-queue.conf
finally 'rm -f /etc/modprobe.d/testbed-no-nft-queue.conf'
gone() { modprobe --remove nft_queue 2>/dev/null; ! grep -q '^nft_queue ' /proc/modules; }
# Connections of the scenario before may keep its namespaces for a while.
wait_until 300 "nft_queue is not loaded" gone
expect_refused "nft's own queue expression" 'No such file|not supported' \
    in_ns lb201 nft 'add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; add rule inet t c queue num 0'

web_up gre
expect_grep "lbd says that it falls back" 'nft_queue' lb201.lbd.log
expect_eq "nft_queue is still not loaded" "$(grep -c '^nft_queue ' /proc/modules || true)" 0
before=$(kernel_queued lb201)
connect_all 50 --messages 10
expect_eq "packets queued" "$(($(kernel_queued lb201) - before))" "$(syns_asked lb201)"
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0

balancer_freeze lb201
again=$(witness lb201 syn_again)
connect_all 5
expect_eq "SYNs that had to be sent again while lbd hung" "$(($(witness lb201 syn_again) - again))" 0
balancer_thaw lb201
