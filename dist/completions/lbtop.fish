complete -c lbtop -l shm -d 'The region in shared memory' -r
complete -c lbtop -l interval -d 'How often it is read, in seconds: 0.2 to 60' -r
complete -c lbtop -l filter -d 'Only services with this text in their name, or in that of a backend' -r
complete -c lbtop -l width -d 'With --once: how many columns the screen has' -r
complete -c lbtop -l height -d 'With --once: how many lines it has' -r
complete -c lbtop -l once -d 'Print one screen after one interval, as text, and end. Needs no terminal'
complete -c lbtop -s h -l help -d 'Print help (see more with \'--help\')'
complete -c lbtop -s V -l version -d 'Print version'
