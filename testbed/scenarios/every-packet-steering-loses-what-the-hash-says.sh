# shellcheck shell=bash
# proves: the scale test with steering = "every-packet": those connections break whose hash the table gave to another backend
#
# Nothing is remembered of connections, as in the original. Which ones break is known before, one by one, and that they
# are at most 1.15 times those of the two backends holds for the connections as well as for the whole table.
# topology: dsr:servers=10
# needs: gre traffic queue conntrack
# captures: no
# limit_s: 400

scale_run every-packet 100 "1 2"
expect_ge "connections lost when two backends went out: those of the two, at least" "$(row lost_out)" "$(row on_out)"
expect_le "connections lost, in hundredths, of $(row on_out) on the two" "$((100 * $(row lost_out)))" "$((115 * $(row on_out)))"
expect_le "percent of the two backends' part of the table that moved in the whole table" "$(table_moved)" 115
expect_ge "connections lost when they came in again" "$(row lost_in)" 1
