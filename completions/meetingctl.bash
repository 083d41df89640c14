# bash completion for meetingctl; made from the command tree by `meetingctl completion show bash`; do not edit

_meetingctl_subcommands() {
  local words=''
  case $1 in
    '') words='demo login logout whoami version doctor help config completion serve tunnel remote fleet builder token audit device db' ;;
    'config') words='get set unset list path check profile' ;;
    'config profile') words='list use add remove' ;;
    'completion') words='show install uninstall' ;;
    'serve') words='api tunnel all unit' ;;
    'tunnel') words='open list show close stats agent' ;;
    'remote') words='run ssh trust untrust' ;;
    'fleet') words='list show create register authorize revoke note tokens services remove heartbeat rename tag parent publish updates history events keys types distributions files releases channels rollout webhooks' ;;
    'fleet keys') words='list show add rm log export-ppk server rotate' ;;
    'fleet types') words='list show create update fork merge rm icon' ;;
    'fleet distributions') words='list create show get put' ;;
    'fleet files') words='list upload rm' ;;
    'fleet releases') words='list show verify download notes' ;;
    'fleet channels') words='list set rm' ;;
    'fleet rollout') words='start status list pause resume abort' ;;
    'fleet webhooks') words='list show add update rm deliveries redeliver ping' ;;
    'builder') words='start upload manifest package status cancel download commit history rollback duplicate' ;;
    'token') words='list create revoke' ;;
    'audit') words='list export verify' ;;
    'device') words='status config stream record watchdog' ;;
    'device config') words='get set list check' ;;
    'device stream') words='run status reload' ;;
    'device record') words='run status reload list prune delete lock unlock export thumbnail' ;;
    'device watchdog') words='run status recover' ;;
    'db') words='migrate status backup check query' ;;
  esac
  printf '%s' "$words"
}

