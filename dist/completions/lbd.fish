complete -c lbd -l config -d 'The configuration file. The region is made from it if there is none' -r -F
complete -c lbd -l shm -d 'The region in shared memory to follow' -r
complete -c lbd -l state-dir -d 'The directory that keeps over a reboot what `lbctl activate` and `lbctl deactivate` said' -r -F
complete -c lbd -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c lbd -l check -d 'Only check the configuration file'
complete -c lbd -l host -d 'With --check: look at this host as well, and say what there keeps packets from backends'
complete -c lbd -l once -d 'Put what the region says in force in the kernel, and end: the kernel decides by its own tables while no lbd runs'
complete -c lbd -l cleanup -d 'Remove everything that lbd has set up: ruleset, rules, routes, devices, the region, and what lbctl said'
complete -c lbd -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lbd -s V -l version -d 'Print version'
