# shellcheck shell=bash
# proves: lbd leaves on SIGTERM with status 0 and the kernel's state in place; flows go on, and the next lbd takes over
#
# New flows come all the time: lbd answers what waits when it is told to end, not what goes on coming.
# topology: dsr:servers=3
# needs: queue conntrack gre traffic
# limit_s: 240

web_up gre
hold_start four "$VIP4:$PORT" 40 --interval-ms 500
hold_start six "[$VIP6]:$PORT" 40 --interval-ms 500
lasting_state lb201 > before.txt
queued=$(kernel_queued lb201)
traffic_start fresh udp "$VIP4:$PORT" --flows 5000 --rate 40 --messages 1 --timeout-ms 10000
fresh_come() { (($(kernel_queued lb201) >= queued + 40)); }
wait_until 30 "new flows come" fresh_come
balancer_stop lb201
lasting_state lb201 > stopped.txt
expect_same "after SIGTERM the kernel's state is as it was" before.txt stopped.txt
packets=$(witness lb201 to_vip)
carried() { (($(witness lb201 to_vip) >= packets + 200)); }
wait_until 30 "the kernel has carried 200 packets with no lbd" carried
balancer_start lb201 lb201.toml
lasting_state lb201 > after.txt
expect_same "the next lbd takes over" before.txt after.txt
connect_all 20
end_process "${TRAFFIC_PID[fresh]}"
hold_end four
hold_end six
