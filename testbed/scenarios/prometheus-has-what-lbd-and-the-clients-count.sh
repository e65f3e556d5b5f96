# shellcheck shell=bash
# proves: Debian's Prometheus scrapes lbagent for two minutes beside TCP, UDP and fragments: no scrape fails, promtool finds no fault, and its counters are those of lbctl and of the traffic tool
#
# Prometheus runs on the balancer, and evaluates the alert rules of dist/prometheus: after this traffic none fires.
# topology: dsr:servers=3
# needs: queue conntrack traffic tun curl prometheus
# captures: no
# limit_s: 900
# setting: SCRAPE_SECONDS=120: how long Prometheus scrapes

SCRAPE_SECONDS=${SCRAPE_SECONDS:-120}
RULES=${RESULTS%/target/testbed}/dist/prometheus/synrail.rules.yml
{ web_config lb201 direct6; config_table http 'listen = "127.0.0.1:9469"'; config_table fragments 'ttl_ms = 5000'; } > lb201.toml
balancers_up lb201
serves() { in_ns lb201 curl --silent --fail --max-time 10 http://127.0.0.1:9469/readyz; }
wait_until 60 "lbagent serves" serves
for scope in lbd packets services backends targets; do
    in_ns lb201 curl --silent --fail --max-time 20 "http://127.0.0.1:9469/metrics?format=prometheus&scope=$scope"
done > metrics.txt
expect_ok "promtool finds no fault with the metrics" "$PROMTOOL" check metrics < metrics.txt
expect_ok "nor with the alert rules" "$PROMTOOL" check rules "$RULES"

cat > prometheus.yml <<YAML
global: { scrape_interval: 5s, scrape_timeout: 5s, evaluation_interval: 15s }
rule_files: [ "$RULES" ]
scrape_configs: [ { job_name: synrail, static_configs: [ { targets: [ "127.0.0.1:9469" ] } ] } ]
YAML
step "Prometheus starts"
began=$(now_ms)
background lb201 prometheus env GOMAXPROCS=1 "${PROMTOOL%promtool}prometheus" --config.file prometheus.yml --storage.tsdb.path "$WORK/data" \
    --web.listen-address 127.0.0.1:9090
prometheus=$BACKGROUND
finally "rm -rf $WORK/data"
asked() { in_ns lb201 curl --silent --show-error --max-time 60 --get http://127.0.0.1:9090/api/v1/query --data-urlencode "query=$1"; }
value() { asked "$1" | gojq --raw-output '.data.result | if . == [] then "none" else .[0].value[1] end'; } # of one series
scrapes() { at_least "$(value 'count_over_time(up[1h])')" "$1"; }
wait_until 180 "Prometheus has scraped" scrapes 1
note "after $(($(now_ms) - began)) ms; $(awk '$1 == "VmRSS:" { print $2, $3 }' "/proc/$prometheus/status")"

# sends KIND COUNTED ARGUMENT...: over both families, from addresses of this round, since a flow that was there before is no new one;
# sets SENT to the sum of COUNTED in the reports
sends() {
    local kind=$1 counted=$2 address sources
    shift 2
    SENT=0
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        sources=50.0.$round.0/24
        [[ $address != \[* ]] || printf -v sources '2000::%x00/120' "$round"
        in_ns client traffic "$kind" --address "$address" --source-cidr "$sources" --concurrency 10 --timeout-ms 30000 --json "$@" > "$kind.json"
        SENT=$((SENT + $(field "$kind.json" "$counted")))
    done
}
tcp=0 udp=0 fragments=0 round=0 began=$(now_ms)
until (($(now_ms) - began >= SCRAPE_SECONDS * 1000)); do
    round=$((round + 1))
    sends connect .opened --connections 20
    tcp=$((tcp + SENT))
    sends udp .opened --flows 20 --messages 3
    udp=$((udp + SENT))
    sends fragments .fragments --datagrams 20
    fragments=$((fragments + SENT))
    sleep 2 # a pace, at which there are addresses enough
done
step "the traffic is over: $tcp connections, $udp UDP flows, $fragments fragments"
# A scrape that began later than this has all of it.
over=$(value 'count_over_time(up[1h])')
wait_until 60 "Prometheus has scraped since" scrapes "$((over + 2))"
expect_eq "scrapes that failed" "$(value 'count_over_time(up[1h]) - sum_over_time(up[1h])')" 0
expect_ge "scrapes" "$(value 'count_over_time(up[1h])')" "$((SCRAPE_SECONDS / 10))"

asked '{__name__=~"synrail_.*_total"}' > prometheus.json
lbctl_in lb201 metrics --json > lbctl.json
expect_eq "UDP flows steered, in Prometheus" "$(value 'synrail_steered_packets_total{kind="udp"}')" "$udp"
expect_eq "first SYNs that came to the balancer, as the clients' connections" "$(($(witness lb201 syn) - $(witness lb201 syn_again)))" "$tcp"
expect_eq "SYNs steered, in Prometheus" "$(value 'synrail_steered_packets_total{kind="syn"}')" "$(syns_asked lb201)"
# Seldom two of a connection (docs/counters.md).
expect_ge "ends of handshakes, in Prometheus" "$(value 'synrail_ruleset_packets_total{counter="handshake"}')" "$tcp"
expect_eq "fragments, in Prometheus" "$(value synrail_worker_fragments_total)" "$fragments"
expect_eq "packets dropped, in Prometheus" "$(value 'sum(synrail_dropped_packets_total)')" 0
# Every counter of lbctl's, by its labels.
cat > compare.py <<'PYTHON'
import json, sys
seen = {}
for one in json.load(open("prometheus.json"))["data"]["result"]:
    labels = {name: value for name, value in one["metric"].items() if name not in ("__name__", "job", "instance")}
    seen[one["metric"]["__name__"], tuple(sorted(labels.items()))] = float(one["value"][1])
wrong = compared = 0
for family in json.load(open("lbctl.json")):
    for sample in family["samples"]:
        key = family["name"], tuple(sorted(sample["labels"].items()))
        if not family["name"].endswith("_total"):
            continue
        compared += 1
        if seen.get(key) != sample["value"]:
            wrong += 1
            print(key, "in Prometheus", seen.get(key), "in lbctl", sample["value"])
print(compared, wrong, file=sys.stderr)
PYTHON
python3 -SI compare.py > differ.txt 2> compared.txt
cat differ.txt
read -r compared wrong < compared.txt
expect_ge "counters that were compared" "$compared" 60
expect_eq "of them different in Prometheus and lbctl" "$wrong" 0
in_ns lb201 curl --silent --max-time 60 http://127.0.0.1:9090/api/v1/rules > rules.json
expect_eq "alert rules that Prometheus cannot evaluate" "$(gojq '[.data.groups[].rules[] | select(.health == "err")] | length' rules.json)" 0
expect_ge "those that it can" "$(gojq '[.data.groups[].rules[] | select(.health == "ok")] | length' rules.json)" 15
# Most fire only after minutes: until then they are pending.
expect_eq "alerts that fire, or would" "$(gojq --compact-output '[.data.groups[].rules[] | select(.state == "firing" or .state == "pending") | .name]' rules.json)" "[]"
balancer_stop lb201
