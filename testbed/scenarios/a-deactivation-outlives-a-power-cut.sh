# shellcheck shell=bash
# proves: s1 is still out after a power cut, and lbctl show says why; an override file cut in half is told and kept apart, and the configuration file counts
#
# /var/lib/synrail is on a disk. At first s1 is deactivated, and QEMU is killed as soon as lbctl has ended. Then another
# machine boots with the same disk.
# topology: dsr:servers=4
# boots: 2
# needs: queue conntrack gre traffic
# limit_s: 240

modprobe -a virtio_blk ext4
mkdir -p /var/lib/synrail
mount /dev/vda /var/lib/synrail
kept=/var/lib/synrail/lb201.json
shown() { lbctl_in lb201 show | grep -o 's1: draining by .*'; }
active() { lbctl_in lb201 show --json | gojq -r '.services[0].active | sort | join(" ")'; }
{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT"
    config_servers 1 3 gre
    config_servers 4 4 gre 'active = false'
} > lb201.toml

if ((BOOT == 1)); then
    balancer_start lb201 lb201.toml
    expect_eq "active at first" "$(active)" "s1 s2 s3"
    change lb201 deactivate s1 --reason disk
    shown > "$RUN/shown-before"
    # Written and not synced: after a power cut it is lost.
    echo lost > /var/lib/synrail/lost
    power_fails
fi

expect_eq "regions after the boot" "$(find /dev/shm -name 'lb*' | wc -l)" 0
expect_eq "bytes that are left of what was written and not synced" "$(stat -c %s /var/lib/synrail/lost 2>/dev/null || echo 0)" 0
balancers_up lb201
expect_eq "active after the power cut" "$(active)" "s2 s3"
shown > shown.txt
note "$(< shown.txt)"
expect_grep "lbctl show says why s1 is out" 'draining by root since 20.*: disk$' shown.txt
expect_same "it says what it said before the power cut" "$RUN/shown-before" shown.txt
connect_all 40
expect_eq "backends that new connections reach" "$(servers_named connect-*.json)" "s2 s3"

step "the file is cut in half"
balancer_stop lb201
rm /dev/shm/lb201
truncate -s "$(($(stat -c %s "$kept") / 2))" "$kept"
cp "$kept" half.json
balancer_start lb201 lb201.toml
expect_grep "lbd says so" "overrides that were kept cannot be used, so only the file counts: $kept: EOF" lb201.lbd.log
expect_grep "and where it is kept" "the damaged file of overrides is kept file=$kept.damaged-[0-9]+" lb201.lbd.log
note "$(grep 'cannot be used' lb201.lbd.log)"
expect_eq "active, as the file says" "$(active)" "s1 s2 s3"
expect_eq "files that are kept" "$(find /var/lib/synrail -name 'lb201*' | sed 's/[0-9]*$//')" "$kept.damaged-"
expect_same "it is what was left" "$kept".damaged-* half.json
rm connect-*.json
connect_all 40
expect_eq "backends that new connections reach" "$(servers_named connect-*.json)" "s1 s2 s3"
