# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_lbctl_global_optspecs
    string join \n shm= state-dir= json h/help V/version
end

function __fish_lbctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_lbctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_lbctl_using_subcommand
    set -l cmd (__fish_lbctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c lbctl -n "__fish_lbctl_needs_command" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_needs_command" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_needs_command" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lbctl -n "__fish_lbctl_needs_command" -s V -l version -d 'Print version'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "show" -d 'Show everything: settings, services, backends and their shares'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "services" -d 'List the services'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "backends" -d 'List the backends'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "tier" -d 'Show, or change, which balancers share the work of fragments'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "balancer" -d 'Show which VIPs this balancer announces; withdraw them for maintenance'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "stats" -d 'Show what lbd counted'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "metrics" -d 'Print metrics for Prometheus'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "flows" -d 'List flows: what is pinned where'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "check" -d 'Tell what is not as it should be: the region, lbd, the kernel, this host'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "which" -d 'Tell where a new flow would go, and why'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "tracer" -d 'Ask the balancers on the way what becomes of a packet'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "create" -d 'Make a region without a configuration file'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "apply" -d 'Make the region what a configuration file says'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "enable" -d 'Give new flows to backends'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "drain" -d 'Give no new flows to backends, and wait until those that they have are over'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "disable" -d 'Give no flows to backends: those that they have go elsewhere at once'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "kill" -d 'End the flows that backends have now'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "activate" -d 'Give new flows to backends: the same as enable'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "deactivate" -d 'Give no new flows to backends: the same as drain'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "backend-setup" -d 'Print the commands that make a Linux host this backend'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "clean" -d 'Remove the region'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l service -d 'Of this service only' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -f -a "activate" -d 'Let balancers own fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -f -a "deactivate" -d 'Let balancers own no fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from help" -f -a "activate" -d 'Let balancers own fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from help" -f -a "deactivate" -d 'Let balancers own no fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and not __fish_seen_subcommand_from drain enable help" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and not __fish_seen_subcommand_from drain enable help" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and not __fish_seen_subcommand_from drain enable help" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and not __fish_seen_subcommand_from drain enable help" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and not __fish_seen_subcommand_from drain enable help" -f -a "drain" -d 'Withdraw all VIPs'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and not __fish_seen_subcommand_from drain enable help" -f -a "enable" -d 'Announce VIPs again'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and not __fish_seen_subcommand_from drain enable help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from drain" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from drain" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from drain" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from drain" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from drain" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from drain" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from enable" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from enable" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from enable" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from enable" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from enable" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from enable" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from help" -f -a "drain" -d 'Withdraw all VIPs'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from help" -f -a "enable" -d 'Announce VIPs again'
complete -c lbctl -n "__fish_lbctl_using_subcommand balancer; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand metrics" -l scope -d 'Only these metrics; may be given more than once. Else all' -r -f -a "lbd\t''
packets\t''
services\t''
backends\t''
targets\t''"
complete -c lbctl -n "__fish_lbctl_using_subcommand metrics" -s o -l output -d 'Write them to a file, which is replaced as a whole' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand metrics" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand metrics" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand metrics" -l openmetrics -d 'Print OpenMetrics, not the text format of Prometheus; node_exporter does not read it'
complete -c lbctl -n "__fish_lbctl_using_subcommand metrics" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand metrics" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l service -d 'Of this service only' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l limit -d 'List at most N, those with the most packets [default: 1000; with --off-table all]' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l off-table -d 'Those only whose table names another backend'
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l count -d 'Count them by backend, and list none'
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -l repair -d 'Mend what lbd would mend'
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l batch -d 'Answer every line of a file; - is standard input' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l fragment -d 'Tell also which balancer of the tier handles its fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -f -a "send" -d 'Send probes, and print what balancers report'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l batch -d 'Send a probe for every line of a file; - is standard input' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l receiver -d 'The address of this host to hear reports at; else the one that it sends from to DST' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l wait -d 'How long to wait for reports after the last probe, in milliseconds; several balancers may report' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l per-second -d 'How many probes to send in a second' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from help" -f -a "send" -d 'Send probes, and print what balancers report'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -s i -l initially-active -d 'How many backends are active at first' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l dry-run -d 'Print the differences and losses, and change nothing'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l allow-removal -d 'Also if it takes away what is in use'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand enable" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand enable" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand enable" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand enable" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand enable" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand enable" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand enable" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l timeout -d 'How long to wait: a number with s, m or h, or of seconds' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l wait -d 'Wait until no flow is left'
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand drain" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand disable" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand disable" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand disable" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand disable" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand disable" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand disable" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand disable" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand kill" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand kill" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand kill" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand kill" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand kill" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l service -d 'Its service; needed where several have a backend of this name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l state-dir -d 'The directory that keeps over a reboot what enable, drain and disable said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l force -d 'Although an lbd follows it, or the file is not ours'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l keep-overrides -d 'Keep what enable, drain and disable said, for the region that is made next'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "show" -d 'Show everything: settings, services, backends and their shares'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "services" -d 'List the services'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "backends" -d 'List the backends'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "tier" -d 'Show, or change, which balancers share the work of fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "balancer" -d 'Show which VIPs this balancer announces; withdraw them for maintenance'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "stats" -d 'Show what lbd counted'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "metrics" -d 'Print metrics for Prometheus'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "flows" -d 'List flows: what is pinned where'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "check" -d 'Tell what is not as it should be: the region, lbd, the kernel, this host'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "which" -d 'Tell where a new flow would go, and why'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "tracer" -d 'Ask the balancers on the way what becomes of a packet'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "create" -d 'Make a region without a configuration file'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "apply" -d 'Make the region what a configuration file says'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "enable" -d 'Give new flows to backends'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "drain" -d 'Give no new flows to backends, and wait until those that they have are over'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "disable" -d 'Give no flows to backends: those that they have go elsewhere at once'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "kill" -d 'End the flows that backends have now'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "activate" -d 'Give new flows to backends: the same as enable'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "deactivate" -d 'Give no new flows to backends: the same as drain'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "backend-setup" -d 'Print the commands that make a Linux host this backend'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "clean" -d 'Remove the region'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier balancer stats metrics flows check which tracer create apply enable drain disable kill activate deactivate backend-setup clean help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from tier" -f -a "activate" -d 'Let balancers own fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from tier" -f -a "deactivate" -d 'Let balancers own no fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from balancer" -f -a "drain" -d 'Withdraw all VIPs'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from balancer" -f -a "enable" -d 'Announce VIPs again'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from tracer" -f -a "send" -d 'Send probes, and print what balancers report'
