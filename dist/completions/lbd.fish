complete -c lbd -l config -d 'The configuration file. The region is made from it if there is none' -r -F
complete -c lbd -l shm -d 'The region in shared memory to follow' -r
complete -c lbd -l state-dir -d 'The directory that keeps over a reboot what `lbctl enable`, `drain` and `disable` said' -r -F
complete -c lbd -l agent -d 'The program that lbd starts if a service has health checks; "none" if something else starts it. Without this it is the lbagent in lbd\'s own directory, if there is one' -r -F
complete -c lbd -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c lbd -l check -d 'Only check the configuration file'
complete -c lbd -l host -d 'With --check: look at this host as well, and say what there keeps packets from backends'
complete -c lbd -l once -d 'Put what the region says in force in the kernel, and end: the kernel decides by its own tables while no lbd runs'
complete -c lbd -l withdraw -d 'Withdraw the VIPs that nothing here serves while no lbd runs: those of which the kernel has no table. For when lbd has ended by force'
complete -c lbd -l cleanup -d 'Remove everything that lbd has set up: ruleset, rules, routes, devices, the region, and what lbctl said'
complete -c lbd -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lbd -s V -l version -d 'Print version'
