# shellcheck shell=bash
# proves: a second lbd on the same region, or on the same queues, is refused and told who has them; the first serves on
#
# topology: dsr:servers=2
# needs: queue conntrack gre traffic
# limit_s: 200

web_up gre
kernel_state lb201 > before.txt
expect_refused "the same region" "\b${LBD_PID[lb201]}\b" \
    in_ns lb201 timeout 30 lbd --config lb201.toml --shm lb201
expect_refused "another region, the same queues" "queue.*\b${LBD_PID[lb201]}\b|\b${LBD_PID[lb201]}\b.*queue" \
    in_ns lb201 timeout 30 lbd --config lb201.toml --shm lb201-second
finally 'rm -f /dev/shm/lb201-second'
kernel_state lb201 > after.txt
expect_same "the kernel's state is as it was" before.txt after.txt
connect_all 20
