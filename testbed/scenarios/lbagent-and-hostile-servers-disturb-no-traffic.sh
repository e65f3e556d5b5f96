# shellcheck shell=bash
# proves: while servers answer checks with garbage, headers or bodies without end or redirections in a circle, and while lbagent hangs or is killed, no connection is lost, new ones open, the kernel's state stays, and lbagent's memory is bounded
#
# The service "web" has checks of its own, which must go on meanwhile. The hostile servers are on two of its hosts.
# topology: dsr:servers=4
# needs: queue conntrack traffic tun
# captures: no
# limit_s: 600

HOSTILE=(garbage headers line body chunks circle tls udp dns)
{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" "tcp udp" "$PORT" 'table_size = 997' 'health = { kind = "tcp", interval_ms = 2000, timeout_ms = 2000 }'
    config_servers 1 "$SERVERS" direct6
    config_table fragments 'ttl_ms = 5000'
} > lb201.toml
{
    cat lb201.toml
    n=7100
    for kind in "${HOSTILE[@]}"; do
        check='kind = "http", status = "200-299", body = "not there"'
        case $kind in
            tls) check='kind = "https", verify = false' ;;
            udp) check='kind = "udp", send = "ping", expect = "pong"' ;;
            dns) check='kind = "dns", query = "www.example.org"' ;;
        esac
        config_service "$kind" "10.0.0.1/32" tcp "$((++n))" 'table_size = 97' \
            "health = { via = \"direct\", interval_ms = 1000, timeout_ms = 900, fall = 2, $check }"
        config_servers 1 2 direct
    done
} > hostile.toml
cat > hostile.py <<'PYTHON'
# One port for each way; it counts the requests that it gets, and writes them into a file.
import itertools, os, socket, sys, threading
own, counted = sys.argv[1], sys.argv[2]
kinds = "garbage headers line body chunks circle tls udp dns".split()
requests = dict.fromkeys(kinds, 0)
noise = os.urandom(1 << 16).replace(b"\n", b"x")
ok = b"HTTP/1.1 200 OK\r\n"
def answer(kind):
    if kind in ("garbage", "tls"):
        return b"\0\1\n", itertools.repeat(noise)
    if kind == "headers":
        return ok, itertools.repeat(b"X-More: and more\r\n" * 4000)
    if kind == "line":
        return ok + b"X-Long: ", itertools.repeat(b"and more " * 7000)
    if kind == "body":
        return ok + b"Content-Length: 1073741824\r\n\r\n", itertools.repeat(b"x" * 65536, 16384)
    if kind == "chunks":
        return ok + b"Transfer-Encoding: chunked\r\n\r\n", itertools.repeat(b"10000\r\n" + b"x" * 65536 + b"\r\n")
    return b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", ()
def give(kind, client):
    client.settimeout(5)
    try:
        if kind != "tls":
            client.recv(4096)
        first, more = answer(kind)
        client.sendall(first)
        for part in more:
            client.sendall(part)
        client.recv(1)
    except OSError:
        pass
    client.close()
one_at_a_time = threading.Lock()
def count(kind):
    with one_at_a_time:
        requests[kind] += 1
        with open(counted + ".new", "w") as file:
            file.write("".join(f"{name} {many}\n" for name, many in requests.items()))
        os.rename(counted + ".new", counted)
def serve(kind, listener):
    while True:
        client, _ = listener.accept()
        count(kind)
        threading.Thread(target=give, args=(kind, client), daemon=True).start()
def serve_udp(kind, one):
    while True:
        data, client = one.recvfrom(4096)
        count(kind)
        for n in range(50):
            one.sendto(noise[n:n + 60000] if n % 10 == 0 else data[:1] + noise[:n], client)
