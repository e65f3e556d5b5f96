# shellcheck shell=bash
# proves: a corrupt, foreign or truncated region is refused with a clear error, and lbd goes on with its last good table
#
# For each kind of damage: lbctl refuses to read or change the region, changes nothing in it, lbd says so in its log and
# still serves new connections. When the good region is back, lbd follows it again.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# limit_s: 300

web_up gre
connect_all 10
region=/dev/shm/lb201
size=$(stat -c %s "$region")
wait_until 10 "lbd has taken the region" lbctl_in lb201 show
cp "$region" good

damage() {
    case $1 in
        corrupt) # noise, but for the first page, which describes the rest
            dd if=/dev/urandom of="$region" bs=4096 seek=1 count=$((size / 4096 - 1)) conv=notrunc status=none ;;
        foreign) # not our magic
            printf 'FOREIGN!' | dd of="$region" bs=1 conv=notrunc status=none ;;
        version) # our magic, a layout that nobody knows
            printf '\377\377\377\177' | dd of="$region" bs=1 seek=8 conv=notrunc status=none ;;
        truncated) truncate -s 4096 "$region" ;;
        empty) truncate -s 0 "$region" ;;
    esac
}
repair() { truncate -s "$size" "$region"; dd if=good of="$region" conv=notrunc status=none bs=1M; }

for kind in corrupt foreign version truncated empty; do
    damage "$kind"
    cp "$region" damaged
    expect_refused "$kind: lbctl show" 'region|corrupt|checksum|magic|version|truncated|short|size' lbctl_in lb201 show
    expect_refused "$kind: lbctl deactivate" 'region|corrupt|checksum|magic|version|truncated|short|size' \
        lbctl_in lb201 deactivate --service web s1
    expect_same "$kind: lbctl changed nothing" damaged "$region"
    connect_all 10
    expect_eq "$kind: lbd is alive" "$(process_gone "${LBD_PID[lb201]}" && echo no || echo yes)" yes
    repair
    connect_all 5
done
wait_until 10 "the region is good again" lbctl_in lb201 show
lbctl_in lb201 deactivate --service web s1
connect_all 40
expect_eq "lbd follows the repaired region: connections to s1, inactive" "$(jq '.servers.s1 // 0' "$REPLY")" 0
