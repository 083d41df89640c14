# bash completion for meetingctl; @HEAD@

_meetingctl_subcommands() {
  local words=''
  case $1 in
@SUBCOMMANDS@
  esac
  printf '%s' "$words"
}

_meetingctl_options() {
  local words=''
  case $1 in
@OPTIONS@
  esac
  printf '%s' "$words @GLOBALS@"
}

_meetingctl_value_kind() {
  local kind='-'
  case "$1|$2" in
@VALUES@
  esac
  printf '%s' "$kind"
}

_meetingctl_argument_kind() {
  local kind=''
  case "$1|$2" in
@ARGUMENTS@
  esac
  printf '%s' "$kind"
}

_meetingctl_cached() {
  local file="${XDG_CACHE_HOME:-$HOME/.cache}/meetingctl/complete/$1"
  [[ -r $file ]] && cat -- "$file"
}

_meetingctl_reply() {
  local kind=$1 cur=$2 line
  COMPREPLY=()
  case $kind in
    @files) compopt -o filenames 2>/dev/null; while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$cur") ;;
    @devices) while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "$(_meetingctl_cached devices)" -- "$cur") ;;
    @targets) while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "$(_meetingctl_cached devices) $(_meetingctl_cached tags | sed 's/^/tag:/')" -- "$cur")
      [[ $cur == *:* ]] && COMPREPLY=("${COMPREPLY[@]#"${cur%"${cur##*:}"}"}") ;;
    *) while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "$kind" -- "$cur") ;;
  esac
}

_meetingctl() {
  local cur=${COMP_WORDS[COMP_CWORD]} path='' count=0 pending='' word i kind last=$COMP_CWORD
  # bash splits words at a colon: put tag:NAME together again.
  if ((COMP_CWORD >= 2)) && [[ ${COMP_WORDS[COMP_CWORD - 1]} == ':' ]]; then
    cur="${COMP_WORDS[COMP_CWORD - 2]}:$cur"
    last=$((COMP_CWORD - 2))
  elif [[ $cur == ':' ]]; then
    cur="${COMP_WORDS[COMP_CWORD - 1]}:"
    last=$((COMP_CWORD - 1))
  fi
  for ((i = 1; i < last; i++)); do
    word=${COMP_WORDS[i]}
    [[ $word == '=' || $word == ':' ]] && continue
    if [[ -n $pending ]]; then pending=''; continue; fi
    case $word in
      --) return ;;
      -*) [[ $(_meetingctl_value_kind "$path" "$word") != '-' ]] && pending=$word ;;
      *) if [[ " $(_meetingctl_subcommands "$path") " == *" $word "* ]]; then path="${path:+$path }$word"; else ((count++)); fi ;;
    esac
  done
  [[ $cur == '=' ]] && cur=''
  if [[ -n $pending ]]; then _meetingctl_reply "$(_meetingctl_value_kind "$path" "$pending")" "$cur"; return; fi
  if [[ $cur == -* ]]; then _meetingctl_reply "$(_meetingctl_options "$path")" "$cur"; return; fi
  kind=$(_meetingctl_subcommands "$path")
  [[ -z $kind ]] && kind=$(_meetingctl_argument_kind "$path" "$count")
  [[ -n $kind ]] && _meetingctl_reply "$kind" "$cur"
}

complete -F _meetingctl meetingctl
