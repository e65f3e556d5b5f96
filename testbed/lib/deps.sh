# shellcheck shell=bash
# Everything that the testbed needs and that is not in the checkout: Debian packages, a stock kernel, nginx, dnsmasq, routing daemons,
# ipvsadm, promtool, the build.
#
# Packages that are missing are installed without a question; none of them starts a service. The kernel, nginx, dnsmasq, BIRD, FRR,
# ipvsadm and promtool are only unpacked, into the cache. What enters the cache is made under a temporary name and renamed, under a lock: a run
# that is interrupted, or two runs at once, never leave half of something. A second run needs no network.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/synrail-testbed

# What install_packages takes: what the product is built with, and all that a run needs.
BUILD_PACKAGES=(
    gcc=cc pkg-config=pkg-config libc6-dev=/usr/include/stdio.h
    libmnl-dev=/usr/include/libmnl/libmnl.h libnftnl-dev=/usr/include/libnftnl/expr.h
)
PACKAGES=(
    "${BUILD_PACKAGES[@]}"
    qemu-system-x86=qemu-system-x86_64 busybox-static=busybox kmod=modprobe cpio=cpio
    nftables=nft iproute2=ip conntrack=conntrack tcpdump=tcpdump ethtool=ethtool procps=ps util-linux=unshare netbase=/etc/protocols
    iperf3=iperf3 curl=curl gojq=gojq python3=/usr/bin/python3 gzip=gzip openssl=openssl
    xz-utils=xz e2fsprogs=mkfs.ext4
)
# nginx and dnsmasq themselves are unpacked; these are the libraries they link.
NGINX_LIBRARIES=(libcrypt1 libpcre2-8-0 libssl3 zlib1g)
DNSMASQ_LIBRARIES=(libdbus-1-3 libgmp10 libhogweed6 libidn2-0 libnetfilter-conntrack3 libnettle8 libnftables1)

