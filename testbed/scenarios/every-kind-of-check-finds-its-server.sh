# shellcheck shell=bash
# proves: each kind of check, by tunnel and direct, over IPv4 and IPv6, finds a real server up, gone, wrong and silent, says why, and finds it well again
#
# Seven kinds, each by tunnel and direct, of two servers: nginx (tcp, http, https, and a program that asks it), dnsmasq, a server for UDP,
# and the kernel's echo. s1 is reached by IPv4, s2 by IPv6. What is broken is s1's part in IPv4 and s2's in IPv6, so each check by
# tunnel, which asks a VIP of each family, must say which of them has failed, while the other answers.
# topology: dsr:servers=2
# needs: queue conntrack nginx dnsmasq openssl perl
# captures: no
# limit_s: 600

KINDS=(tcp http https udp dns icmp exec)
TIMEOUT_MS=2500
declare -A PORT_OF=([tcp]=7001 [http]=80 [https]=443 [udp]=7002 [dns]=53 [icmp]=7003 [exec]=80)
DIRECT4=10.0.0.1 # VIP of the services that are checked directly
declare -A ENCAP=([tunnel-1]=gre [tunnel-2]=ip6gre [direct-1]=direct [direct-2]=direct6)
# A kernel without GRE, which the stock kernel is not, has the way to the next hop.
[[ $KERNEL != host ]] || need gre > /dev/null || ENCAP+=([tunnel-1]=direct6 [tunnel-2]=direct6)

