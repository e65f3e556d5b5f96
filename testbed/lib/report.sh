# shellcheck shell=bash
# Results that a person can read: a row a kind of traffic, a bar a backend.

# bar COUNT MOST: COUNT as a bar, 40 characters long for MOST.
bar() {
    local length=$(($2 > 0 ? ($1 * 40 + $2 / 2) / $2 : 0)) text
    printf -v text '%*s' "$length" ''
    printf '%s' "${text// /#}"
}
# bars FILE...: what the traffic tool said of its servers, added up over the files, a bar each.
bars() {
    local name count most
    most=$(gojq --slurp '[.[].servers | to_entries[]] | group_by(.key) | map(map(.value) | add) | max // 0' "$@")
    gojq --slurp --raw-output '[.[].servers | to_entries[]] | group_by(.key)[] | "\(.[0].key) \(map(.value) | add)"' "$@" |
        sort -V | while read -r name count; do
        printf '  %-6s %6d  %s\n' "$name" "$count" "$(bar "$count" "$most")"
    done
}
servers_used() { gojq --slurp '[.[].servers | to_entries[] | select(.value > 0) | .key] | unique | length' "$@"; }
# servers_named FILE...: their names, on one line
servers_named() { gojq --slurp --raw-output '[.[].servers | to_entries[] | select(.value > 0) | .key] | unique | join(" ")' "$@"; }
total() { local what=$1; shift; gojq --slurp "map(.$what // 0) | add" "$@"; }
