#compdef lbctl

autoload -U is-at-least

_lbctl() {
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
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help (see more with '\''--help'\'')]' \
'--help[Print help (see more with '\''--help'\'')]' \
'-V[Print version]' \
'--version[Print version]' \
":: :_lbctl_commands" \
"*::: :->lbctl" \
&& ret=0
    case $state in
    (lbctl)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-command-$line[1]:"
        case $line[1] in
            (show)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(services)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(backends)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only]:NAME:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(tier)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
":: :_lbctl__subcmd__tier_commands" \
"*::: :->tier" \
&& ret=0

    case $state in
    (tier)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-tier-command-$line[1]:"
        case $line[1] in
            (activate)
_arguments "${_arguments_options[@]}" : \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::balancers -- Names of balancers:_default' \
&& ret=0
;;
(deactivate)
_arguments "${_arguments_options[@]}" : \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::balancers -- Names of balancers:_default' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_lbctl__subcmd__tier__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-tier-help-command-$line[1]:"
        case $line[1] in
            (activate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(deactivate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(balancer)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
":: :_lbctl__subcmd__balancer_commands" \
"*::: :->balancer" \
&& ret=0

    case $state in
    (balancer)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-balancer-command-$line[1]:"
        case $line[1] in
            (drain)
_arguments "${_arguments_options[@]}" : \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(enable)
_arguments "${_arguments_options[@]}" : \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_lbctl__subcmd__balancer__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-balancer-help-command-$line[1]:"
        case $line[1] in
            (drain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(enable)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(stats)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(metrics)
_arguments "${_arguments_options[@]}" : \
'*--scope=[Only these metrics; may be given more than once. Else all]:SCOPE:(lbd packets services backends targets)' \
'-o+[Write them to a file, which is replaced as a whole]:FILE:_files' \
'--output=[Write them to a file, which is replaced as a whole]:FILE:_files' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'(--json)--openmetrics[Print OpenMetrics, not the text format of Prometheus; node_exporter does not read it]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(flows)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only]:NAME:_default' \
'--limit=[List at most N, those with the most packets \[default\: 1000; with --off-table all\]]:N:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--off-table[Those only whose table names another backend]' \
'(--limit)--count[Count them by backend, and list none]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::backends -- Of these backends only:_default' \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--repair[Mend what lbd would mend]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(which)
_arguments "${_arguments_options[@]}" : \
'--batch=[Answer every line of a file; - is standard input]:FILE:_files' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--fragment[Tell also which balancer of the tier handles its fragments]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::flow -- Protocol, source, its port, destination, its port:_default' \
&& ret=0
;;
(tracer)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
":: :_lbctl__subcmd__tracer_commands" \
"*::: :->tracer" \
&& ret=0

    case $state in
    (tracer)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-tracer-command-$line[1]:"
        case $line[1] in
            (send)
_arguments "${_arguments_options[@]}" : \
'--batch=[Send a probe for every line of a file; - is standard input]:FILE:_files' \
'--receiver=[The address of this host to hear reports at; else the one that it sends from to DST]:ADDRESS:_default' \
'--wait=[How long to wait for reports after the last probe, in milliseconds; several balancers may report]:MS:_default' \
'--per-second=[How many probes to send in a second]:N:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::flow -- Protocol, source, its port, destination, its port:_default' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_lbctl__subcmd__tracer__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-tracer-help-command-$line[1]:"
        case $line[1] in
            (send)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
;;
(create)
_arguments "${_arguments_options[@]}" : \
'-i+[How many backends are active at first]:ACTIVE:_default' \
'--initially-active=[How many backends are active at first]:ACTIVE:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
':m -- The size of the Maglev table; lowered to a prime:_default' \
':n -- How many backends there are:_default' \
&& ret=0
;;
(apply)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--dry-run[Print the differences and losses, and change nothing]' \
'--allow-removal[Also if it takes away what is in use]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
':file -- The configuration file; - is standard input:_files' \
&& ret=0
;;
(enable)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only; else of every service that has a backend of the name]:NAME:_default' \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::backends -- Names of backends:_default' \
&& ret=0
;;
(drain)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only; else of every service that has a backend of the name]:NAME:_default' \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--timeout=[How long to wait\: a number with s, m or h, or of seconds]:TIME:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--wait[Wait until no flow is left]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::backends -- Names of backends:_default' \
&& ret=0
;;
(disable)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only; else of every service that has a backend of the name]:NAME:_default' \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::backends -- Names of backends:_default' \
&& ret=0
;;
(kill)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only; else of every service that has a backend of the name]:NAME:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::backends -- Names of backends:_default' \
&& ret=0
;;
(activate)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only; else of every service that has a backend of the name]:NAME:_default' \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::backends -- Names of backends:_default' \
&& ret=0
;;
(deactivate)
_arguments "${_arguments_options[@]}" : \
'--service=[Of this service only; else of every service that has a backend of the name]:NAME:_default' \
'--reason=[Why; \`lbctl show\` says it]:TEXT:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--runtime[Until the region goes, such as at a reboot; else for good]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
'*::backends -- Names of backends:_default' \
&& ret=0
;;
(backend-setup)
_arguments "${_arguments_options[@]}" : \
'--service=[Its service; needed where several have a backend of this name]:NAME:_default' \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
':backend -- The backend'\''s name:_default' \
&& ret=0
;;
(clean)
_arguments "${_arguments_options[@]}" : \
'--shm=[The region in shared memory]:NAME:_default' \
'--state-dir=[The directory that keeps over a reboot what enable, drain and disable said \[default\: /var/lib/synrail, for root\]]:DIRECTORY:_files' \
'--force[Although an lbd follows it, or the file is not ours]' \
'--keep-overrides[Keep what enable, drain and disable said, for the region that is made next]' \
'--json[Print JSON]' \
'-h[Print help]' \
'--help[Print help]' \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
":: :_lbctl__subcmd__help_commands" \
"*::: :->help" \
&& ret=0

    case $state in
    (help)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-help-command-$line[1]:"
        case $line[1] in
            (show)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(services)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(backends)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(tier)
