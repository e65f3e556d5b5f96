# shellcheck shell=bash
# proves: health checks by the tunnel find a dead server, a closed port, a missing VIP or tunnel, errors and silence, say why, and flows come back
#
# Every server runs nginx. One after the other fails in another way, and is well again. Checks go to the VIP through each
# backend's tunnel, over IPv4 and IPv6.
# topology: dsr:servers=4
# steering: any
# needs: queue conntrack gre nginx curl
# captures: no
# limit_s: 600

{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" tcp 80
    cat <<'TOML'
[service.health]
kind = "http"
path = "/health"
interval_ms = 1000
timeout_ms = 900
fall = 2
rise = 2
TOML
    config_servers 1 "$SERVERS" gre
} > lb201.toml

nginx_of() { # N: its directory and configuration
    mkdir -p "s$1/root"
    echo ok > "s$1/root/health"
    cat > "s$1/nginx.conf" <<NGINX
daemon off;
master_process off;
pid $WORK/s$1/pid;
error_log $WORK/s$1/error.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path $WORK/s$1/body;
    proxy_temp_path $WORK/s$1/proxy;
    fastcgi_temp_path $WORK/s$1/fastcgi;
    uwsgi_temp_path $WORK/s$1/uwsgi;
    scgi_temp_path $WORK/s$1/scgi;
    server {
        listen $VIP4:80;
        listen [$VIP6]:80;
        root $WORK/s$1/root;
        add_header X-Server s$1 always;
        if (-f $WORK/s$1/fails) { return 500; }
    }
}
NGINX
}
declare -A NGINX_PID=()
nginx_up() { # N
    rm -f "s$1/pid"
    background "s$1" "s$1/nginx" "$NGINX_PROGRAM" -e "$WORK/s$1/error.log" -p "$WORK/s$1" -c "$WORK/s$1/nginx.conf"
    NGINX_PID[$1]=$BACKGROUND
    wait_until 30 "nginx runs on s$1" test -s "s$1/pid"
}
health() { # N: what lbctl says of a backend
    lbctl_in lb201 backends --json | gojq --raw-output --arg name "s$1" '.[] | select(.name == $name) | .observed.health // "unknown"'
}
is() { [[ $(health "$1") == "$2" ]]; }
reason() { lbctl_in lb201 backends --json | gojq --raw-output --arg name "s$1" '.[] | select(.name == $name) | .observed.reason'; }
all_up() { [[ $(lbctl_in lb201 backends --json | gojq '[.[] | select(.observed.health == "up")] | length') == "$SERVERS" ]]; }
# servers_of NAME: the servers of 16 requests from as many addresses, half of them over IPv6
servers_of() {
    local n
    for ((n = 1; n <= 8; n++)); do
        in_ns client curl --silent --show-error --max-time 30 --interface "50.0.7.$n" --output /dev/null \
            --dump-header - "http://$VIP4/health"
        in_ns client curl --silent --show-error --max-time 30 --interface "2000::7$((10 + n))" --output /dev/null \
            --dump-header - "http://[$VIP6]/health"
    done > "$1.headers" || true
    grep -i '^x-server' "$1.headers" | tr -d '\r' | cut -d ' ' -f 2 > "$1"
}

balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"
for ((n = 1; n <= SERVERS; n++)); do
    nginx_of "$n"
    nginx_up "$n"
done
wait_until 60 "all backends are up" all_up
lbctl_in lb201 show > show.txt
expect_grep "lbctl show says that checks run" '^health +checks run' show.txt

# fails N WHY: it is found down for that reason, and gets no new flows.
fails() {
    local n=$1 why=$2 began
    began=$(now_ms)
    wait_until 60 "s$n is down" is "$n" down
    note "after $(($(now_ms) - began)) ms"
    reason "$n" > "why-s$n"
    expect_grep "why s$n is down: $(cat "why-s$n")" "$why" "why-s$n"
    wait_until 20 "lbd has taken it over" taken_over lb201
    servers_of "without-s$n"
    expect_eq "requests that were answered without s$n" "$(wc -l < "without-s$n")" 16
    expect_eq "of them by s$n" "$(grep -cx "s$n" "without-s$n" || true)" 0
    lbctl_in lb201 check > check.txt || true
    expect_grep "lbctl check names s$n" "web/s$n.*down" check.txt
}
# heals N: it is found up, and gets flows.
heals() {
    wait_until 60 "s$1 is up" is "$1" up
    wait_until 20 "lbd has taken it over" taken_over lb201
}

step "the process is killed"
kill -KILL "${NGINX_PID[1]}"
wait_until 10 "nginx of s1 has ended" process_gone "${NGINX_PID[1]}"
fails 1 'connection refused'
nginx_up 1
heals 1

step "the port is closed by a firewall"
in_ns s2 nft add table inet wall
in_ns s2 nft add chain inet wall input '{ type filter hook input priority 0; }'
in_ns s2 nft add rule inet wall input tcp dport 80 drop
fails 2 'no [a-z]+ within'
in_ns s2 nft delete table inet wall
heals 2

step "the VIP is taken off lo"
ip -netns s3 -6 address delete "$VIP6/128" dev lo
fails 3 "."
ip -netns s3 -6 address add "$VIP6/128" dev lo nodad
heals 3

step "the tunnel's device is removed, and made again"
device=$(ip -netns s4 -json link | gojq --raw-output '[.[] | select(.ifalias // "" | startswith("synrail")) | .ifname][0]')
ip -netns s4 link delete "$device"
fails 4 'no [a-z]+ within'
backends_up lb201 web 4 4
heals 4

step "it answers 500"
touch s1/fails
fails 1 'status 500'
rm s1/fails
heals 1

step "it does not answer in time"
kill -STOP "${NGINX_PID[2]}"
fails 2 'no [a-z]+ within'
kill -CONT "${NGINX_PID[2]}"
heals 2

for n in 1 2 3; do
    servers_of "all-$n"
done
expect_eq "servers that answer at the end" "$(sort -u all-? | wc -l)" "$SERVERS"

step "the agent stops, and dies: what it found stays in force"
agent=$(lbctl_in lb201 show --json | gojq .agent.pid)
kill -STOP "$agent"
kill -KILL "${NGINX_PID[3]}"
silent() { [[ $(lbctl_in lb201 show --json | gojq .agent.running) == false ]]; }
wait_until 30 "lbctl says that no checks run" silent
expect_eq "health of s3, by the last check" "$(health 3)" up
kill -KILL "$agent"
fails 3 'connection refused'
expect_grep "lbd's log says that lbagent has ended" 'lbagent has ended' lb201.lbd.log
balancer_stop lb201
