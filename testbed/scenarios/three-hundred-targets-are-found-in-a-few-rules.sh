# shellcheck shell=bash
# proves: with 300 targets every mark reaches its own routing table, and the kernel walks few rules to find it
#
# The walk is replayed over "ip rule" for every mark in use, as the kernel does it for what comes in by eth2: in order of
# priority, goto forward.
# 300 rules in a row would cost 150 on average. The servers share the 300 addresses and have one tunnel device for all.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack gre traffic python3
# captures: no
# limit_s: 300

{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    for ((n = 0; n < 300; n++)); do config_backend "t$n" "192.168.$((10 + n / 200)).$((1 + n % 200))" gre; done
} > lb201.toml
for ((s = 1; s <= 3; s++)); do
    {
        # A GRE device with no remote address takes what comes to any local address.
        echo "link add tunnel type gre local any remote 192.168.1.201 dev eth1"
        echo "link set tunnel up"
        echo "address add $VIP4/32 dev lo"
        echo "address add $VIP6/128 dev lo nodad"
        echo "route replace default via 192.168.1.254 dev eth1 advmss 1400"
        for ((n = s - 1; n < 300; n += 3)); do echo "address add 192.168.$((10 + n / 200)).$((1 + n % 200))/32 dev lo"; done
    } | batch "s$s"
    settings "s$s" net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.all.arp_ignore=1
    for ((n = s - 1; n < 300; n += 3)); do
        echo "route add 192.168.$((10 + n / 200)).$((1 + n % 200))/32 via 192.168.1.$s"
    done | batch lb201
done
witness_up lb201
balancer_start lb201 lb201.toml
servers_up 1 3 "$VIP4:$PORT" "[$VIP6]:$PORT"

cat > walk.py <<'PYTHON'
import json, subprocess, sys
walked = {}
for family in ("-4", "-6"):
    rules = json.loads(subprocess.check_output(["ip", "-netns", "lb201", "-N", family, "-json", "rule"]))
    rules.sort(key=lambda rule: rule["priority"])
    for mark in map(int, sys.argv[1:]):
        count, at, table = 0, 0, None
        while at < len(rules):
            rule = rules[at]
            at += 1
            count += 1
            mask = int(rule.get("fwmask", "0xffffffff"), 0)
            if "fwmark" in rule and mark & mask != int(rule["fwmark"], 0) & mask:
                continue
            if rule.get("iif", "eth2") != "eth2":
                continue
            if "nop" in rule or rule.get("action") == "nop":
                continue
            if "goto" in rule:
                at = next(i for i, r in enumerate(rules) if r["priority"] >= rule["goto"])
                continue
            if rule["table"] in ("255", "local"):
                continue
            table = rule["table"]
            break
        walked.setdefault(mark, []).append((count, table))
for family in (0, 1):
    tables = [walks[family][1] for walks in walked.values()]
    assert len(set(tables)) == len(walked), f"marks share a routing table: {len(set(tables))} for {len(walked)}"
counts = [walk[0] for walks in walked.values() for walk in walks]
print(max(counts), sum(counts) // len(counts))
PYTHON
for ((n = 0; n < 300 * 40; n++)); do
    echo "tcp 50.0.$((n / 250)).$((1 + n % 250)) $((1024 + n)) $VIP4 $PORT"
done > tuples.txt
mapfile -t marks < <(lbctl_in lb201 which --batch tuples.txt | gojq .mark | sort -un)
expect_eq "marks in use" "${#marks[@]}" 300
read -r most mean < <(python3 walk.py "${marks[@]}")
expect_le "rules walked, at most" "$most" 40
expect_le "rules walked, on average" "$mean" 30
connect_all 100
expect_eq "servers that answered" "$(servers_used connect-*.json)" 3
