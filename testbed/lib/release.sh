# shellcheck shell=bash
# Another Debian release than the host's: its stock kernel, and its programs as the root file system of the virtual
# machine, so that nft, ip and conntrack there are those of that release too.
#
# Packages are downloaded by apt with lists and a dpkg status of its own, in the cache, and only unpacked: no maintainer
# script runs, nothing needs root, and the host's own packages and lists are not touched. What scripts would have done
# and a machine needs is done here (the links of a merged /usr, awk, the users). lbd, lbctl and traffic are those that the
# host built: the release's C library must not be older than the host's.

RELEASE='' # empty: the host's own
RELEASE_MIRROR=${TESTBED_MIRROR:-http://deb.debian.org/debian}
RELEASE_PACKAGES=(
    base-files base-passwd netbase bash dash coreutils debianutils diffutils findutils grep gzip hostname mawk sed
    util-linux mount procps kmod busybox-static iproute2 nftables conntrack tcpdump ethtool iperf3 curl gojq python3
    nginx ipvsadm dnsmasq-base openssl perl-base
)

host_release() { (. /etc/os-release && printf '%s' "${VERSION_CODENAME:-unknown}"); }

# deps_release: the release in the cache; the first time it is fetched. Sets GUEST_ROOT, KERNEL_ROOT, KERNEL_VERSION and
# the paths of servers, which are in the guest.
# shellcheck disable=SC2034 # for lib/vm.sh and lib/inside
deps_release() {
    mkdir -p "$CACHE"
    with_lock release_unpack
    GUEST_ROOT=$CACHE/$RELEASE/root
    KERNEL_ROOT=$(newest_kernel "$CACHE/$RELEASE")
    KERNEL_VERSION=${KERNEL_ROOT##*/linux-image-}
    NGINX_PROGRAM=/usr/sbin/nginx DNSMASQ_PROGRAM=/usr/sbin/dnsmasq
}
# is_made_of DIRECTORY LIST: it is in the cache, and made of these packages. One of others is removed.
is_made_of() {
    [[ ! -d $1 || $(cat "$1/made-of" 2>/dev/null) == "$2" ]] || rm -rf "$1"
    [[ -d $1 ]]
}
release_unpack() {
    if is_made_of "$CACHE/$RELEASE" "${RELEASE_PACKAGES[*]}"; then return 0; fi
    local new package
    step "fetching Debian $RELEASE (its stock kernel and programs), to be unpacked in $CACHE, not installed"
    new=$(mktemp -d "$CACHE/.new-XXXXXX")
    release_apt "$new/apt"
    (
        export APT_CONFIG=$new/apt/apt.conf
        apt-get -qq update || die "apt could not read the lists of Debian $RELEASE from $RELEASE_MIRROR (TESTBED_MIRROR names another)"
        package=$(stock_kernel_package)
        [[ -n $package ]] || die "Debian $RELEASE has no package linux-image-amd64"
        fetch_package "$new/$package" "$package"
        kernel_modules "$new/$package" "$package"
        apt-get -qq --download-only -y install "${RELEASE_PACKAGES[@]}" || die "could not download the packages of Debian $RELEASE"
    ) || { rm -rf "$new"; exit 1; }
    release_root "$new/root" "$new/apt/archives"
    rm -rf "$new/apt"
    echo "${RELEASE_PACKAGES[*]}" > "$new/made-of"
    mv -T "$new" "$CACHE/$RELEASE"
}

# release_apt DIRECTORY: apt's configuration for the release, with a place of its own for all that apt keeps.
release_apt() {
    mkdir -p "$1"/{lists,archives}/partial "$1/none"
    : > "$1/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $RELEASE_MIRROR $RELEASE main" > "$1/sources.list"
    cat > "$1/apt.conf" <<APT
Dir::State "$1";
Dir::State::lists "$1/lists";
Dir::State::status "$1/status";
Dir::Cache "$1";
Dir::Cache::archives "$1/archives";
Dir::Etc::sourcelist "$1/sources.list";
Dir::Etc::sourceparts "$1/none";
Dir::Etc::preferencesparts "$1/none";
APT::Install-Recommends "false";
APT::Sandbox::User "";
Debug::NoLocking "true";
APT
}

# release_root DIRECTORY PACKAGES: the file tree that they make.
release_root() {
    local root=$1 package directory
    mkdir -p "$root/usr"/{bin,sbin,lib,lib64}
    for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$root/$directory"; done
    for package in "$2"/*.deb; do dpkg-deb -x "$package" "$root"; done
    ln -sf mawk "$root/usr/bin/awk"
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
}
