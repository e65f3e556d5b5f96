# shellcheck shell=bash
# proves: a backend is added or taken out, then a balancer fails: just the flows break that move and whose entry changed
#
# A flow breaks when it comes to a balancer that has not pinned it, and the table there names another backend than the one that
# has the flow. Who that is can be told from outside: by each flow's move, the tables, and the pins. Exactly these must break.
# A pin outlives all of this, however slow the machine: else it may be gone between the look and the failure.
# The change's share is what no table could save: the flows of a backend taken out, and those that an added one gets.
# topology: dsr:servers=5,balancers=3
# needs: queue conntrack gre traffic
# captures: no
# limit_s: 900

LBS=(lb201 lb202 lb203)
# only FIRST LAST: these backends are active, by every balancer's file, so that one that boots knows it too
only() {
    local lb n active
    for lb in "${LBS[@]}"; do
        {
            config_balancer "$lb"
            config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
            for ((n = 1; n <= SERVERS; n++)); do
                if ((n >= $1 && n <= $2)); then active=true; else active=false; fi
                config_servers "$n" "$n" gre "active = $active"
            done
            config_table timeouts 'udp_seconds = 900'
        } > "$lb.toml"
    done
}
# changes WHAT FIRST LAST BACKEND: on all balancers; few entries of the table may change but those of the backend
changes() {
    local lb entries share
    step "$1"
    mv table table.old
    only "$2" "$3"
    happens "$1"
    for lb in "${LBS[@]}"; do change "$lb" apply "$lb.toml"; done
    for lb in "${LBS[@]}"; do wait_until 60 "$lb has taken over the change" taken_over "$lb"; done
    table_of lb201 web > table
    paste table.old table |
        awk -v of="$4" '$1 != $2 { n++; share += ($1 == of || $2 == of) } END { print n + 0, share + 0 }' > table.changed
    read -r entries share < table.changed
    expect_le "$1: ten times the entries that changed (at most 12 times the share of $4, $share)" $((entries * 10)) $((share * 12))
    all_targets
    pins > pinned
}
# all_targets: FLOW BACKEND, by the table of each balancer, in the file target
all_targets() {
    local lb
    tr ',' ' ' < flows | awk -v vip4="$VIP4" -v vip6="$VIP6" -v port="$PORT" '{ print $0, ($2 ~ /:/ ? vip6 : vip4), port }' > flows.asked
    for lb in "${LBS[@]}"; do
        lbctl_in "$lb" which --batch flows.asked | gojq --raw-output .backend | paste -d ' ' flows - > "target.$lb"
        cmp target.lb201 "target.$lb" || broken "$lb names other backends than lb201"
    done
    cp target.lb201 target
}
# pins: LB FLOW, where connection tracking has a mark for it, or a map of off-table flows
pins() {
    local lb family
    for lb in "${UP[@]}"; do
        for family in ipv4 ipv6; do in_ns "$lb" conntrack --dump --family "$family" 2>/dev/null; done |
            awk -v lb="$lb" '/ mark=[1-9]/ {
                delete first
                for (i = NF; i > 0; i--) { split($i, word, "="); first[word[1]] = word[2] }
                print lb, $1 "," first["src"] "," first["sport"]
            }'
        lbctl_in "$lb" flows --off-table --json |
            gojq --raw-output --arg lb "$lb" '.[] | "\($lb) \(.protocol),\(.source),\(.source_port)"'
    done
}
# costs EVENT BACKEND...: who must have broken then, since these backends were changed; they are watched no more
costs() {
    local event=$1 broken share file
    shift
    join "${event// /-}.moved" server | join - target |
        awk 'NR == FNR { pinned[$1, $2]; next } !(($3, $1) in pinned) && $4 != $5 { print $1, $4, $5 }' pinned - |
        sort -u > must-break
    broken=$(wc -l < must-break)
    share=$(awk -v changed=" $* " 'index(changed, " " $2 " ") || index(changed, " " $3 " ") { n++ } END { print n + 0 }' must-break)
    expect_ge "$event: flows that moved to another balancer, of $(wc -l < flows)" "$(moved_flows "$event")" 60
    expect_ge "$event: of these, flows that the table sends to another backend" "$broken" 1
    expect_le "$event: ten times that (at most 12 times the share of $*, $share)" $((broken * 10)) $((share * 12))
    awk -v event="${event// /-}" '{ print event, $1 }' must-break >> must-break.all
    for file in server place flows; do
        join -v 1 "$file" must-break > "$file.left"
        mv "$file.left" "$file"
    done
    pins > pinned
}

only 1 4
tier_up "${LBS[@]}"
flows_up 100
table_of lb201 web > table
all_targets
cp target server
cp target server.first

changes "s5 is added" 1 5 s5
fails lb201
costs "lb201 fails" s5
returns lb201
all_targets
costs "lb201 returns" s5
changes "s1 is taken out" 2 5 s1
fails lb203
costs "lb203 fails" s1 s5

flows_down
cut -d ' ' -f 1,2 ended > server.said
expect_same "each flow began on the server that lbctl which names" server.first server.said
awk '$3 != "-" { print $3, $1 }' ended | sort > lost
sort must-break.all > must-break.sorted
expect_same "flows lost, each at the moment it had to be: $(wc -l < lost), and no others" must-break.sorted lost
note "flows lost: $(cut -d ' ' -f 1 lost | uniq -c | awk '{ print $1, "when", $2 }' | tr '-' ' ' | paste -sd ,)"