_meetingctl_options() {
  local words=''
  case $1 in
    '') words='--version -h --help' ;;
    'demo') words='--data --api-listen --tunnel-listen --tunnel-ports -h --help' ;;
    'login') words='--key-file --dry-run -h --help' ;;
    'logout') words='--dry-run -h --help' ;;
    'whoami') words='-h --help' ;;
    'version') words='-h --help' ;;
    'doctor') words='--bundle -h --help' ;;
    'help') words='-h --help' ;;
    'config') words='-h --help' ;;
    'config get') words='-h --help' ;;
    'config set') words='--dry-run -h --help' ;;
    'config unset') words='--dry-run -h --help' ;;
    'config list') words='--origin --group --fields --filter -h --help' ;;
    'config path') words='-h --help' ;;
    'config check') words='-h --help' ;;
    'config profile') words='-h --help' ;;
    'config profile list') words='--fields -h --help' ;;
    'config profile use') words='--dry-run -h --help' ;;
    'config profile add') words='--dry-run -h --help' ;;
    'config profile remove') words='--dry-run -h --help' ;;
    'completion') words='-h --help' ;;
    'completion show') words='-h --help' ;;
    'completion install') words='--dry-run -h --help' ;;
    'completion uninstall') words='--dry-run -h --help' ;;
    'serve') words='-h --help' ;;
    'serve api') words='--listen --db --data --workers --tunnel-ports --public-host --mode --legacy-open --allow-from -h --help' ;;
    'serve tunnel') words='--listen --bind --api -h --help' ;;
    'serve all') words='--api-listen --tunnel-listen --tunnel-ports --tunnel-bind --public-host --db --data --only --mode --legacy-open --allow-from -h --help' ;;
    'serve unit') words='--install --dry-run -h --help' ;;
    'tunnel') words='-h --help' ;;
    'tunnel open') words='--for --allow-from --dry-run -h --help' ;;
    'tunnel list') words='--watch --fields --filter -h --help' ;;
    'tunnel show') words='--fields -h --help' ;;
    'tunnel close') words='--all --dry-run -h --help' ;;
    'tunnel stats') words='--fields -h --help' ;;
    'tunnel agent') words='--server --device-key --token --token-file --api -h --help' ;;
    'remote') words='-h --help' ;;
    'remote run') words='--all --sudo --script --user -i --identity --ask-password --password-file --via --parallel --limit --fail-fast --max-fail --retries --retry-from --deadline --idle --dry-run -h --help' ;;
    'remote ssh') words='--user -i --identity --via --print -h --help' ;;
    'remote trust') words='--fingerprint --via --dry-run -h --help' ;;
    'remote untrust') words='--dry-run -h --help' ;;
    'fleet') words='-h --help' ;;
    'fleet list') words='--prefix --limit --watch --fields --filter -h --help' ;;
    'fleet show') words='--secrets --fields -h --help' ;;
    'fleet create') words='--generate --type --distribution --serial --dry-run -h --help' ;;
    'fleet register') words='--token-file --dry-run -h --help' ;;
    'fleet authorize') words='--dry-run -h --help' ;;
    'fleet revoke') words='--dry-run -h --help' ;;
    'fleet note') words='--dry-run -h --help' ;;
    'fleet tokens') words='--set --new-code --dry-run -h --help' ;;
    'fleet services') words='--set --local-port --dry-run -h --help' ;;
    'fleet remove') words='--dry-run -h --help' ;;
    'fleet heartbeat') words='--token-file --ip-lan --ip-public --mac --note --dry-run -h --help' ;;
    'fleet rename') words='--dry-run -h --help' ;;
    'fleet tag') words='--add --remove --dry-run -h --help' ;;
    'fleet parent') words='--none --dry-run -h --help' ;;
    'fleet publish') words='--type --distribution --release-version --notes --manifest --signature --dry-run -h --help' ;;
    'fleet updates') words='--state --type --distribution --search --export --out --limit --watch --fields --filter -h --help' ;;
    'fleet history') words='--status --to --from-day --until-day --limit --fields --filter -h --help' ;;
    'fleet events') words='--device -n --limit -f --follow --fields --filter -h --help' ;;
    'fleet keys') words='-h --help' ;;
    'fleet keys list') words='--fields --filter -h --help' ;;
    'fleet keys show') words='--fields -h --help' ;;
    'fleet keys add') words='--ssh-user --dry-run -h --help' ;;
    'fleet keys rm') words='--dry-run -h --help' ;;
    'fleet keys log') words='--fields --filter -h --help' ;;
    'fleet keys export-ppk') words='--out --dry-run -h --help' ;;
    'fleet keys server') words='--fields -h --help' ;;
    'fleet keys rotate') words='--confirm --dry-run -h --help' ;;
    'fleet types') words='-h --help' ;;
    'fleet types list') words='--fields --filter -h --help' ;;
    'fleet types show') words='--fields -h --help' ;;
    'fleet types create') words='--prefix --platform --description --services --tags --distribution --parent --dry-run -h --help' ;;
    'fleet types update') words='--name --prefix --platform --description --services --tags --distribution --parent --status --dry-run -h --help' ;;
    'fleet types fork') words='--prefix --dry-run -h --help' ;;
    'fleet types merge') words='--dry-run -h --help' ;;
    'fleet types rm') words='--dry-run -h --help' ;;
    'fleet types icon') words='--out --dry-run -h --help' ;;
    'fleet distributions') words='-h --help' ;;
    'fleet distributions list') words='--fields --filter -h --help' ;;
    'fleet distributions create') words='--dry-run -h --help' ;;
    'fleet distributions show') words='--fields -h --help' ;;
    'fleet distributions get') words='--out --dry-run -h --help' ;;
    'fleet distributions put') words='--dry-run -h --help' ;;
    'fleet files') words='-h --help' ;;
    'fleet files list') words='--fields --filter -h --help' ;;
    'fleet files upload') words='--dry-run -h --help' ;;
    'fleet files rm') words='--dry-run -h --help' ;;
    'fleet releases') words='-h --help' ;;
    'fleet releases list') words='--type --distribution --fields --filter -h --help' ;;
    'fleet releases show') words='--fields -h --help' ;;
    'fleet releases verify') words='--all -h --help' ;;
    'fleet releases download') words='--out --dry-run -h --help' ;;
    'fleet releases notes') words='-h --help' ;;
    'fleet channels') words='-h --help' ;;
    'fleet channels list') words='--fields --filter -h --help' ;;
    'fleet channels set') words='--off --dry-run -h --help' ;;
    'fleet channels rm') words='--dry-run -h --help' ;;
    'fleet rollout') words='-h --help' ;;
    'fleet rollout start') words='--channel --waves --soak --delay --max-failed --min-success --tag --device --percent --dry-run -h --help' ;;
    'fleet rollout status') words='--watch --fields -h --help' ;;
    'fleet rollout list') words='--state --watch --fields --filter -h --help' ;;
    'fleet rollout pause') words='--reason --dry-run -h --help' ;;
    'fleet rollout resume') words='--dry-run -h --help' ;;
    'fleet rollout abort') words='--dry-run -h --help' ;;
    'fleet webhooks') words='-h --help' ;;
    'fleet webhooks list') words='--fields --filter -h --help' ;;
    'fleet webhooks show') words='--fields -h --help' ;;
    'fleet webhooks add') words='--event --secret-file --off --dry-run -h --help' ;;
    'fleet webhooks update') words='--url --event --on --off --new-secret --secret-file --dry-run -h --help' ;;
    'fleet webhooks rm') words='--dry-run -h --help' ;;
    'fleet webhooks deliveries') words='--state --limit --watch --fields --filter -h --help' ;;
    'fleet webhooks redeliver') words='--dry-run -h --help' ;;
    'fleet webhooks ping') words='--wait --dry-run -h --help' ;;
    'builder') words='-h --help' ;;
    'builder start') words='--version --manifest --notes --dry-run -h --help' ;;
    'builder upload') words='--type --dry-run -h --help' ;;
    'builder manifest') words='--dry-run -h --help' ;;
    'builder package') words='--format --wait --dry-run -h --help' ;;
    'builder status') words='--wait --fields -h --help' ;;
    'builder cancel') words='--dry-run -h --help' ;;
    'builder download') words='--out --dry-run -h --help' ;;
    'builder commit') words='--notes --dry-run -h --help' ;;
    'builder history') words='--fields --filter -h --help' ;;
    'builder rollback') words='--dry-run -h --help' ;;
    'builder duplicate') words='--notes --dry-run -h --help' ;;
    'token') words='-h --help' ;;
    'token list') words='--fields --filter -h --help' ;;
    'token create') words='--role --expires --dry-run -h --help' ;;
    'token revoke') words='--dry-run -h --help' ;;
    'audit') words='-h --help' ;;
    'audit list') words='--limit --object --before --fields --filter -h --help' ;;
    'audit export') words='--out --object --after -h --help' ;;
    'audit verify') words='-h --help' ;;
    'device') words='-h --help' ;;
    'device status') words='--root -h --help' ;;
    'device config') words='-h --help' ;;
    'device config get') words='--reveal --root -h --help' ;;
    'device config set') words='--root --dry-run -h --help' ;;
    'device config list') words='--root --changed --fields --filter -h --help' ;;
    'device config check') words='--root -h --help' ;;
    'device stream') words='--print-pipeline --root -h --help' ;;
    'device stream run') words='--host --http-port --root -h --help' ;;
    'device stream status') words='--root --fields -h --help' ;;
    'device stream reload') words='--root -h --help' ;;
    'device record') words='-h --help' ;;
    'device record run') words='--root -h --help' ;;
    'device record status') words='--root --fields -h --help' ;;
    'device record reload') words='--root -h --help' ;;
    'device record list') words='--root --only --sort --search --fields --filter -h --help' ;;
    'device record prune') words='--root --min-free-mb --max-mb --dry-run -h --help' ;;
    'device record delete') words='--root --force -h --help' ;;
    'device record lock') words='--root -h --help' ;;
    'device record unlock') words='--root -h --help' ;;
    'device record export') words='--out --mp4 --force --root -h --help' ;;
    'device record thumbnail') words='--root --force -h --help' ;;
    'device watchdog') words='-h --help' ;;
    'device watchdog run') words='--once --dry-run --root -h --help' ;;
    'device watchdog status') words='--fields --root -h --help' ;;
    'device watchdog recover') words='--dry-run --root -h --help' ;;
    'db') words='-h --help' ;;
    'db migrate') words='--data --db --dry-run -h --help' ;;
    'db status') words='--data --db -h --help' ;;
    'db backup') words='--data --db --dry-run -h --help' ;;
    'db check') words='--data --db -h --help' ;;
    'db query') words='--data --db --fields --filter -h --help' ;;
  esac
  printf '%s' "$words --color --config --json --no-input -o --output --profile -q --quiet --server-url --timeout -v --verbose -y --yes"
}

