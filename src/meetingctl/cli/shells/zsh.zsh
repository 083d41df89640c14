#compdef meetingctl
# zsh completion for meetingctl; @HEAD@

_meetingctl_subcommands() {
  local -a words
  case $1 in
@SUBCOMMANDS@
  esac
  (( $#words )) && print -rl -- $words
}

_meetingctl_options() {
  local -a words
  case $1 in
@OPTIONS@
  esac
  (( $#words )) && print -rl -- $words
  print -rl -- @GLOBALS@
}

_meetingctl_value_kind() {
  local kind='-'
  case "$1|$2" in
@VALUES@
  esac
  print -r -- "$kind"
}

_meetingctl_argument_kind() {
  local kind=''
  case "$1|$2" in
@ARGUMENTS@
  esac
  print -r -- "$kind"
}

_meetingctl_cached() {
  local file="${XDG_CACHE_HOME:-$HOME/.cache}/meetingctl/complete/$1"
  [[ -r $file ]] && cat -- "$file"
}

_meetingctl_reply() {
  local -a found
  case $1 in
    (@files) _files; return ;;
    (@devices) found=(${(f)"$(_meetingctl_cached devices)"}) ;;
    (@targets) found=(${(f)"$(_meetingctl_cached devices)"} tag:${^${(f)"$(_meetingctl_cached tags)"}}) ;;
    (*) found=(${=1}) ;;
  esac
  (( $#found )) && compadd -- $found
}

_meetingctl() {
  local current_path='' pending='' word kind
  local -i i count=0
  local -a found names
  for (( i = 2; i < CURRENT; i++ )); do
    word=$words[i]
    if [[ -n $pending ]]; then pending=''; continue; fi
    case $word in
      (--) return ;;
      (-*=*) ;;
      (-*) [[ $(_meetingctl_value_kind "$current_path" "$word") != '-' ]] && pending=$word ;;
      (*) names=(${${(f)"$(_meetingctl_subcommands "$current_path")"}%%:*})
        if (( $names[(Ie)$word] )); then current_path="${current_path:+$current_path }$word"; else (( count++ )); fi ;;
    esac
  done
  if [[ -n $pending ]]; then _meetingctl_reply "$(_meetingctl_value_kind "$current_path" "$pending")"; return; fi
  if [[ $words[CURRENT] == -* ]]; then
    found=(${(f)"$(_meetingctl_options "$current_path")"})
    _describe option found
    return
  fi
  found=(${(f)"$(_meetingctl_subcommands "$current_path")"})
  if (( $#found )); then _describe command found; return; fi
  kind=$(_meetingctl_argument_kind "$current_path" "$count")
  [[ -n $kind ]] && _meetingctl_reply "$kind"
}

if [[ $funcstack[1] == _meetingctl ]]; then _meetingctl "$@"; else compdef _meetingctl meetingctl; fi
