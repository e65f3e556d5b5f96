# shellcheck shell=bash
# What a scenario needs of kernel and host, each found out by trying it in a namespace that is thrown away.
#
# need NAME succeeds or prints what is missing. Names stand in a scenario's head, as in "# needs: gre queue nginx".

need() {
    case $1 in
        queue) nft_can 'queue num 0 bypass' || nfqueue_there || lacks "NFQUEUE (modules nfnetlink_queue, nft_queue)" ;;
        nft_queue) nft_can 'queue num 0 bypass' || lacks "nft's queue expression (module nft_queue)" ;;
        nft_hash) nft_can 'meta mark set jhash ip saddr mod 7 seed 1' || lacks "nft's jhash (module nft_hash)" ;;
        flowtable) flowtable_can || lacks "nft's flowtable (modules nf_flow_table_inet, nft_flow_offload)" ;;
        nft_numgen) nft_can 'meta mark set numgen random mod 2' || lacks "nft's numgen (module nft_numgen)" ;;
        tun) { : < /dev/net/tun; } 2>/dev/null || lacks "TUN devices (module tun)" ;;
        conntrack) nft_can 'ct mark 1' || lacks "connection tracking (modules nf_conntrack, nft_ct)" ;;
        gre) link_can gre local 127.0.0.1 remote 127.0.0.2 || lacks "GRE tunnels (module ip_gre)" ;;
        ip6gre) link_can ip6gre local ::1 remote ::2 || lacks "GRE over IPv6 (module ip6_gre)" ;;
        ipip) link_can ipip local 127.0.0.1 remote 127.0.0.2 || lacks "IPIP tunnels (module ipip)" ;;
        ip6tnl) link_can ip6tnl local ::1 remote ::2 || lacks "IPv6 tunnels (module ip6_tunnel)" ;;
        gue) modprobe -qa fou fou6 2>/dev/null; scratch ip fou add port 5555 gue || lacks "GUE (modules fou, fou6)" ;;
        nexthop_resilient) nexthops_can || lacks "resilient next-hop groups (Linux 5.13, iproute2 of that time)" ;;
        ipvs_mh) modprobe -qa ip_vs ip_vs_mh 2>/dev/null; scratch ipvsadm -A -t 127.0.0.1:1 -s mh || lacks "IPVS with its Maglev scheduler (modules ip_vs, ip_vs_mh)" ;;
        vrf) link_can vrf table 201 || lacks "VRFs (module vrf)" ;;
        routing) [[ -d $ROUTING ]] || lacks "BIRD and FRR, which are fetched for the host's own release only" ;;
        prometheus) [[ -x $PROMTOOL ]] || lacks "Prometheus, which is fetched for the host's own release only" ;;
        modules) [[ -e /proc/modules && $KERNEL == stock ]] || lacks "modules that this run may load and refuse" ;;
        *) is_program "$1" || lacks "the program $1" ;;
    esac
}
lacks() { printf '%s\n' "$1"; return 1; }
is_program() { case $1 in nginx) [[ -x $NGINX_PROGRAM ]] ;; dnsmasq) [[ -x $DNSMASQ_PROGRAM ]] ;; *) have "$1" ;; esac; }
scratch() { unshare --net -- "$@" >/dev/null 2>&1; }
nft_can() {
    scratch nft "add table inet t; add chain inet t c { type filter hook prerouting priority 0; }; add rule inet t c $1"
}
flowtable_can() { scratch nft 'add table inet t; add flowtable inet t f { hook ingress priority 0; }; add chain inet t c { type filter hook forward priority 0; }; add rule inet t c flow add @f'; }
link_can() { scratch ip link add probe type "$@"; }
nexthops_can() {
    scratch sh -c 'ip link set lo up && ip nexthop add id 1 dev lo && ip nexthop add id 2 group 1 type resilient buckets 4'
}
nfqueue_there() { [[ -e /proc/net/netfilter/nfnetlink_queue ]]; }
