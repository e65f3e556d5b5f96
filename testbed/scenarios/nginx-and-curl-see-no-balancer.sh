# shellcheck shell=bash
# proves: real programs work: curl downloads from and uploads to nginx byte-exact, and nginx sees the client's address
#
# Every backend runs nginx with the same file to download and a place of its own for what is uploaded.
# topology: dsr:servers=3
# steering: any
# needs: queue conntrack gre nginx curl
# captures: no
# limit_s: 300

BYTES=3000000
{
    config_balancer lb201
    config_service web "$VIP4/32 $VIP6/128" tcp 80
    config_servers 1 "$SERVERS" gre
} > lb201.toml
witness_up lb201
balancer_start lb201 lb201.toml
backends_up lb201 web 1 "$SERVERS"

head -c "$BYTES" /dev/urandom > file
for ((n = 1; n <= SERVERS; n++)); do
    mkdir -p "s$n/root"
    cp file "s$n/root/file"
    cat > "s$n/nginx.conf" <<NGINX
daemon off;
master_process off;
pid $WORK/s$n/pid;
error_log $WORK/s$n/error.log;
events { worker_connections 256; }
http {
    log_format peer '\$remote_addr \$request_method \$status';
    access_log $WORK/s$n/access.log peer;
    client_body_temp_path $WORK/s$n/body;
    proxy_temp_path $WORK/s$n/proxy;
    fastcgi_temp_path $WORK/s$n/fastcgi;
    uwsgi_temp_path $WORK/s$n/uwsgi;
    scgi_temp_path $WORK/s$n/scgi;
    client_max_body_size 100m;
    server {
        listen $VIP4:80;
        listen [$VIP6]:80;
        root $WORK/s$n/root;
        add_header X-Server s$n always;
        location / { dav_methods PUT; }
    }
}
NGINX
    background "s$n" "s$n/nginx" "$NGINX_PROGRAM" -e "$WORK/s$n/error.log" -p "$WORK/s$n" -c "$WORK/s$n/nginx.conf"
done
for ((n = 1; n <= SERVERS; n++)); do wait_until 30 "nginx runs on s$n" test -s "s$n/pid"; done

fetch() { in_ns client curl --silent --show-error --fail --max-time 60 "$@"; }
for ((n = 1; n <= 12; n++)); do
    fetch --interface "50.0.7.$n" --output /dev/null --dump-header - "http://$VIP4/file" --range 0-99
    fetch --interface "2000::7$((10 + n))" --output /dev/null --dump-header - "http://[$VIP6]/file" --range 0-99
done > headers.txt
expect_eq "servers that answered 24 requests" "$(grep -i '^x-server' headers.txt | sort -u | wc -l)" "$SERVERS"

for place in "50.0.8.1 $VIP4" "2000::801 [$VIP6]"; do
    read -r source vip <<< "$place"
    fetch --interface "$source" --output got "http://$vip/file"
    expect_same "download of $BYTES bytes from $vip by $source" file got
    rm -f s*/root/up
    fetch --interface "$source" --upload-file file "http://$vip/up"
    expect_same "upload of $BYTES bytes to $vip by $source" file "$(echo s*/root/up)"
done
cat s*/access.log > access.txt
expect_eq "requests whose source nginx saw as it was" "$(grep -Ec '^(50\.0\.[78]\.|2000::[78][0-9a-f][0-9a-f] )' access.txt)" "$(wc -l < access.txt)"
expect_eq "replies seen by the balancer" "$(witness lb201 from_vip)" 0
