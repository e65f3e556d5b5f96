#compdef lbtop

autoload -U is-at-least

_lbtop() {
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
'--shm=[The region in shared memory]:NAME:_default' \
'--interval=[How often it is read, in seconds\: 0.2 to 60]:SECONDS:_default' \
'--filter=[Only services with this text in their name, or in that of a backend]:TEXT:_default' \
'--width=[With --once\: how many columns the screen has]:N:_default' \
'--height=[With --once\: how many lines it has]:N:_default' \
'--once[Print one screen after one interval, as text, and end. Needs no terminal]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
&& ret=0
}

(( $+functions[_lbtop_commands] )) ||
_lbtop_commands() {
    local commands; commands=()
    _describe -t commands 'lbtop commands' commands "$@"
}

if [ "$funcstack[1]" = "_lbtop" ]; then
    _lbtop "$@"
else
    compdef _lbtop lbtop
fi