_arguments "${_arguments_options[@]}" : \
":: :_lbctl__subcmd__help__subcmd__tier_commands" \
"*::: :->tier" \
&& ret=0

    case $state in
    (tier)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-help-tier-command-$line[1]:"
        case $line[1] in
            (activate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(deactivate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(balancer)
_arguments "${_arguments_options[@]}" : \
":: :_lbctl__subcmd__help__subcmd__balancer_commands" \
"*::: :->balancer" \
&& ret=0

    case $state in
    (balancer)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-help-balancer-command-$line[1]:"
        case $line[1] in
            (drain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(enable)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(stats)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(metrics)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(flows)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(check)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(which)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(tracer)
_arguments "${_arguments_options[@]}" : \
":: :_lbctl__subcmd__help__subcmd__tracer_commands" \
"*::: :->tracer" \
&& ret=0

    case $state in
    (tracer)
        words=($line[1] "${words[@]}")
        (( CURRENT += 1 ))
        curcontext="${curcontext%:*:*}:lbctl-help-tracer-command-$line[1]:"
        case $line[1] in
            (send)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
(create)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(apply)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(enable)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(drain)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(disable)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(kill)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(activate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(deactivate)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(backend-setup)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(clean)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
(help)
_arguments "${_arguments_options[@]}" : \
&& ret=0
;;
        esac
    ;;
esac
;;
        esac
    ;;
esac
}

(( $+functions[_lbctl_commands] )) ||
_lbctl_commands() {
    local commands; commands=(
'show:Show everything\: settings, services, backends and their shares' \
'services:List the services' \
'backends:List the backends' \
'tier:Show, or change, which balancers share the work of fragments' \
'balancer:Show which VIPs this balancer announces; withdraw them for maintenance' \
'stats:Show what lbd counted' \
'metrics:Print metrics for Prometheus' \
'flows:List flows\: what is pinned where' \
'check:Tell what is not as it should be\: the region, lbd, the kernel, this host' \
'which:Tell where a new flow would go, and why' \
'tracer:Ask the balancers on the way what becomes of a packet' \
'create:Make a region without a configuration file' \
'apply:Make the region what a configuration file says' \
'enable:Give new flows to backends' \
'drain:Give no new flows to backends, and wait until those that they have are over' \
'disable:Give no flows to backends\: those that they have go elsewhere at once' \
'kill:End the flows that backends have now' \
'activate:Give new flows to backends\: the same as enable' \
'deactivate:Give no new flows to backends\: the same as drain' \
'backend-setup:Print the commands that make a Linux host this backend' \
'clean:Remove the region' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__activate_commands] )) ||
_lbctl__subcmd__activate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl activate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__apply_commands] )) ||
_lbctl__subcmd__apply_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl apply commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__backend-setup_commands] )) ||
_lbctl__subcmd__backend-setup_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl backend-setup commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__backends_commands] )) ||
_lbctl__subcmd__backends_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl backends commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__balancer_commands] )) ||
_lbctl__subcmd__balancer_commands() {
    local commands; commands=(
'drain:Withdraw all VIPs' \
'enable:Announce VIPs again' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl balancer commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__balancer__subcmd__drain_commands] )) ||
_lbctl__subcmd__balancer__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl balancer drain commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__balancer__subcmd__enable_commands] )) ||
_lbctl__subcmd__balancer__subcmd__enable_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl balancer enable commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__balancer__subcmd__help_commands] )) ||
_lbctl__subcmd__balancer__subcmd__help_commands() {
    local commands; commands=(
'drain:Withdraw all VIPs' \
'enable:Announce VIPs again' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl balancer help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__balancer__subcmd__help__subcmd__drain_commands] )) ||
_lbctl__subcmd__balancer__subcmd__help__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl balancer help drain commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__balancer__subcmd__help__subcmd__enable_commands] )) ||
_lbctl__subcmd__balancer__subcmd__help__subcmd__enable_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl balancer help enable commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__balancer__subcmd__help__subcmd__help_commands] )) ||
_lbctl__subcmd__balancer__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl balancer help help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__check_commands] )) ||
_lbctl__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl check commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__clean_commands] )) ||
_lbctl__subcmd__clean_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl clean commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__create_commands] )) ||
_lbctl__subcmd__create_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl create commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__deactivate_commands] )) ||
_lbctl__subcmd__deactivate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl deactivate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__disable_commands] )) ||
_lbctl__subcmd__disable_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl disable commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__drain_commands] )) ||
_lbctl__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl drain commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__enable_commands] )) ||
_lbctl__subcmd__enable_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl enable commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__flows_commands] )) ||
_lbctl__subcmd__flows_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl flows commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help_commands] )) ||
_lbctl__subcmd__help_commands() {
    local commands; commands=(
'show:Show everything\: settings, services, backends and their shares' \
'services:List the services' \
'backends:List the backends' \
'tier:Show, or change, which balancers share the work of fragments' \
'balancer:Show which VIPs this balancer announces; withdraw them for maintenance' \
'stats:Show what lbd counted' \
'metrics:Print metrics for Prometheus' \
'flows:List flows\: what is pinned where' \
'check:Tell what is not as it should be\: the region, lbd, the kernel, this host' \
'which:Tell where a new flow would go, and why' \
'tracer:Ask the balancers on the way what becomes of a packet' \
'create:Make a region without a configuration file' \
'apply:Make the region what a configuration file says' \
'enable:Give new flows to backends' \
'drain:Give no new flows to backends, and wait until those that they have are over' \
'disable:Give no flows to backends\: those that they have go elsewhere at once' \
'kill:End the flows that backends have now' \
'activate:Give new flows to backends\: the same as enable' \
'deactivate:Give no new flows to backends\: the same as drain' \
'backend-setup:Print the commands that make a Linux host this backend' \
'clean:Remove the region' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__activate_commands] )) ||
_lbctl__subcmd__help__subcmd__activate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help activate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__apply_commands] )) ||
_lbctl__subcmd__help__subcmd__apply_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help apply commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__backend-setup_commands] )) ||
_lbctl__subcmd__help__subcmd__backend-setup_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help backend-setup commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__backends_commands] )) ||
_lbctl__subcmd__help__subcmd__backends_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help backends commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__balancer_commands] )) ||
_lbctl__subcmd__help__subcmd__balancer_commands() {
    local commands; commands=(
'drain:Withdraw all VIPs' \
'enable:Announce VIPs again' \
    )
    _describe -t commands 'lbctl help balancer commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__balancer__subcmd__drain_commands] )) ||
_lbctl__subcmd__help__subcmd__balancer__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help balancer drain commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__balancer__subcmd__enable_commands] )) ||
_lbctl__subcmd__help__subcmd__balancer__subcmd__enable_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help balancer enable commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__check_commands] )) ||
_lbctl__subcmd__help__subcmd__check_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help check commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__clean_commands] )) ||
_lbctl__subcmd__help__subcmd__clean_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help clean commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__create_commands] )) ||
_lbctl__subcmd__help__subcmd__create_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help create commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__deactivate_commands] )) ||
_lbctl__subcmd__help__subcmd__deactivate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help deactivate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__disable_commands] )) ||
_lbctl__subcmd__help__subcmd__disable_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help disable commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__drain_commands] )) ||
_lbctl__subcmd__help__subcmd__drain_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help drain commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__enable_commands] )) ||
_lbctl__subcmd__help__subcmd__enable_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help enable commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__flows_commands] )) ||
_lbctl__subcmd__help__subcmd__flows_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help flows commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__help_commands] )) ||
_lbctl__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__kill_commands] )) ||
_lbctl__subcmd__help__subcmd__kill_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help kill commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__metrics_commands] )) ||
_lbctl__subcmd__help__subcmd__metrics_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help metrics commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__services_commands] )) ||
_lbctl__subcmd__help__subcmd__services_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help services commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__show_commands] )) ||
_lbctl__subcmd__help__subcmd__show_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help show commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__stats_commands] )) ||
_lbctl__subcmd__help__subcmd__stats_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help stats commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__tier_commands] )) ||
_lbctl__subcmd__help__subcmd__tier_commands() {
    local commands; commands=(
'activate:Let balancers own fragments' \
'deactivate:Let balancers own no fragments' \
    )
    _describe -t commands 'lbctl help tier commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__tier__subcmd__activate_commands] )) ||
_lbctl__subcmd__help__subcmd__tier__subcmd__activate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help tier activate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__tier__subcmd__deactivate_commands] )) ||
_lbctl__subcmd__help__subcmd__tier__subcmd__deactivate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help tier deactivate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__tracer_commands] )) ||
_lbctl__subcmd__help__subcmd__tracer_commands() {
    local commands; commands=(
'send:Send probes, and print what balancers report' \
    )
    _describe -t commands 'lbctl help tracer commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__tracer__subcmd__send_commands] )) ||
_lbctl__subcmd__help__subcmd__tracer__subcmd__send_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help tracer send commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__help__subcmd__which_commands] )) ||
_lbctl__subcmd__help__subcmd__which_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl help which commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__kill_commands] )) ||
_lbctl__subcmd__kill_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl kill commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__metrics_commands] )) ||
_lbctl__subcmd__metrics_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl metrics commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__services_commands] )) ||
_lbctl__subcmd__services_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl services commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__show_commands] )) ||
_lbctl__subcmd__show_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl show commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__stats_commands] )) ||
_lbctl__subcmd__stats_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl stats commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tier_commands] )) ||
_lbctl__subcmd__tier_commands() {
    local commands; commands=(
'activate:Let balancers own fragments' \
'deactivate:Let balancers own no fragments' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl tier commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tier__subcmd__activate_commands] )) ||
_lbctl__subcmd__tier__subcmd__activate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tier activate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tier__subcmd__deactivate_commands] )) ||
_lbctl__subcmd__tier__subcmd__deactivate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tier deactivate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tier__subcmd__help_commands] )) ||
_lbctl__subcmd__tier__subcmd__help_commands() {
    local commands; commands=(
'activate:Let balancers own fragments' \
'deactivate:Let balancers own no fragments' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl tier help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tier__subcmd__help__subcmd__activate_commands] )) ||
_lbctl__subcmd__tier__subcmd__help__subcmd__activate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tier help activate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tier__subcmd__help__subcmd__deactivate_commands] )) ||
_lbctl__subcmd__tier__subcmd__help__subcmd__deactivate_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tier help deactivate commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tier__subcmd__help__subcmd__help_commands] )) ||
_lbctl__subcmd__tier__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tier help help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tracer_commands] )) ||
_lbctl__subcmd__tracer_commands() {
    local commands; commands=(
'send:Send probes, and print what balancers report' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl tracer commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tracer__subcmd__help_commands] )) ||
_lbctl__subcmd__tracer__subcmd__help_commands() {
    local commands; commands=(
'send:Send probes, and print what balancers report' \
'help:Print this message or the help of the given subcommand(s)' \
    )
    _describe -t commands 'lbctl tracer help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tracer__subcmd__help__subcmd__help_commands] )) ||
_lbctl__subcmd__tracer__subcmd__help__subcmd__help_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tracer help help commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tracer__subcmd__help__subcmd__send_commands] )) ||
_lbctl__subcmd__tracer__subcmd__help__subcmd__send_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tracer help send commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__tracer__subcmd__send_commands] )) ||
_lbctl__subcmd__tracer__subcmd__send_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl tracer send commands' commands "$@"
}
(( $+functions[_lbctl__subcmd__which_commands] )) ||
_lbctl__subcmd__which_commands() {
    local commands; commands=()
    _describe -t commands 'lbctl which commands' commands "$@"
}

if [ "$funcstack[1]" = "_lbctl" ]; then
    _lbctl "$@"
else
    compdef _lbctl lbctl
fi
