# shellcheck shell=bash
# proves: lbctl create, show, deactivate, activate and clean work with no daemon, no configuration and no root
#
# The commands of the original test program, as user nobody, on a region of its own.
# topology: dsr:servers=1
# needs: setpriv
# captures: no
# limit_s: 120

finally 'rm -rf /dev/shm/original /tmp/original-home'
install -d -o 65534 -g 65534 /tmp/original-home
as_nobody() { HOME=/tmp/original-home setpriv --reuid 65534 --regid 65534 --clear-groups lbctl --shm original "$@"; }
actives() { as_nobody show --json | gojq -r '[.services[0].backends[] | select(.active) | .name] | join(" ")'; }
expect_ok "create -i 5 100 10" as_nobody create -i 5 100 10
expect_ok "show" as_nobody show
expect_eq "active backends" "$(actives)" "0 1 2 3 4"
as_nobody deactivate 1
expect_eq "active after deactivate 1" "$(actives)" "0 2 3 4"
as_nobody activate 6 7 8
expect_eq "active after activate 6 7 8" "$(actives)" "0 2 3 4 6 7 8"
expect_refused "a backend that does not exist" '99' as_nobody activate 99
expect_eq "mode of the region" "$(stat -c '%a %u' /dev/shm/original)" "600 65534"
expect_ok "clean" as_nobody clean
expect_eq "regions left" "$(find /dev/shm -name original | wc -l)" 0
expect_eq "files of overrides left" "$(find /tmp/original-home -type f | wc -l)" 0
