# shellcheck shell=bash
# proves: with no room for its log lbd goes on, takes changes over, starts, and says later how many lines were lost; a reload of a file that was cut off is refused
#
# The log is on a file system of its own, which is filled. lbd is stopped and started there as well: nothing of it can be
# read then but what the region shows. The file is cut behind [balancer], where it is valid and names no service.
# topology: dsr:servers=2
# needs: queue conntrack gre traffic
# limit_s: 200

mkdir log
mount -t tmpfs -o size=64k tmpfs log
finally "umount -l $WORK/log"
ln -s log/lbd.log lb201.lbd.log
web_up gre

step "no room for the log"
head -c 70000 /dev/zero > log/filler 2>/dev/null || true
# What is left of its last page.
head -c 4096 /dev/zero >> log/lbd.log 2>/dev/null || true
size=$(stat -c %s log/lbd.log)
expect_ok "a change" change lb201 deactivate s1
wait_until 30 "lbd has taken over the change" taken_over lb201
connect_all 10
balancer_stop lb201
start_in lb201 log/lbd.log log/lbd.log lbd --config lb201.toml --shm lb201
LBD_PID["lb201"]=$BACKGROUND
wait_until 120 "lbd has started, and has the region in force" taken_over lb201
expect_ok "another change" change lb201 activate s1
wait_until 30 "lbd has taken over the change" taken_over lb201
expect_eq "bytes of the log, which were" "$(stat -c %s log/lbd.log)" "$size"
connect_all 10

step "room again, and a file that was cut off"
rm log/filler
whole=$(< lb201.toml)
sed '/^\[\[service\]\]/,$d' <<< "$whole" > lb201.toml
expect_ok "lbd --check takes the file for valid" lbd --config lb201.toml --check
kill -HUP "${LBD_PID[lb201]}"
wait_until 30 "the reload is refused" grep -aq 'takes away what is in use: service web goes' log/lbd.log
lost=$(grep -ao 'log: [0-9]* lines before this one could not be written: No space left' log/lbd.log | grep -o '[0-9]*' || true)
# At least those that say that lbd looks at the host, that it is ready, and that it has taken the change over.
expect_ge "lines that were lost, as lbd says" "$lost" 3
expect_refused "lbctl apply" 'lbctl apply --allow-removal' lbctl_in lb201 apply lb201.toml
expect_eq "services" "$(lbctl_in lb201 services --json | gojq length)" 1
connect_all 10
