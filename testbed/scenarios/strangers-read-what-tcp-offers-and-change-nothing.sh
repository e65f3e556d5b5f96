# shellcheck shell=bash
# proves: from the network lbagent's TCP shows what it offers and no clients, and refuses every order; of the balancer's users only root and the group read the region and the socket, and only root and its group give orders
#
# The client is the stranger on the network. On the balancer one user is a reader (in the group of readers), one is in no group. The group is
# made for this in files that only these processes see.
# topology: dsr:servers=2
# needs: queue conntrack traffic curl setpriv
# captures: no
# limit_s: 300

{ web_config lb201 direct6; config_table http 'listen = "0.0.0.0:9469"'; } > lb201.toml
# lbd gives the region to the group synrail.
cp /etc/group group
grep -q '^synrail:' group || echo 'synrail:x:4711:' >> group
READERS=$(awk -F : '$1 == "synrail" { print $3 }' group)
mount --bind "$WORK/group" /etc/group
finally 'umount /etc/group'
balancers_up lb201
connect_all 5

AT=http://192.168.2.201:9469 SOCKET=/run/synrail/lb201.http
ask() { in_ns client curl --silent --show-error --max-time 30 --output "$1.body" --write-out '%{http_code}' "${@:3}" "$AT$2"; } # NAME PATH ..
serves() { [[ $(ask ready /healthz) == 200 ]]; }
wait_until 60 "lbagent serves" serves
state() { lbctl_in lb201 show --json | gojq '{region, services, tier}'; }
state > before

step "the network"
for path in /healthz /metrics /api/v1/state /api/v1/live /api/v1/stats /api/v1/services /api/v1/backends /; do
    expect_eq "GET $path" "$(ask get "$path")" 200
done
expect_eq "GET /api/v1/flows, which has addresses of clients" "$(ask get /api/v1/flows)" 403
expect_eq "GET for another host" "$(ask get /metrics --header 'Host: evil.example')" 421
orders=0
for path in enable drain disable kill apply; do
    for method in POST PUT PATCH DELETE; do
        got=$(ask order "/api/v1/$path" --request "$method" --header 'Content-Type: application/json' --data '{"backends":["s1"]}')
        [[ $got =~ ^40[035]$ ]] || broken "$method /api/v1/$path by TCP: $got"
        orders=$((orders + 1))
        sleep 0.1 # below the rate that a source may have
    done
done
holds "$orders orders by TCP were refused"
state > after
expect_same "nothing has changed" before after

step "users of the balancer"
as() { in_ns lb201 setpriv --reuid 65534 --regid 65534 "$@"; }
other=(--clear-groups) reader=(--groups "$READERS")
by_socket() { # --clear-groups | --groups GROUPS, PATH [ARGUMENT...]
    local groups=("$1")
    [[ $1 == --clear-groups ]] || { groups+=("$2"); shift; }
    as "${groups[@]}" curl --silent --show-error --max-time 30 --output /dev/null --write-out '%{http_code}' --unix-socket "$SOCKET" "${@:3}" "http://localhost$2"
}
expect_eq "the region" "$(stat -c '%a %u %g' /dev/shm/lb201)" "640 0 $READERS"
expect_eq "the socket of HTTP" "$(stat -c '%a %g' "$SOCKET")" "660 $READERS"
expect_refused "another user reads the region" 'denied|not allowed|permission|another user' as "${other[@]}" cat /dev/shm/lb201
expect_refused "another user asks lbctl show" 'denied|not allowed|permission|another user' as "${other[@]}" lbctl --shm lb201 show
expect_refused "another user asks lbagent" 'denied|permission|could ?n.t connect|failed to connect' by_socket "${other[@]}" /metrics
expect_refused "another user drains a backend" 'denied|not allowed|permission|another user' as "${other[@]}" lbctl --shm lb201 drain s1
expect_ok "a reader asks lbctl show" as "${reader[@]}" lbctl --shm lb201 show > shown
expect_refused "a reader drains a backend by lbctl" 'denied|not allowed|permission|root|another user' as "${reader[@]}" lbctl --shm lb201 drain s1
state > after
expect_same "nothing has changed" before after
drain=(--header 'Content-Type: application/json' --data '{"backends":["s1"],"reason":"an operator"}')
expect_eq "one of the group drains by the socket of HTTP" "$(by_socket "${reader[@]}" /api/v1/drain "${drain[@]}")" 200
lbctl_in lb201 show --json | gojq --raw-output '.services[].backends[] | select(.name == "s1") | "\(.admin), \(tojson)"' > drained
expect_grep "it is drained, and known why" '^draining, .*"an operator"' drained
balancer_stop lb201
