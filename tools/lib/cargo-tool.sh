# shellcheck shell=bash
# Programs from crates.io that checks need. They are kept outside of the checkout, so that they are built once.

# cargo_tool NAME VERSION [FEATURE FLAG...]: puts NAME on PATH, installed if need be; any patch release of VERSION will do
cargo_tool() {
    local name=$1 version=$2 root=${XDG_CACHE_HOME:-$HOME/.cache}/synrail-tools
    shift 2
    PATH=$root/bin:$PATH
    if ! grep -qF " $version." <("$name" --version 2>/dev/null); then
        echo "==> installing $name $version (once)"
        # Without optimisation: it runs for seconds, and would build for minutes.
        CARGO_TARGET_DIR=$root/build cargo install --quiet --locked --debug --root "$root" --version "~$version.0" "$@" "$name"
        rm -rf "$root/build"
    fi
}
