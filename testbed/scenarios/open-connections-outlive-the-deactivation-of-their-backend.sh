# shellcheck shell=bash
# proves: 200 open connections, one of 10 backends deactivated and activated again: none breaks, new flows avoid it
#
# Of the table, at most 2 % of the entries that did not belong to the backend may change.
# topology: dsr:servers=10
# steering: any
# needs: queue conntrack gre traffic
# limit_s: 300

web_up gre
hold_start four "$VIP4:$PORT" 100
hold_start six "[$VIP6]:$PORT" 100
table_of lb201 web > before.txt
expect_ge "entries of the table" "$(wc -l < before.txt)" 65537

change lb201 deactivate --service web s3
table_of lb201 web > without.txt
changed=$(paste before.txt without.txt | awk '$1 != "s3" && $1 != $2' | wc -l)
expect_le "entries that changed though they were not s3's" "$changed" "$((65537 * 2 / 100))"
expect_eq "entries that are still s3's" "$(grep -cx s3 without.txt || true)" 0
connect_all 100
expect_eq "new connections to s3" "$(gojq '.servers.s3 // 0' "$REPLY")" 0
expect_eq "backends used by new connections" "$(servers_used "$WORK"/connect-*.json)" 9

change lb201 activate --service web s3
table_of lb201 web > again.txt
expect_same "the table is as it was before" before.txt again.txt
connect_all 100
expect_ge "new connections to s3 when it is back" "$(gojq '.servers.s3 // 0' "$REPLY")" 1
hold_end four
hold_end six
expect_ge "of the held connections, on s3" "$(gojq --slurp 'map(.servers.s3 // 0) | add' four.json six.json)" 1
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