deps_packages() { install_packages "${PACKAGES[@]}"; }
# install_packages PACKAGE=COMMAND-OR-FILE...: those that are missing; what stands behind the sign shows that one is there.
install_packages() {
    local PATH=$PATH:/usr/sbin:/sbin entry missing=()
    for entry in "$@"; do
        is_there "${entry#*=}" || missing+=("${entry%%=*}")
    done
    ((${#missing[@]})) || return 0
    have apt-get || die "this host has no apt-get; please install what these Debian packages hold: ${missing[*]}"
    step "installing Debian packages: ${missing[*]}"
    as_root apt-get -qq update || complain "apt-get update failed; going on with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 "${missing[@]}" >/dev/null ||
        die "apt-get could not install: ${missing[*]}"
}
is_there() { if [[ $1 == /* ]]; then [[ -e $1 ]]; else have "$1"; fi; }
as_root() {
    if ((EUID == 0)); then "$@"
    elif have sudo; then sudo "$@"
    else die "to run '$*' the testbed needs root (or sudo)"
    fi
}

# deps_kernel: the newest stock kernel of the host's release in the cache; the first time it is fetched. Sets GUEST_ROOT,
# KERNEL_ROOT and KERNEL_VERSION, as deps_release does for another release.
deps_kernel() {
    mkdir -p "$CACHE"
    with_lock kernel_unpack
    KERNEL_ROOT=$(newest_kernel "$CACHE")
    # shellcheck disable=SC2034 # for lib/vm.sh
    KERNEL_VERSION=${KERNEL_ROOT##*/linux-image-} GUEST_ROOT=/
}
newest_kernel() { find "$1" -maxdepth 1 -name 'linux-image-*' | sort -V | tail -n 1; } # DIRECTORY
kernel_unpack() {
    [[ -z $(newest_kernel "$CACHE") ]] || return 0
    local package new
    package=$(stock_kernel_package)
    if [[ -z $package ]]; then
        as_root apt-get -qq update || true
        package=$(stock_kernel_package)
        [[ -n $package ]] || die "apt knows no package linux-image-amd64; is this Debian?"
    fi
    step "fetching Debian's stock kernel ($package), to be unpacked in $CACHE, not installed"
    new=$(mktemp -d "$CACHE/.new-XXXXXX")
    fetch_package "$new" "$package"
    kernel_modules "$new" "$package"
    mv -T "$new" "$CACHE/$package"
}
# kernel_modules DIRECTORY PACKAGE: a kernel that was unpacked there gets what modprobe reads.
kernel_modules() {
    # Some packages have /usr/lib in them, and modprobe -d looks below lib.
    [[ -d $1/lib/modules ]] || ln -s usr/lib "$1/lib"
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$1" "${2#linux-image-}"
}
stock_kernel_package() {
    sed -n '/.*Depends: \(linux-image-[0-9].*\)/{s//\1/p;q}' <(apt-cache depends linux-image-amd64 2>/dev/null)
}

# deps_servers: sets NGINX_PROGRAM and DNSMASQ_PROGRAM.
# shellcheck disable=SC2034 # for lib/inside
deps_servers() {
    mkdir -p "$CACHE"
    with_lock program_unpack nginx usr/sbin/nginx "${NGINX_LIBRARIES[@]}"
    with_lock program_unpack dnsmasq-base usr/sbin/dnsmasq "${DNSMASQ_LIBRARIES[@]}"
    NGINX_PROGRAM=$CACHE/nginx/usr/sbin/nginx DNSMASQ_PROGRAM=$CACHE/dnsmasq-base/usr/sbin/dnsmasq
}
program_unpack() { # PACKAGE PROGRAM LIBRARY...
    local package=$1 program=$2 new missing
    shift 2
    [[ ! -x $CACHE/$package/$program ]] || return 0
    step "fetching $package, to be unpacked in $CACHE, not installed"
    new=$(mktemp -d "$CACHE/.new-XXXXXX")
    fetch_package "$new" "$package"
    missing=$(ldd "$new/$program" | grep 'not found' || true)
    if [[ -n $missing ]]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null ||
            die "$program lacks libraries: $missing"
    fi
    mv -T "$new" "$CACHE/$package"
}

# deps_routing: sets ROUTING to a directory with BIRD and FRR, 24 MB, and the libraries that they need.
# shellcheck disable=SC2034 # for testbed/run, whether a scenario of this run needs it
ROUTING='' needs_routing=0
ROUTING_PACKAGES=(bird2 libssh-gcrypt-4 frr libyang2 libc-ares2 libjson-c5)
deps_routing() {
    mkdir -p "$CACHE"
    with_lock routing_unpack
    # shellcheck disable=SC2034 # for testbed/run
    ROUTING=$CACHE/routing
}
routing_unpack() {
    [[ ! -d $CACHE/routing ]] || return 0
    step "fetching BIRD and FRR, to be unpacked in $CACHE, not installed"
    local new package
    new=$(mktemp -d "$CACHE/.new-XXXXXX")
    for package in "${ROUTING_PACKAGES[@]}"; do fetch_package "$new" "$package"; done
    mkdir "$new/libraries"
    find "$new/usr/lib" "$new/lib" -name 'lib*.so*' -exec cp -Pt "$new/libraries" {} + 2>/dev/null || true
    mv -T "$new" "$CACHE/routing"
}

# deps_ipvsadm DIRECTORY: a program ipvsadm there, which runs the unpacked one with the libraries that it needs.
IPVSADM_PACKAGES=(ipvsadm libnl-3-200 libnl-genl-3-200 libpopt0)
deps_ipvsadm() {
    mkdir -p "$CACHE"
    with_lock ipvsadm_unpack
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%q exec %q "$@"\n' "$CACHE/ipvsadm/libraries" "$CACHE/ipvsadm/sbin/ipvsadm" > "$1/ipvsadm"
    chmod 755 "$1/ipvsadm"
}
ipvsadm_unpack() {
    [[ ! -x $CACHE/ipvsadm/sbin/ipvsadm ]] || return 0
    step "fetching ipvsadm, to be unpacked in $CACHE, not installed"
    local new package
    new=$(mktemp -d "$CACHE/.new-XXXXXX")
    for package in "${IPVSADM_PACKAGES[@]}"; do fetch_package "$new" "$package"; done
    mkdir "$new/libraries"
    find "$new" -name 'lib*.so.*' -exec cp -Pt "$new/libraries" {} +
    [[ -d $new/sbin ]] || ln -s usr/sbin "$new/sbin"
    mv -T "$new" "$CACHE/ipvsadm"
}

# deps_promtool: sets PROMTOOL to the program, beside which Prometheus itself is. It is not installed, since its package starts a service.
# shellcheck disable=SC2034 # for testbed/run, as with ROUTING
PROMTOOL='' needs_prometheus=0
deps_promtool() {
    mkdir -p "$CACHE"
    with_lock promtool_unpack
    # shellcheck disable=SC2034 # for tools/lib/metrics
    PROMTOOL=$CACHE/prometheus/usr/bin/promtool
}
promtool_unpack() {
    [[ ! -x $CACHE/prometheus/usr/bin/promtool ]] || return 0
    step "fetching prometheus, to be unpacked in $CACHE, not installed"
    local new
    new=$(mktemp -d "$CACHE/.new-XXXXXX")
    fetch_package "$new" prometheus
    mv -T "$new" "$CACHE/prometheus"
}

# fetch_package DIRECTORY PACKAGE: download it and unpack it there; package lists that are out of date are renewed once.
fetch_package() {
    local directory=$1 package=$2 download
    download=$(mktemp -d "$CACHE/.get-XXXXXX")
    apt_download "$download" "$package" || { as_root apt-get -qq update && apt_download "$download" "$package"; } ||
        { rm -rf "$download" "$directory"; die "could not download the Debian package $package"; }
    dpkg-deb -x "$download"/*.deb "$directory"
    rm -rf "$download"
}
apt_download() { (cd "$1" && apt-get -qq -o APT::Sandbox::User=root download "$2"); }

# with_lock COMMAND...: one at a time over all runs; what an interrupted run left is swept first.
with_lock() {
    {
        flock -w 600 9 || die "another run has held $CACHE/.lock for ten minutes"
        rm -rf "$CACHE"/.new-* "$CACHE"/.get-*
        "$@"
    } 9>"$CACHE/.lock"
}

# deps_build DIRECTORY: build the project and copy its programs there (a copy, so that a later build cannot change a
# run, and so that the place of the target directory does not matter), without line numbers, which are most of their
# bytes. $TESTBED_BIN names programs built beforehand.
PROGRAMS=(lbd lbctl lbagent lbtop traffic) # and kernel-tests, where a scenario needs it
deps_build() {
    local to=$1 from=${TESTBED_BIN:-} program path
    if [[ -z $from ]]; then
        have cargo || die "cargo is missing; see https://rustup.rs (the Rust of Debian 12 is too old)"
        step "building synrail (cargo build --release)"
        (cd "$CHECKOUT" && cargo build --quiet --release --workspace --bins) || die "the build failed"
        from=$(cd "$CHECKOUT" && cargo metadata --format-version 1 --no-deps --offline |
            gojq --raw-output .target_directory)/release
    fi
    mkdir -p "$to"
    for program in "${PROGRAMS[@]}"; do
        path=$from/$program
        [[ $program != kernel-tests || -n ${TESTBED_BIN:-} ]] || path=$(kernel_tests) || die "the build of the tests failed"
        if [[ -x $path ]]; then
            strip --strip-debug -o "$to/$program" "$path" 2>/dev/null || cp "$path" "$to/$program"
        else
            complain "there is no program $path; what needs it will fail"
        fi
    done
}
# kernel_tests: the program of the library's tests, built as tools/check has it, with assertions.
kernel_tests() {
    step "building the library's tests (cargo test --lib --no-run)" >&2
    (cd "$CHECKOUT" && cargo test --quiet --lib --no-run --message-format json-render-diagnostics |
        gojq --raw-output 'select(.reason == "compiler-artifact" and .profile.test and .executable).executable')
}