_meetingctl_value_kind() {
  local kind='-'
  case "$1|$2" in
    'demo|--data') kind='@files' ;;
    'demo|--api-listen') kind='' ;;
    'demo|--tunnel-listen') kind='' ;;
    'demo|--tunnel-ports') kind='' ;;
    'login|--key-file') kind='@files' ;;
    'doctor|--bundle') kind='@files' ;;
    'config list|--group') kind='' ;;
    'config list|--fields') kind='' ;;
    'config list|--filter') kind='' ;;
    'config profile list|--fields') kind='' ;;
    'serve api|--listen') kind='' ;;
    'serve api|--db') kind='' ;;
    'serve api|--data') kind='@files' ;;
    'serve api|--workers') kind='' ;;
    'serve api|--tunnel-ports') kind='' ;;
    'serve api|--public-host') kind='' ;;
    'serve api|--mode') kind='' ;;
    'serve api|--allow-from') kind='' ;;
    'serve tunnel|--listen') kind='' ;;
    'serve tunnel|--bind') kind='' ;;
    'serve tunnel|--api') kind='' ;;
    'serve all|--api-listen') kind='' ;;
    'serve all|--tunnel-listen') kind='' ;;
    'serve all|--tunnel-ports') kind='' ;;
    'serve all|--tunnel-bind') kind='' ;;
    'serve all|--public-host') kind='' ;;
    'serve all|--db') kind='' ;;
    'serve all|--data') kind='@files' ;;
    'serve all|--only') kind='' ;;
    'serve all|--mode') kind='' ;;
    'serve all|--allow-from') kind='' ;;
    'tunnel open|--for') kind='' ;;
    'tunnel open|--allow-from') kind='' ;;
    'tunnel list|--fields') kind='' ;;
    'tunnel list|--filter') kind='' ;;
    'tunnel show|--fields') kind='' ;;
    'tunnel stats|--fields') kind='' ;;
    'tunnel agent|--server') kind='' ;;
    'tunnel agent|--device-key') kind='' ;;
    'tunnel agent|--token') kind='' ;;
    'tunnel agent|--token-file') kind='@files' ;;
    'tunnel agent|--api') kind='' ;;
    'remote run|--script') kind='@files' ;;
    'remote run|--user') kind='' ;;
    'remote run|-i') kind='@files' ;;
    'remote run|--identity') kind='@files' ;;
    'remote run|--password-file') kind='@files' ;;
    'remote run|--via') kind='auto direct tunnel' ;;
    'remote run|--parallel') kind='' ;;
    'remote run|--limit') kind='' ;;
    'remote run|--max-fail') kind='' ;;
    'remote run|--retries') kind='' ;;
    'remote run|--retry-from') kind='@files' ;;
    'remote run|--deadline') kind='' ;;
    'remote run|--idle') kind='' ;;
    'remote ssh|--user') kind='' ;;
    'remote ssh|-i') kind='@files' ;;
    'remote ssh|--identity') kind='@files' ;;
    'remote ssh|--via') kind='auto direct tunnel' ;;
    'remote trust|--fingerprint') kind='' ;;
    'remote trust|--via') kind='auto direct tunnel' ;;
    'fleet list|--prefix') kind='' ;;
    'fleet list|--limit') kind='' ;;
    'fleet list|--fields') kind='' ;;
    'fleet list|--filter') kind='' ;;
    'fleet show|--fields') kind='' ;;
    'fleet create|--type') kind='' ;;
    'fleet create|--distribution') kind='' ;;
    'fleet create|--serial') kind='' ;;
    'fleet register|--token-file') kind='@files' ;;
    'fleet tokens|--set') kind='' ;;
    'fleet services|--set') kind='' ;;
    'fleet services|--local-port') kind='' ;;
    'fleet heartbeat|--token-file') kind='@files' ;;
    'fleet heartbeat|--ip-lan') kind='' ;;
    'fleet heartbeat|--ip-public') kind='' ;;
    'fleet heartbeat|--mac') kind='' ;;
    'fleet heartbeat|--note') kind='' ;;
    'fleet tag|--add') kind='' ;;
    'fleet tag|--remove') kind='' ;;
    'fleet publish|--type') kind='' ;;
    'fleet publish|--distribution') kind='' ;;
    'fleet publish|--release-version') kind='' ;;
    'fleet publish|--notes') kind='' ;;
    'fleet publish|--manifest') kind='@files' ;;
    'fleet publish|--signature') kind='@files' ;;
    'fleet updates|--state') kind='' ;;
    'fleet updates|--type') kind='' ;;
    'fleet updates|--distribution') kind='' ;;
    'fleet updates|--search') kind='' ;;
    'fleet updates|--export') kind='table json ndjson plain' ;;
    'fleet updates|--out') kind='@files' ;;
    'fleet updates|--limit') kind='' ;;
    'fleet updates|--fields') kind='' ;;
    'fleet updates|--filter') kind='' ;;
    'fleet history|--status') kind='' ;;
    'fleet history|--to') kind='' ;;
    'fleet history|--from-day') kind='' ;;
    'fleet history|--until-day') kind='' ;;
    'fleet history|--limit') kind='' ;;
    'fleet history|--fields') kind='' ;;
    'fleet history|--filter') kind='' ;;
    'fleet events|--device') kind='' ;;
    'fleet events|-n') kind='' ;;
    'fleet events|--limit') kind='' ;;
    'fleet events|--fields') kind='' ;;
    'fleet events|--filter') kind='' ;;
    'fleet keys list|--fields') kind='' ;;
    'fleet keys list|--filter') kind='' ;;
    'fleet keys show|--fields') kind='' ;;
    'fleet keys add|--ssh-user') kind='' ;;
    'fleet keys log|--fields') kind='' ;;
    'fleet keys log|--filter') kind='' ;;
    'fleet keys export-ppk|--out') kind='@files' ;;
    'fleet keys server|--fields') kind='' ;;
    'fleet types list|--fields') kind='' ;;
    'fleet types list|--filter') kind='' ;;
    'fleet types show|--fields') kind='' ;;
    'fleet types create|--prefix') kind='' ;;
    'fleet types create|--platform') kind='' ;;
    'fleet types create|--description') kind='' ;;
    'fleet types create|--services') kind='' ;;
    'fleet types create|--tags') kind='' ;;
    'fleet types create|--distribution') kind='' ;;
    'fleet types create|--parent') kind='' ;;
    'fleet types update|--name') kind='' ;;
    'fleet types update|--prefix') kind='' ;;
    'fleet types update|--platform') kind='' ;;
    'fleet types update|--description') kind='' ;;
    'fleet types update|--services') kind='' ;;
    'fleet types update|--tags') kind='' ;;
    'fleet types update|--distribution') kind='' ;;
    'fleet types update|--parent') kind='' ;;
    'fleet types update|--status') kind='' ;;
    'fleet types fork|--prefix') kind='' ;;
    'fleet types icon|--out') kind='@files' ;;
    'fleet distributions list|--fields') kind='' ;;
    'fleet distributions list|--filter') kind='' ;;
    'fleet distributions show|--fields') kind='' ;;
    'fleet distributions get|--out') kind='@files' ;;
    'fleet files list|--fields') kind='' ;;
    'fleet files list|--filter') kind='' ;;
    'fleet releases list|--type') kind='' ;;
    'fleet releases list|--distribution') kind='' ;;
    'fleet releases list|--fields') kind='' ;;
    'fleet releases list|--filter') kind='' ;;
    'fleet releases show|--fields') kind='' ;;
    'fleet releases download|--out') kind='@files' ;;
    'fleet channels list|--fields') kind='' ;;
    'fleet channels list|--filter') kind='' ;;
    'fleet rollout start|--channel') kind='' ;;
    'fleet rollout start|--waves') kind='' ;;
    'fleet rollout start|--soak') kind='' ;;
    'fleet rollout start|--delay') kind='' ;;
    'fleet rollout start|--max-failed') kind='' ;;
    'fleet rollout start|--min-success') kind='' ;;
    'fleet rollout start|--tag') kind='' ;;
    'fleet rollout start|--device') kind='' ;;
    'fleet rollout start|--percent') kind='' ;;
    'fleet rollout status|--fields') kind='' ;;
    'fleet rollout list|--state') kind='' ;;
    'fleet rollout list|--fields') kind='' ;;
    'fleet rollout list|--filter') kind='' ;;
    'fleet rollout pause|--reason') kind='' ;;
    'fleet webhooks list|--fields') kind='' ;;
    'fleet webhooks list|--filter') kind='' ;;
    'fleet webhooks show|--fields') kind='' ;;
    'fleet webhooks add|--event') kind='' ;;
    'fleet webhooks add|--secret-file') kind='@files' ;;
    'fleet webhooks update|--url') kind='' ;;
    'fleet webhooks update|--event') kind='' ;;
    'fleet webhooks update|--secret-file') kind='@files' ;;
    'fleet webhooks deliveries|--state') kind='' ;;
    'fleet webhooks deliveries|--limit') kind='' ;;
    'fleet webhooks deliveries|--fields') kind='' ;;
    'fleet webhooks deliveries|--filter') kind='' ;;
    'builder start|--version') kind='' ;;
    'builder start|--manifest') kind='@files' ;;
    'builder start|--notes') kind='' ;;
    'builder upload|--type') kind='' ;;
    'builder package|--format') kind='tar.gz zip' ;;
    'builder status|--fields') kind='' ;;
    'builder download|--out') kind='@files' ;;
    'builder commit|--notes') kind='' ;;
    'builder history|--fields') kind='' ;;
    'builder history|--filter') kind='' ;;
    'builder duplicate|--notes') kind='' ;;
    'token list|--fields') kind='' ;;
    'token list|--filter') kind='' ;;
    'token create|--role') kind='' ;;
    'token create|--expires') kind='' ;;
    'audit list|--limit') kind='' ;;
    'audit list|--object') kind='' ;;
    'audit list|--before') kind='' ;;
    'audit list|--fields') kind='' ;;
    'audit list|--filter') kind='' ;;
    'audit export|--out') kind='@files' ;;
    'audit export|--object') kind='' ;;
    'audit export|--after') kind='' ;;
    'device status|--root') kind='@files' ;;
    'device config get|--root') kind='@files' ;;
    'device config set|--root') kind='@files' ;;
    'device config list|--root') kind='@files' ;;
    'device config list|--fields') kind='' ;;
    'device config list|--filter') kind='' ;;
    'device config check|--root') kind='@files' ;;
    'device stream|--root') kind='@files' ;;
    'device stream run|--host') kind='' ;;
    'device stream run|--http-port') kind='' ;;
    'device stream run|--root') kind='@files' ;;
    'device stream status|--root') kind='@files' ;;
    'device stream status|--fields') kind='' ;;
    'device stream reload|--root') kind='@files' ;;
    'device record run|--root') kind='@files' ;;
    'device record status|--root') kind='@files' ;;
    'device record status|--fields') kind='' ;;
    'device record reload|--root') kind='@files' ;;
    'device record list|--root') kind='@files' ;;
    'device record list|--only') kind='' ;;
    'device record list|--sort') kind='' ;;
    'device record list|--search') kind='' ;;
    'device record list|--fields') kind='' ;;
    'device record list|--filter') kind='' ;;
    'device record prune|--root') kind='@files' ;;
    'device record prune|--min-free-mb') kind='' ;;
    'device record prune|--max-mb') kind='' ;;
    'device record delete|--root') kind='@files' ;;
    'device record lock|--root') kind='@files' ;;
    'device record unlock|--root') kind='@files' ;;
    'device record export|--out') kind='' ;;
    'device record export|--root') kind='@files' ;;
    'device record thumbnail|--root') kind='@files' ;;
    'device watchdog run|--root') kind='@files' ;;
    'device watchdog status|--fields') kind='' ;;
    'device watchdog status|--root') kind='@files' ;;
    'device watchdog recover|--root') kind='@files' ;;
    'db migrate|--data') kind='@files' ;;
    'db migrate|--db') kind='' ;;
    'db status|--data') kind='@files' ;;
    'db status|--db') kind='' ;;
    'db backup|--data') kind='@files' ;;
    'db backup|--db') kind='' ;;
    'db check|--data') kind='@files' ;;
    'db check|--db') kind='' ;;
    'db query|--data') kind='@files' ;;
    'db query|--db') kind='' ;;
    'db query|--fields') kind='' ;;
    'db query|--filter') kind='' ;;
    *'|--profile') kind='' ;;
    *'|--server-url') kind='' ;;
    *'|--config') kind='@files' ;;
    *'|-o') kind='table json ndjson plain' ;;
    *'|--output') kind='table json ndjson plain' ;;
    *'|--color') kind='auto always never' ;;
    *'|--timeout') kind='' ;;
  esac
  printf '%s' "$kind"
}

