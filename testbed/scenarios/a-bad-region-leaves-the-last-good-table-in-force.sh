# shellcheck shell=bash
# proves: a corrupt, foreign or truncated region is refused with a clear error, and lbd goes on with its last good table
#
# For each kind of damage: lbctl refuses to read or change the region, changes nothing in it, lbd says so in its log and
# still serves new connections. When the good region is back, lbd follows it again, also after a truncation, which took
# the memory from under its feet.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# limit_s: 300

web_up gre
connect_all 10
region=/dev/shm/lb201
size=$(stat -c %s "$region")
cp "$region" good

damage() {
    case $1 in
        corrupt) # noise, but for the first page, which describes the rest
            head -c $((size - 4096)) /dev/urandom | dd of="$region" bs=4096 seek=1 conv=notrunc status=none ;;
        foreign) # not our magic
            printf 'FOREIGN!' | dd of="$region" bs=1 conv=notrunc status=none ;;
        version) # our magic, an unknown layout
            printf '\377\377\377\177' | dd of="$region" bs=1 seek=8 conv=notrunc status=none ;;
        truncated) truncate -s 4096 "$region" ;;
        empty) truncate -s 0 "$region" ;;
    esac
}
# What lbctl writes of the region: its head, and records and tables from where the head says. What is between them lbd and its
# workers write at any time.
content_at=$(od -An -tu4 -j 28 -N 4 good | tr -d ' ')
expect_ge "records and tables begin behind what lbd writes" "$content_at" 4096
written_by_lbctl() { head -c 256 "$region"; tail -c "+$((content_at + 1))" "$region"; }
repair() { truncate -s "$size" "$region"; dd if=good of="$region" conv=notrunc status=none bs=1M; }

# refused KIND [WORD]: damage the region, see it refused by lbctl and survived by lbd, which looks at the region's head every
# second, and tells WORD of it; at what is behind the head it looks when a new state is said to be there.
refused() {
    local said
    said=$(wc -l < lb201.lbd.log)
    damage "$1"
    written_by_lbctl > damaged
    lbd_says() { [[ $(tail -n "+$((said + 1))" lb201.lbd.log) == *"$1"* ]]; }
    [[ -z ${2:-} ]] || wait_until 20 "lbd says '$2'" lbd_says "$2"
    expect_refused "$1: lbctl show" 'region|corrupt|checksum|magic|version|truncated' lbctl_in lb201 show
    expect_refused "$1: lbctl deactivate" 'region|corrupt|checksum|magic|version|truncated' \
        lbctl_in lb201 deactivate --service web s1
    written_by_lbctl > now
    expect_same "$1: lbctl changed nothing" damaged now
    connect_all 10
    expect_eq "$1: lbd is alive" "$(process_gone "${LBD_PID[lb201]}" && echo no || echo yes)" yes
}

hold_start four "$VIP4:$PORT" 20
for kind in corrupt "foreign magic" "version 2147483647" "truncated truncated" "empty magic"; do
    # shellcheck disable=SC2086 # two words, if any
    refused $kind
    repair
    expect_ok "$kind: the repaired region is good" lbctl_in lb201 show > /dev/null
done
# A table alone: who reads it refuses it, and a change of its service writes another one.
dd if=/dev/urandom of="$region" bs=1 seek="$content_at" count=64 conv=notrunc status=none
expect_refused "a damaged table: lbctl show" "it is corrupt: a table's checksum" lbctl_in lb201 show
connect_all 10
change lb201 deactivate --service web s1
expect_ok "the region is whole with another table" lbctl_in lb201 show > /dev/null
wait_until 20 "lbd has taken over what was changed" taken_over lb201
connect_all 20
expect_eq "lbd follows the repaired region: connections to s1, inactive" "$(gojq '.servers.s1 // 0' "$REPLY")" 0

# From a region that is beyond repair: make it anew.
balancer_stop lb201
expect_ok "lbctl clean --force" lbctl_in lb201 clean --force
balancer_start lb201 lb201.toml
connect_all 20
hold_end four
