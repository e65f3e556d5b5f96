# shellcheck shell=bash
# proves: with the last backend gone, new flows get no answer, are refused at once, or reach another service's backends, whether lbd decides, the kernel does, or lbd is dead; open ones go on
#
# "web" loses one of its two backends, then the other, with each no_backend. Its clients ask by TCP and UDP, IPv4 and IPv6. A service
# of the same VIPs, and one whose backends stand in for those of "web", go on all the time.
# setting: VALUES=drop reject service:spare: of no_backend
# topology: dsr:servers=4
# needs: queue conntrack gre traffic nft_hash python3
# captures: no
# limit_s: 900

OTHER_PORT=5002 SPARE4=10.0.0.9 SPARE6=1000::9
config() { # NO_BACKEND STEERING
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT" "no_backend = \"$1\"" "steering = \"$2\"" 'table_size = 10007'
    config_servers 1 2 gre
    config_service other "$VIP4/32 $VIP6/128" "tcp udp" "$OTHER_PORT" 'table_size = 10007'
    config_servers 3 3 gre
    config_service spare "$SPARE4/32 $SPARE6/128" "tcp udp" "$PORT" 'table_size = 10007'
    config_servers 3 4 gre
    config_table fragments 'ttl_ms = 5000'
}
cat > ask.py <<'PYTHON'
"""How new flows to HOST:PORT fare: a line for each of TCP and UDP, IPv4 and IPv6."""
import socket, sys, threading, time
seconds, port, *hosts = sys.argv[1:]
found = {}
def ask(kind, name, host):
    flow = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    flow.settimeout(float(seconds))
    began = time.monotonic()
    try:
        flow.connect((host, int(port)))
        if kind == socket.SOCK_DGRAM:
            flow.send(b"is anyone there?")
            flow.recv(2000)
        how = "answered"
    except ConnectionRefusedError:
        how = "refused"
    except TimeoutError:
        how = "silent"
    found[name] = how
    print(name, how, round(1000 * (time.monotonic() - began)), "ms", file=sys.stderr)
threads = []
for host in hosts:
    for kind, name in (socket.SOCK_STREAM, "tcp"), (socket.SOCK_DGRAM, "udp"):
        threads.append(threading.Thread(target=ask, args=(kind, name + ("6" if ":" in host else "4"), host)))
for thread in threads: thread.start()
for thread in threads: thread.join()
print(" ".join(f"{name}={how}" for name, how in sorted(found.items())))
PYTHON
# ask SECONDS: how new flows to "web" fare, in one line; TCP says nothing of itself until a server answers
ask() { in_ns client python3 ask.py "$1" "$PORT" "$VIP4" "$VIP6" 2>> ask.log; }
all_are() { echo "tcp4=$1 tcp6=$1 udp4=$1 udp6=$1"; }
# to_spare: new flows to "web" reach the backends of "spare", the ones that lbctl which names.
to_spare() {
    local address
    for address in "$VIP4:$PORT" "[$VIP6]:$PORT"; do
        hold_start probe "$address" 10 --interval-ms 3000
        hold_end probe
        agreed lb201 tcp probe.json "$address"
        traffic_to fragments "$address" --flows 10 --datagrams 20 --concurrency 10 --whole 100 --timeout-ms 20000
        agreed lb201 udp "$REPLY" "$address"
    done
    expect_eq "servers of new flows to web" "$(sort -u servers.txt | tr '\n' ' ')" "s3 s4 "
    : > servers.txt
}
# fares VALUE: new flows fare as no_backend says, and those of other services go on.
fares() {
    case $1 in
        drop) expect_eq "new flows to web" "$(ask 4)" "$(all_are silent)" ;;
        reject)
            local before
            before=$(ruleset_counter lb201 rejected)
            expect_eq "new flows to web" "$(ask 20)" "$(all_are refused)"
            # Only the first try of each was needed.
            expect_eq "packets that were rejected" $(($(ruleset_counter lb201 rejected) - before)) 4
            ;;
        service:spare) to_spare ;;
    esac
    for address in "$VIP4:$OTHER_PORT" "[$SPARE6]:$PORT"; do
        traffic_to connect "$address" --connections 5 --timeout-ms 20000
        expect_eq "connections to $address that began" "$(gojq .opened "$REPLY")" 5
    done
}

config drop syn-only > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
# The servers that stand in answer for the VIPs of both services.
config service:spare syn-only > setup.toml
change lb201 apply "$WORK/setup.toml"
backends_up lb201 web 1 2
backends_up lb201 other 3 3
backends_up lb201 spare 3 4
servers_up 1 2 "$VIP4:$PORT" "[$VIP6]:$PORT"
servers_up 3 4 "$VIP4:$PORT" "[$VIP6]:$PORT" "$VIP4:$OTHER_PORT" "[$VIP6]:$OTHER_PORT" "$SPARE4:$PORT" "[$SPARE6]:$PORT"
: > servers.txt

for value in ${VALUES:-drop reject service:spare}; do
    for steering in syn-only kernel; do
        step "no_backend = \"$value\", steering = \"$steering\""
        config "$value" "$steering" > lb201.toml
        change lb201 apply "$WORK/lb201.toml"
        wait_until 30 "lbd has taken over the change" taken_over lb201
        hold_start tcp4 "$VIP4:$PORT" 10
        hold_start tcp6 "[$VIP6]:$PORT" 10
        hold_start udp4 "$VIP4:$PORT" 3 --udp --interval-ms 500
        hold_start udp6 "[$VIP6]:$PORT" 3 --udp --interval-ms 500
        change lb201 deactivate --service web s1
        wait_until 30 "lbd has taken over the change" taken_over lb201
        connect_all 5
        expect_eq "servers with one backend left" "$(servers_used "$WORK"/connect-$((TRAFFIC_RUNS - 1)).json "$REPLY")" 1
        change lb201 deactivate --service web s2
        wait_until 30 "lbd has taken over the change" taken_over lb201
        lbctl_in lb201 check > check.txt || true
        case $value in
            drop) says="are dropped" ;;
            reject) says="are rejected" ;;
            service:spare) says="go to the backends of service spare" ;;
        esac
        expect_grep "lbctl check says what becomes of new flows" "service web is without an active backend.* $says" check.txt
        fares "$value"

        step "the same, and lbd is dead"
        balancer_kill lb201
        fares "$value"
        # What was open has not noticed.
        for name in tcp4 tcp6 udp4 udp6; do hold_end "$name"; done

        step "lbd and the backends are back"
        balancer_start lb201 lb201.toml
        change lb201 activate --service web s1 s2
        wait_until 30 "lbd has taken over the change" taken_over lb201
        connect_all 5
        expect_eq "packets that were rejected, but for those of no_backend = \"reject\"" \
            "$([[ $value == reject ]] || ruleset_counter lb201 rejected)" "$([[ $value == reject ]] || echo "${REJECTED:-0}")"
        REJECTED=$(ruleset_counter lb201 rejected)
    done
done
sed 's/^/       /' ask.log >&"$CLAIMS"
expect_eq "packets that conntrack calls invalid" "$(witness lb201 invalid)" 0