_meetingctl_argument_kind() {
  local kind=''
  case "$1|$2" in
    'help|0') kind='exit-codes output settings targets' ;;
    'config get|0') kind='output color timeout_s log_level log_format server_url api_key data_dir db_url api_listen api_workers mode legacy_allow_from trusted_proxies bootstrap_token metrics_token heartbeat_timeout_s heartbeat_interval_s drain_s public_url storage_quota_mib storage_reserve_mib flash_file_max_mib updates_public_read updates_url_ttl_s updates_archive_max_mib updates_signing_keys builder_file_max_mib builder_jobs builder_jobs_max builder_keep_s authorized_keys_dir authorized_keys_options ssh_key_rotation ssh_host_keys device_private_keys_dir alert_offline_after_s webhook_networks webhook_timeout_s webhook_attempts webhook_retry_s sealing_key keep_connection_logs_s keep_tunnel_visits_s keep_key_log_s keep_update_attempts_s keep_deliveries_s tunnel_listen tunnel_ports tunnel_bind tunnel_public_host tunnel_ttl_s tunnel_allow_from tunnel_device_may_request tunnel_max_last_seen_s tunnel_relay_ports tunnel_local_ports tunnel_poll_s tunnel_grace_s tunnel_linger_s agent_server agent_device_key agent_token agent_ports agent_heartbeat_s agent_caps ssh_user ssh_identity ssh_connect_s ssh_direct_s' ;;
    'config set|0') kind='output color timeout_s log_level log_format server_url api_key data_dir db_url api_listen api_workers mode legacy_allow_from trusted_proxies bootstrap_token metrics_token heartbeat_timeout_s heartbeat_interval_s drain_s public_url storage_quota_mib storage_reserve_mib flash_file_max_mib updates_public_read updates_url_ttl_s updates_archive_max_mib updates_signing_keys builder_file_max_mib builder_jobs builder_jobs_max builder_keep_s authorized_keys_dir authorized_keys_options ssh_key_rotation ssh_host_keys device_private_keys_dir alert_offline_after_s webhook_networks webhook_timeout_s webhook_attempts webhook_retry_s sealing_key keep_connection_logs_s keep_tunnel_visits_s keep_key_log_s keep_update_attempts_s keep_deliveries_s tunnel_listen tunnel_ports tunnel_bind tunnel_public_host tunnel_ttl_s tunnel_allow_from tunnel_device_may_request tunnel_max_last_seen_s tunnel_relay_ports tunnel_local_ports tunnel_poll_s tunnel_grace_s tunnel_linger_s agent_server agent_device_key agent_token agent_ports agent_heartbeat_s agent_caps ssh_user ssh_identity ssh_connect_s ssh_direct_s' ;;
    'config unset|0') kind='output color timeout_s log_level log_format server_url api_key data_dir db_url api_listen api_workers mode legacy_allow_from trusted_proxies bootstrap_token metrics_token heartbeat_timeout_s heartbeat_interval_s drain_s public_url storage_quota_mib storage_reserve_mib flash_file_max_mib updates_public_read updates_url_ttl_s updates_archive_max_mib updates_signing_keys builder_file_max_mib builder_jobs builder_jobs_max builder_keep_s authorized_keys_dir authorized_keys_options ssh_key_rotation ssh_host_keys device_private_keys_dir alert_offline_after_s webhook_networks webhook_timeout_s webhook_attempts webhook_retry_s sealing_key keep_connection_logs_s keep_tunnel_visits_s keep_key_log_s keep_update_attempts_s keep_deliveries_s tunnel_listen tunnel_ports tunnel_bind tunnel_public_host tunnel_ttl_s tunnel_allow_from tunnel_device_may_request tunnel_max_last_seen_s tunnel_relay_ports tunnel_local_ports tunnel_poll_s tunnel_grace_s tunnel_linger_s agent_server agent_device_key agent_token agent_ports agent_heartbeat_s agent_caps ssh_user ssh_identity ssh_connect_s ssh_direct_s' ;;
    'config check|0') kind='@files' ;;
    'completion show|0') kind='bash zsh fish powershell' ;;
    'completion install|0') kind='bash zsh fish powershell' ;;
    'completion uninstall|0') kind='bash zsh fish powershell' ;;
    'tunnel open|0') kind='@devices' ;;
    'tunnel open|1') kind='ssh http vnc scp relay' ;;
    'tunnel stats|0') kind='@devices' ;;
    'remote ssh|0') kind='@targets' ;;
    'remote trust|0') kind='@targets' ;;
    'remote untrust|0') kind='@targets' ;;
    'fleet show|0') kind='@devices' ;;
    'fleet register|0') kind='@devices' ;;
    'fleet note|0') kind='@devices' ;;
    'fleet tokens|0') kind='@devices' ;;
    'fleet services|0') kind='@devices' ;;
    'fleet heartbeat|0') kind='@devices' ;;
    'fleet rename|0') kind='@devices' ;;
    'fleet parent|0') kind='@devices' ;;
    'fleet publish|0') kind='@files' ;;
    'fleet history|0') kind='@devices' ;;
    'fleet keys show|0') kind='@devices' ;;
    'fleet keys add|0') kind='@devices' ;;
    'fleet keys add|1') kind='@files' ;;
    'fleet keys log|0') kind='@devices' ;;
    'fleet keys export-ppk|0') kind='@devices' ;;
    'fleet keys rotate|0') kind='@files' ;;
    'fleet types icon|1') kind='@files' ;;
    'fleet distributions show|0') kind='@devices' ;;
    'fleet distributions get|0') kind='@devices' ;;
    'fleet distributions put|0') kind='@devices' ;;
    'fleet distributions put|1') kind='@files' ;;
    'fleet files list|0') kind='@devices' ;;
    'builder manifest|1') kind='@files' ;;
    'device config check|0') kind='@files' ;;
    'db backup|0') kind='@files' ;;
    'remote run|'*) kind='@targets' ;;
    'fleet authorize|'*) kind='@devices' ;;
    'fleet revoke|'*) kind='@devices' ;;
    'fleet remove|'*) kind='@devices' ;;
    'fleet tag|'*) kind='@devices' ;;
    'fleet keys rm|'*) kind='@devices' ;;
    'fleet files upload|'*) kind='@files' ;;
    'fleet files rm|'*) kind='@files' ;;
    'builder upload|'*) kind='@files' ;;
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