# lbagent reads the authority and runs the program as a user without rights.
chmod 711 "$WORK"
cat > ask.pl <<'PERL'
#!/usr/bin/perl
# What an operator could write: asks for /health, through the tunnel if there is a mark.
use Socket qw(:all);
$| = 1;
my ($address, $port, $mark, $source) = @ENV{qw(SYNRAIL_ADDRESS SYNRAIL_PORT SYNRAIL_MARK SYNRAIL_SOURCE)};
my $six = $address =~ /:/;
sub fails { print "$_[0]\n"; exit 1 }
socket(my $server, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0) or fails("no socket: $!");
!defined $mark or setsockopt($server, SOL_SOCKET, 36, pack('L', $mark)) or fails("no mark: $!");
if (defined $source) {
    my $from = inet_pton($six ? AF_INET6 : AF_INET, $source);
    bind($server, $six ? pack_sockaddr_in6(0, $from) : pack_sockaddr_in(0, $from)) or fails("no source: $!");
}
my $to = inet_pton($six ? AF_INET6 : AF_INET, $address);
connect($server, $six ? pack_sockaddr_in6($port, $to) : pack_sockaddr_in($port, $to)) or fails("cannot ask: $!");
syswrite($server, "GET /health HTTP/1.0\r\n\r\n");
sysread($server, my $answer, 15) or fails("no answer: $!");
$answer =~ /200 OK/ or fails("it says $answer");
print "asked ", defined $mark ? "by tunnel" : "directly", "\n";
PERL
chmod 755 ask.pl
cat > udp.py <<'PYTHON'
import selectors, socket, sys
answer, ready, sockets = sys.argv[1].encode(), sys.argv[2], selectors.DefaultSelector()
for at in sys.argv[3:]:
    one = socket.socket(socket.AF_INET6 if ":" in at else socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((at, 7002))
    sockets.register(one, selectors.EVENT_READ)
open(ready, "w").write("ready")
while True:
    for key, _ in sockets.select():
        data, client = key.fileobj.recvfrom(100)
        if data == b"ping":
            key.fileobj.sendto(answer, client)
PYTHON

step "an authority, and certificates: a good one, one that has ended, one of another name"
cat > ca.conf <<'CONF'
[req]
distinguished_name = name
x509_extensions = authority
prompt = no
[name]
CN = The authority of this test
[authority]
basicConstraints = critical, CA:true
[ca]
default_ca = here
[here]
database = index
new_certs_dir = .
rand_serial = yes
default_md = sha256
policy = any
x509_extensions = server
unique_subject = no
[any]
commonName = supplied
[server]
subjectAltName = DNS:$ENV::NAME_IN_IT
CONF
: > index
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
# certificate FILE NAME START END
certificate() {
    NAME_IN_IT=$2 openssl req -new -key server.key -subj "/CN=$2" -config ca.conf -out request.pem
    NAME_IN_IT=$2 openssl ca -batch -config ca.conf -cert ca.pem -keyfile ca.key -notext -startdate "$3" -enddate "$4" \
        -in request.pem -out "$1"
}
{
    key ca.key
    key server.key
    NAME_IN_IT=none openssl req -x509 -new -key ca.key -days 30 -config ca.conf -out ca.pem
    certificate good.pem www.example.org 20200101000000Z 20990101000000Z
    certificate ended.pem www.example.org 20200101000000Z 20210101000000Z
    certificate other.pem api.example.org 20200101000000Z 20990101000000Z
} > openssl.log 2>&1

health_of() { # KIND
    case $1 in
        http) printf '%s\n' 'path = "/health"' 'body = "all is well"' ;;
        https) printf '%s\n' 'path = "/health"' 'host = "www.example.org"' "ca_file = \"$WORK/ca.pem\"" ;;
        udp) printf '%s\n' 'send = "ping"' 'expect = "pong"' ;;
        dns) printf '%s\n' 'query = "www.example.org"' 'expect = "192.0.2.7"' ;;
        exec) echo "command = [\"$WORK/ask.pl\"]" ;;
    esac
}
{
    config_balancer lb201
    for kind in "${KINDS[@]}"; do
        for via in tunnel direct; do
            vips="$VIP4/32 $VIP6/128" protocol=tcp port=${PORT_OF[$kind]}
            [[ $via == tunnel ]] || vips="$DIRECT4/32"
            [[ $kind != udp && $kind != dns ]] || protocol=udp
            [[ $kind != exec ]] || port=7004
            config_service "$kind-$via" "$vips" "$protocol" "$port" 'table_size = 97' '[service.health]' "kind = \"$kind\"" \
                "via = \"$via\"" "port = ${PORT_OF[$kind]}" 'interval_ms = 5000' "timeout_ms = $TIMEOUT_MS" 'fall = 3' 'rise = 1' \
                'panic_below_percent = 0'
            health_of "$kind"
            config_servers 1 1 "${ENCAP[$via-1]}"
            config_servers 2 2 "${ENCAP[$via-2]}"
        done
    done
} > lb201.toml

