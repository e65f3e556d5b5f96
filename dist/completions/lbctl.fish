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
complete -c lbctl -n "__fish_lbctl_needs_command" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_needs_command" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lbctl -n "__fish_lbctl_needs_command" -s V -l version -d 'Print version'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "show" -d 'Show everything: settings, services, backends and their shares'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "services" -d 'List the services'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "backends" -d 'List the backends'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "tier" -d 'Show, or change, which balancers share the work of fragments'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "stats" -d 'Show what lbd counted'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "flows" -d 'List flows that stay where they are, though the table names another backend'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "check" -d 'Tell what is not as it should be: the region, lbd, this host'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "which" -d 'Tell where a new flow would go, and why'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "tracer" -d 'Ask the balancers on the way what becomes of a packet'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "create" -d 'Make a region without a configuration file'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "apply" -d 'Make the region what a configuration file says'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "activate" -d 'Give new flows to backends'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "deactivate" -d 'Give no new flows to backends'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "backend-setup" -d 'Print the commands that make a Linux host this backend'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "clean" -d 'Remove the region'
complete -c lbctl -n "__fish_lbctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand show" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand services" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l service -d 'Of this service only' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand backends" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -f -a "activate" -d 'Let balancers own fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -f -a "deactivate" -d 'Let balancers own no fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and not __fish_seen_subcommand_from activate deactivate help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from activate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from deactivate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from help" -f -a "activate" -d 'Let balancers own fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from help" -f -a "deactivate" -d 'Let balancers own no fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand tier; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand stats" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l off-table -d 'Those that are off-table; there is no list of the others'
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand flows" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand check" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l batch -d 'Answer every line of a file; - is standard input' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l fragment -d 'Tell also which balancer of the tier handles its fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand which" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -f -a "send" -d 'Send probes, and print what balancers report'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and not __fish_seen_subcommand_from send help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l batch -d 'Send a probe for every line of a file; - is standard input' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l receiver -d 'The address of this host to hear reports at; else the one that it sends from to DST' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l wait -d 'How long to wait for reports after the last probe, in milliseconds; several balancers may report' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l per-second -d 'How many probes to send in a second' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from send" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from help" -f -a "send" -d 'Send probes, and print what balancers report'
complete -c lbctl -n "__fish_lbctl_using_subcommand tracer; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -s i -l initially-active -d 'How many backends are active at first' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand create" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l dry-run -d 'Print the differences and losses, and change nothing'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l allow-removal -d 'Also if it takes away what is in use'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand apply" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand activate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l service -d 'Of this service only; else of every service that has a backend of the name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l reason -d 'Why; `lbctl show` says it' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l runtime -d 'Until the region goes, such as at a reboot; else for good'
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand deactivate" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l service -d 'Its service; needed where several have a backend of this name' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand backend-setup" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l shm -d 'The region in shared memory' -r
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l state-dir -d 'The directory that keeps over a reboot what activate and deactivate said [default: /var/lib/synrail, for root]' -r -F
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l force -d 'Although an lbd follows it, or the file is not ours'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l keep-overrides -d 'Keep what activate and deactivate said, for the region that is made next'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -l json -d 'Print JSON'
complete -c lbctl -n "__fish_lbctl_using_subcommand clean" -s h -l help -d 'Print help'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "show" -d 'Show everything: settings, services, backends and their shares'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "services" -d 'List the services'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "backends" -d 'List the backends'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "tier" -d 'Show, or change, which balancers share the work of fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "stats" -d 'Show what lbd counted'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "flows" -d 'List flows that stay where they are, though the table names another backend'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "check" -d 'Tell what is not as it should be: the region, lbd, this host'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "which" -d 'Tell where a new flow would go, and why'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "tracer" -d 'Ask the balancers on the way what becomes of a packet'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "create" -d 'Make a region without a configuration file'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "apply" -d 'Make the region what a configuration file says'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "activate" -d 'Give new flows to backends'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "deactivate" -d 'Give no new flows to backends'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "backend-setup" -d 'Print the commands that make a Linux host this backend'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "clean" -d 'Remove the region'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and not __fish_seen_subcommand_from show services backends tier stats flows check which tracer create apply activate deactivate backend-setup clean help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from tier" -f -a "activate" -d 'Let balancers own fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from tier" -f -a "deactivate" -d 'Let balancers own no fragments'
complete -c lbctl -n "__fish_lbctl_using_subcommand help; and __fish_seen_subcommand_from tracer" -f -a "send" -d 'Send probes, and print what balancers report'
