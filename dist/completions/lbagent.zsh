#compdef lbagent

autoload -U is-at-least

_lbagent() {
    typeset -A opt_args
    typeset -a _arguments_options
    local ret=1

    if is-at-least 5.2; then
        _arguments_options=(-s -S -C)
    else
        _arguments_options=(-s -C)
    fi

    local context curcontext="$curcontext" state line
    _arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory to follow]:NAME:_default' \
'--socket=[The socket of lbd \[default\: /run/synrail/REGION.sock\]]:PATH:_files' \
'--user=[The user to become if started as root \[default\: synrail, or user 65534 if there is none\]]:USER:_default' \
'--log=[How much to log\: error, warn, info, debug or trace]:LEVEL:_default' \
'--once[Run each check once, ask each agent on a backend once, and print what they found. Needs no lbd if the checks need no tunnel]' \
'--json[With --once\: print JSON]' \
'--reader[Make snapshots for the process that serves HTTP, by standard input]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
&& ret=0
}

(( $+functions[_lbagent_commands] )) ||
_lbagent_commands() {
    local commands; commands=()
    _describe -t commands 'lbagent commands' commands "$@"
}

if [ "$funcstack[1]" = "_lbagent" ]; then
    _lbagent "$@"
else
    compdef _lbagent lbagent
fi