declare -A OWN4=([1]=192.168.1.1 [2]=192.168.1.2) OWN6=([1]=fd00:0:0:1::1 [2]=fd00:0:0:1::2)
# servers N ADDRESSES4 ADDRESSES6 CERTIFICATE4 CERTIFICATE6 STATUS4 STATUS6 PONG4 PONG6 NAME4 NAME6: what s1 or s2 serves from now on. No
# addresses of a family: nothing listens there.
declare -A RUNS=()
servers() {
    local n=$1 family address at pid
    local -A at_of=([4]=$2 [6]=$3) certificate=([4]=$4 [6]=$5) status=([4]=$6 [6]=$7) pong=([4]=$8 [6]=$9) name=([4]=${10} [6]=${11})
    # Soon: meanwhile both families fail.
    for pid in ${RUNS[$n]:-}; do kill "$pid" || true; done
    for pid in ${RUNS[$n]:-}; do wait_until 20 "a server of s$n has ended" process_gone "$pid"; done
    RUNS[$n]=''
    mkdir -p "s$n/root"
    rm -f "s$n"/*.ready
    echo 'all is well' > "s$n/root/health"
    {
        cat <<NGINX
daemon off; master_process off; pid $WORK/s$n/nginx.ready; error_log $WORK/s$n/error.log;
events { worker_connections 256; }
http {
    access_log off; client_body_temp_path $WORK/s$n/body; proxy_temp_path $WORK/s$n/proxy; fastcgi_temp_path $WORK/s$n/fastcgi;
    uwsgi_temp_path $WORK/s$n/uwsgi; scgi_temp_path $WORK/s$n/scgi; root $WORK/s$n/root;
NGINX
        for family in 4 6; do
            [[ ${at_of[$family]} ]] || continue
            echo "    server { ssl_certificate $WORK/${certificate[$family]}.pem; ssl_certificate_key $WORK/server.key;"
            for address in ${at_of[$family]}; do
                at=$address
                [[ $family == 4 ]] || at="[$address]"
                echo "        listen $at:80; listen $at:443 ssl; listen $at:7001;"
            done
            [[ ${status[$family]} == 200 ]] || echo "        return ${status[$family]};"
            echo '    }'
        done
        echo '}'
    } > "s$n/nginx.conf"
    background "s$n" "s$n/nginx" "$NGINX_PROGRAM" -e "$WORK/s$n/error.log" -p "$WORK/s$n" -c "$WORK/s$n/nginx.conf"
    RUNS[$n]+=" $BACKGROUND"
    for family in 4 6; do
        [[ ${at_of[$family]} ]] || continue
        # shellcheck disable=SC2086 # words
        background "s$n" "s$n/udp$family" python3 -SI "$WORK/udp.py" "${pong[$family]}" "$WORK/s$n/udp$family.ready" ${at_of[$family]}
        RUNS[$n]+=" $BACKGROUND"
        # shellcheck disable=SC2046,SC2086 # words
        background "s$n" "s$n/dns$family" "$DNSMASQ_PROGRAM" --keep-in-foreground --user=root --group=root --conf-file=/dev/null \
            --no-resolv --no-hosts --log-facility=- --bind-interfaces --pid-file= \
            $(printf -- '--listen-address=%s ' ${at_of[$family]}) --address="${name[$family]}"
        RUNS[$n]+=" $BACKGROUND"
    done
    wait_until 60 "nginx runs on s$n" test -s "s$n/nginx.ready"
    for family in 4 6; do
        [[ ${at_of[$family]} ]] || continue
        wait_until 60 "the server for UDP runs on s$n" test -s "s$n/udp$family.ready"
        wait_until 60 "dnsmasq runs on s$n" grep -q started "s$n/dns$family.log"
    done
}
GOOD=(good good 200 200 pong pong /www.example.org/192.0.2.7 /www.example.org/192.0.2.7)
all_well() {
    local n
    for n in 1 2; do servers "$n" "$VIP4 ${OWN4[$n]}" "$VIP6 ${OWN6[$n]}" "${GOOD[@]}"; done
}

# found FILE: what lbctl says now, as that file has what is expected: SERVICE BACKEND HEALTH, a tab, the reason as a regular expression
found() {
    lbctl_in lb201 backends --json | gojq --raw-output '.[] | "\(.service) \(.name) \(.observed.health // "unknown")\t\(.observed.reason // "")"' > now.txt
    awk -F '\t' 'NR == FNR { is[$1] = $2; next } !($1 in is) || is[$1] !~ $2 { bad = 1 } END { exit bad }' now.txt "$1"
}
# expect_found WHAT FILE: that, within two minutes; a machine with much to do is slow
expect_found() {
    local began what=$1
    began=$(now_ms)
    wait_until 120 "$what" found "$2" || true
    note "$what: after $(($(now_ms) - began)) ms"
    while IFS=$'\t' read -r name reason; do
        expect_grep "$name: $(awk -F '\t' -v name="$name" '$1 == name { print $2 }' now.txt)" "^$name"$'\t'"$reason\$" now.txt
    done < "$2"
}
# down FILE KIND REASON-OF-S1 [REASON-OF-S2]: lines for expect_found. By tunnel the reason names the VIP that failed.
down() {
    printf '%s\t%s\n' "$2-tunnel s1 down" "$VIP4: $3" "$2-tunnel s2 down" "$VIP6: ${4:-$3}" \
        "$2-direct s1 down" "$3" "$2-direct s2 down" "${4:-$3}" >> "$1"
}
up() { # KIND REASON-BY-TUNNEL [REASON-DIRECTLY]
    local n
    for n in s1 s2; do printf '%s\t%s\n' "$1-tunnel $n up" "$2" "$1-direct $n up" "${3:-$2}"; done >> well
}
up tcp connected
up http 'status 200, the body has "all is well"'
up https 'status 200'
up udp 'the answer has "pong"'
up dns 'the answer has 192.0.2.7'
up icmp 'echo reply'
up exec 'asked by tunnel' 'asked directly'

balancer_start lb201 lb201.toml
backends_up lb201 tcp-tunnel 1 2
# A host sends one ICMP error a second to another, which would leave most of these checks without one.
for n in 1 2; do settings "s$n" net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0; done
all_well
expect_found "all are up" well

step "the servers are gone: s1's of IPv4, s2's of IPv6; no echo of that family"
servers 1 '' "$VIP6 ${OWN6[1]}" "${GOOD[@]}"
servers 2 "$VIP4 ${OWN4[2]}" '' "${GOOD[@]}"
settings s1 net.ipv4.icmp_echo_ignore_all=1
settings s2 net.ipv6.icmp.echo_ignore_all=1
for kind in tcp http https; do down gone "$kind" 'connection refused'; done
for kind in udp dns; do down gone "$kind" 'port unreachable'; done
down gone icmp "no echo reply within $TIMEOUT_MS ms"
down gone exec 'cannot ask: Connection refused'
expect_found "all are down" gone
all_well
settings s1 net.ipv4.icmp_echo_ignore_all=0
settings s2 net.ipv6.icmp.echo_ignore_all=0
expect_found "all are up again" well

step "they answer what is wrong: 500 and 404, a certificate that has ended or is of another name, other addresses, no such text"
servers 1 "$VIP4 ${OWN4[1]}" "$VIP6 ${OWN6[1]}" ended good 500 200 nothing pong /www.example.org/192.0.2.8 /www.example.org/192.0.2.7
servers 2 "$VIP4 ${OWN4[2]}" "$VIP6 ${OWN6[2]}" good other 200 404 pong '' /www.example.org/192.0.2.7 /www.example.com/192.0.2.7
down wrong http 'status 500' 'status 404'
down wrong https 'certificate expired' 'certificate of another name than www.example.org'
down wrong udp 'the answer has no "pong"'
down wrong dns 'the answer has no 192.0.2.7' 'the server refused [(]REFUSED[)]'
down wrong exec 'it says HTTP/1.1 500 In' 'it says HTTP/1.1 404 No'
grep -E '^(tcp|icmp)-' well >> wrong
expect_found "those that look at answers are down, and no others" wrong
all_well
expect_found "all are up again" well

step "firewalls drop what comes to them"
firewall() { # NAMESPACE RULE
    in_ns "$1" nft "add table inet wall; add chain inet wall input { type filter hook input priority 0; }; add rule inet wall input $2 drop"
}
firewall s1 'meta nfproto ipv4 meta l4proto { tcp, udp, icmp }'
firewall s2 'meta nfproto ipv6 meta l4proto { tcp, udp }'
in_ns s2 nft add rule inet wall input icmpv6 type echo-request drop
for kind in tcp http https; do down silent "$kind" "no connection within $TIMEOUT_MS ms"; done
for kind in udp dns; do down silent "$kind" "no answer within $TIMEOUT_MS ms"; done
down silent icmp "no echo reply within $TIMEOUT_MS ms"
down silent exec "no end of the program within $TIMEOUT_MS ms"
expect_found "all are down" silent
for n in s1 s2; do in_ns "$n" nft delete table inet wall; done
expect_found "all are up again" well
balancer_stop lb201
