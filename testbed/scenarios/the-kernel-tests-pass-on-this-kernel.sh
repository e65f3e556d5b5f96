# shellcheck shell=bash
# proves: the library's tests that need root pass on this kernel: ruleset, devices, routes, connection tracking, queues
#
# They are those of `cargo test --lib -- --ignored`. Each makes network namespaces of its own, and none needs the topology. Each runs in a
# process of its own, as many at a time as there are CPUs: those of one process wait for each other.
# setting: LONG_TESTS=0: whether those run too that are listed here, each for up to 20 minutes
# topology: dsr:servers=1
# needs: kernel-tests ethtool tc
# limit_s: 5400
# captures: no

# What an emulated machine needs much of its time for, and why it need not. `cargo test --lib -- --ignored` has all on the host's kernel.
declare -A LONG=(
    [daemon::announce::tests::a_check_without_lbd_names_what_the_kernel_serves_and_mends_it]="vips-are-announced-by-bird-while-they-can-be-served shows it"
    [daemon::audit::tests::a_kill_is_carried_out_once]="flows-of-a-disabled-or-killed-backend-move-at-once shows it"
    [daemon::look::tests::what_is_looked_for_is_named_and_mended_and_nothing_else]="lbctl-check-names-and-mends-what-was-changed-by-hand shows it"
    [sys::nft::tests::kernel_tables::the_kernel_decides_for_one_service_and_lbd_for_another]="a-service-decided-in-the-kernel-queues-nothing shows it"
    [sys::nft::tests::kernel_tables::with_every_packet_the_kernel_decides_about_each_and_tracks_none]="every-packet-steering-keeps-no-state shows it"
    [sys::nft::tests::no_backend::new_flows_are_rejected_in_the_name_of_the_vip_whatever_decides]="new-flows-of-a-service-without-a-backend-do-what-it-says shows it"
    [sys::nft::tests::off_table::a_closing_flow_keeps_its_backend_and_yields_to_a_new_connection]="off-table-connections-outlive-forged-and-late-segments shows it"
    [sys::nft::tests::pins::a_syn_that_comes_again_goes_where_the_first_went]="a-syn-sent-again-goes-where-the-first-one-went shows it"
    [daemon::audit::tests::flows_of_few_packets_have_a_small_share_of_the_maps_and_a_short_time]="floods-lose-no-connection shows it"
    [daemon::tests::the_kernels_tables_follow_a_change_and_give_way_to_the_next]="new-flows-begin-while-lbd-is-dead shows it"
    [sys::nft::tests::agreement::ten_thousand_flows_have_the_same_backend_whatever_decides]="lbctl-and-the-kernel-name-the-same-index shows it"
    [sys::nft::tests::counted::a_change_takes_as_much_as_it_changes_however_many_services_there_are]="about lbd's own time"
    [sys::nft::tests::counted::a_transaction_may_be_larger_than_a_socket_holds_by_default]="about lbd's own socket"
    [sys::nft::tests::kernel_tables::the_largest_table_is_filled]="millions of elements"
    [sys::nft::tests::kernel_tables::where_the_kernel_decides_nothing_is_queued_and_all_goes_where_lbd_would_send_it]="a-service-decided-in-the-kernel-queues-nothing shows it"
    [sys::nft::tests::kernel_tables::without_lbd_every_packet_goes_where_lbd_would_send_it]="new-flows-begin-while-lbd-is-dead shows it"
    [sys::nft::tests::mended::every_change_by_hand_is_named_and_mended]="what-others-change-is-mended shows it"
    [sys::nft::tests::off_table::only_what_follows_the_syn_ends_a_closing_flow]="off-table-connections-outlive-forged-and-late-segments shows it"
)

# What fails in an emulated machine, and why. `cargo test --lib -- --ignored` has it on the host's kernel.
declare -A UNFIT=(
    [daemon::audit::tests::a_drained_backend_keeps_its_flows_in_the_maps]="it takes longer there than the 30 s that a flow of one packet has"
    [daemon::audit::tests::an_audit_of_many_entries_takes_little]="it allows 2 s of a CPU's time, and an emulated CPU needs 28 s"
)

kernel-tests --list --ignored --format terse | sed -n 's/: test$//p' > all.txt
: > left-out.txt
leave_out() { # NAME WHY
    grep -qxF "$1" all.txt || broken "there is no test $1, which this scenario leaves out"
    echo "$1" >> left-out.txt
    note "not run: $1 ($2)"
}
for name in "${!UNFIT[@]}"; do leave_out "$name" "${UNFIT[$name]}"; done
((${LONG_TESTS:-0})) || for name in "${!LONG[@]}"; do leave_out "$name" "${LONG[$name]}"; done
grep -vxFf left-out.txt all.txt > run.txt
expect_ge "tests to run" "$(wc -l < run.txt)" 1

mkdir output
each_s=240
((!${LONG_TESTS:-0})) || each_s=1200
export each_s
run_one() { # NAME: its output, and a line about it in `ended`
    local started=${EPOCHREALTIME/./} verdict=failed
    ! timeout -k 5 "$each_s" kernel-tests --ignored --exact "$1" &> "output/$1" || ! grep -q '^test result: ok. 1 passed' "output/$1" || verdict=passed
    echo "$verdict $(((${EPOCHREALTIME/./} - started) / 1000)) ms $1" >> ended
}
export -f run_one
# shellcheck disable=SC2016 # it is the inner shell's
start_in lb201 xargs.out xargs.err xargs -a run.txt -P "$(nproc)" -n 1 bash -c 'run_one "$0"'
wait "$BACKGROUND"

while read -r name; do
    no "$name"
    sed -n '/^---- /,/^note: /p' "output/$name" >&"$CLAIMS"
done < <(sed -n 's/^failed .* ms //p' ended)
expect_eq "tests that ended" "$(wc -l < ended)" "$(wc -l < run.txt)"
expect_eq "tests that failed" "$(grep -c ^failed ended || true)" 0
expect_eq "tests that passed" "$(grep -c ^passed ended)" "$(wc -l < run.txt)"
note "the longest: $(sort -k 2 -rn ended | sed -n '1,3{s/^passed //;s/\(.* ms\) .*::/\1 /;p}' | paste -sd ',' | sed 's/,/, /g')"
