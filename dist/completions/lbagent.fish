complete -c lbagent -l shm -d 'The region in shared memory to follow' -r
complete -c lbagent -l socket -d 'The socket of lbd [default: /run/synrail/REGION.sock]' -r -F
complete -c lbagent -l user -d 'The user to become if started as root [default: synrail, or user 65534 if there is none]' -r
complete -c lbagent -l log -d 'How much to log: error, warn, info, debug or trace' -r
complete -c lbagent -l once -d 'Run each check once, ask each agent on a backend once, and print what they found. Needs no lbd if the checks need no tunnel'
complete -c lbagent -l json -d 'With --once: print JSON'
complete -c lbagent -l reader -d 'Make snapshots for the process that serves HTTP, by standard input'
complete -c lbagent -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lbagent -s V -l version -d 'Print version'
