#compdef lbd

autoload -U is-at-least

_lbd() {
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
'--config=[The configuration file. The region is made from it if there is none]:FILE:_files' \
'--shm=[The region in shared memory to follow]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what \`lbctl enable\`, \`drain\` and \`disable\` said]:DIRECTORY:_files' \
'--agent=[The program that lbd starts if a service has health checks; "none" if something else starts it. Without this it is the lbagent in lbd'\''s own directory, if there is one]:PROGRAM:_files' \
'--log=[How much to log\: error, warn, info, debug or trace]:LEVEL:_default' \
'(--cleanup)--check[Only check the configuration file]' \
'--host[With --check\: look at this host as well, and say what there keeps packets from backends]' \
'(--check --cleanup)--once[Put what the region says in force in the kernel, and end\: the kernel decides by its own tables while no lbd runs]' \
'(--check --once --cleanup)--withdraw[Withdraw the VIPs that nothing here serves while no lbd runs\: those of which the kernel has no table. For when lbd has ended by force]' \
'--cleanup[Remove everything that lbd has set up\: ruleset, rules, routes, devices, the region, and what lbctl said]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
&& ret=0
}

(( $+functions[_lbd_commands] )) ||
_lbd_commands() {
    local commands; commands=()
    _describe -t commands 'lbd commands' commands "$@"
}

if [ "$funcstack[1]" = "_lbd" ]; then
    _lbd "$@"
else
    compdef _lbd lbd
fi