for port, kind in enumerate(kinds, 7101):
    udp = kind in ("udp", "dns")
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((own, port))
    if not udp:
        one.listen(64)
    threading.Thread(target=serve_udp if udp else serve, args=(kind, one), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
PYTHON

balancers_up lb201
agent() { lbctl_in lb201 show --json | gojq .agent.pid; }
health() { lbctl_in lb201 backends --json | gojq --raw-output --arg service "$1" '.[] | select(.service == $service) | "\(.name) \(.observed.health // "unknown") \(.observed.since) \(.observed.reason)"'; }
all_of() { [[ $(health "$1" | grep -c "^s[0-9]* $2 ") == "$3" ]]; } # SERVICE HEALTH COUNT
memory() { awk '$1 == "VmHWM:" { print $2 }' "/proc/$AGENT/status"; }
traffic_passes() { # WHAT
    step "$1: new connections, datagrams in fragments"
    connect_all 20
    fragments_all 20
}
wait_until 60 "the checks of web find its servers" all_of web up "$SERVERS"
AGENT=$(agent)
before=$(memory)
health web > web.before
hold_start tcp4 "$VIP4:$PORT" 40
hold_start tcp6 "[$VIP6]:$PORT" 40
hold_start udp4 "$VIP4:$PORT" 20 --udp

step "servers that answer what they should not"
for n in 1 2; do background "s$n" "hostile$n" python3 -SI hostile.py "192.168.1.$n" "$WORK/requests$n"; done
for n in 1 2; do wait_until 60 "the hostile server of s$n runs" grep -q ready "hostile$n.log"; done
change lb201 apply hostile.toml
asked_often() { [[ $(awk '$2 >= 10' requests1 | wc -l) == "${#HOSTILE[@]}" && $(awk '$2 >= 10' requests2 | wc -l) == "${#HOSTILE[@]}" ]]; }
wait_until 120 "each was asked ten times" asked_often
traffic_passes "servers are hostile"
declare -A WHY=([garbage]='not HTTP' [headers]='more than 100 headers, or 64 KiB of them' [line]='more than 100 headers, or 64 KiB of them'
    [body]='the first 64 KiB of the body have no "not there"' [chunks]='the first 64 KiB of the body have no "not there"' [circle]='status 302'
    [tls]='not TLS' [udp]='the answer has no "pong"' [dns]='answers to other queries')
for kind in "${HOSTILE[@]}"; do
    health "$kind" > "$kind.health"
    expect_eq "servers of '$kind' that are down for: ${WHY[$kind]}" "$(grep -c " down .*${WHY[$kind]}" "$kind.health" || true)" 2
done
note "requests: $(paste -s -d ' ' requests1)"
expect_eq "lbagent's process" "$(agent)" "$AGENT"
note "lbagent's memory: $before KiB before, $(memory) KiB at most since"
expect_le "what servers have made lbagent take, KiB" "$(($(memory) - before))" 16384
health web > web.after
expect_same "no server of web has gone down meanwhile" web.before web.after

kernel_state lb201 > state.before
generation=$(lbctl_in lb201 show --json | gojq .region.generation)
step "lbagent hangs"
kill -STOP "$AGENT"
silent() { [[ $(lbctl_in lb201 show --json | gojq .agent.running) == false ]]; }
wait_until 60 "lbctl says that no checks run" silent
traffic_passes "lbagent hangs"
kernel_state lb201 > state.hung
expect_same "the kernel's state" state.before state.hung

step "lbagent is killed; lbd starts it again"
kill -KILL "$AGENT"
another() { local now; now=$(agent) && [[ $now != "$AGENT" && $now != null ]] && ! silent; }
wait_until 60 "another lbagent runs" another
traffic_passes "lbagent was killed"
health web > web.after
expect_same "servers of web, as they were found before" web.before web.after
kernel_state lb201 > state.after
expect_same "the kernel's state" state.before state.after
expect_eq "generation of the state" "$(lbctl_in lb201 show --json | gojq .region.generation)" "$generation"
for name in tcp4 tcp6 udp4; do hold_end "$name"; done
expect_eq "packets that lbd has dropped" "$(statistic lb201 dropped)" 0
balancer_stop lb201
