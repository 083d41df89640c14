# fish completion for meetingctl; @HEAD@

function __meetingctl_path --description 'the subcommands that stand on the command line'
    set -l path
    set -l pending 0
    for word in (commandline -opc)[2..-1]
        if test $pending = 1
            set pending 0
            continue
        end
        switch $word
            case '--'
                break
            case @VALUED@
                set pending 1
            case '-*'
            case '*'
                contains -- (string join ' ' $path $word) $__meetingctl_paths; and set -a path $word
        end
    end
    string join ' ' $path
end

function __meetingctl_at
    set -l path (__meetingctl_path)
    test "$path" = "$argv[1]"
end

function __meetingctl_cached
    set -l base $XDG_CACHE_HOME
    test -n "$base"; or set base $HOME/.cache
    test -r $base/meetingctl/complete/$argv[1]; and cat $base/meetingctl/complete/$argv[1]
end

function __meetingctl_targets
    __meetingctl_cached devices
    __meetingctl_cached tags | string replace -r '^' 'tag:'
end

set -g __meetingctl_paths @PATHS@

complete -c meetingctl -f
@LINES@
