# PowerShell completion for meetingctl; made from the command tree by `meetingctl completion show powershell`; do not edit

$MeetingctlSubcommands = @{
    '' = @('demo', 'login', 'logout', 'whoami', 'version', 'doctor', 'help', 'config', 'completion', 'serve', 'tunnel', 'remote', 'fleet', 'token', 'audit', 'device', 'db')
    'config' = @('get', 'set', 'unset', 'list', 'path', 'check', 'profile')
    'config profile' = @('list', 'use', 'add', 'remove')
    'completion' = @('show', 'install', 'uninstall')
    'serve' = @('api', 'tunnel', 'all', 'unit')
    'tunnel' = @('open', 'list', 'show', 'close', 'stats', 'agent')
    'remote' = @('run', 'ssh', 'trust', 'untrust')
    'fleet' = @('list', 'show', 'create', 'register', 'authorize', 'revoke', 'note', 'tokens', 'services', 'remove', 'heartbeat', 'publish', 'updates', 'history', 'releases', 'channels', 'rollout')
    'fleet releases' = @('list', 'show', 'verify', 'download', 'notes')
    'fleet channels' = @('list', 'set', 'rm')
    'fleet rollout' = @('start', 'status', 'list', 'pause', 'resume', 'abort')
    'token' = @('list', 'create', 'revoke')
    'audit' = @('list', 'export', 'verify')
    'device' = @('status', 'config', 'stream', 'record', 'watchdog')
    'device config' = @('get', 'set', 'list', 'check')
    'device stream' = @('run', 'status', 'reload')
    'device record' = @('run', 'status', 'reload', 'list', 'prune', 'delete', 'lock', 'unlock', 'export', 'thumbnail')
    'device watchdog' = @('run', 'status', 'recover')
    'db' = @('migrate', 'status', 'backup', 'check', 'query')
}
$MeetingctlOptions = @{
    '' = @('--version', '-h', '--help')
    'demo' = @('--data', '--api-listen', '--tunnel-listen', '--tunnel-ports', '-h', '--help')
    'login' = @('--key-file', '--dry-run', '-h', '--help')
    'logout' = @('--dry-run', '-h', '--help')
    'whoami' = @('-h', '--help')
    'version' = @('-h', '--help')
    'doctor' = @('--bundle', '-h', '--help')
    'help' = @('-h', '--help')
    'config' = @('-h', '--help')
    'config get' = @('-h', '--help')
    'config set' = @('--dry-run', '-h', '--help')
    'config unset' = @('--dry-run', '-h', '--help')
    'config list' = @('--origin', '--group', '--fields', '--filter', '-h', '--help')
    'config path' = @('-h', '--help')
    'config check' = @('-h', '--help')
    'config profile' = @('-h', '--help')
    'config profile list' = @('--fields', '-h', '--help')
    'config profile use' = @('--dry-run', '-h', '--help')
    'config profile add' = @('--dry-run', '-h', '--help')
    'config profile remove' = @('--dry-run', '-h', '--help')
    'completion' = @('-h', '--help')
    'completion show' = @('-h', '--help')
    'completion install' = @('--dry-run', '-h', '--help')
    'completion uninstall' = @('--dry-run', '-h', '--help')
    'serve' = @('-h', '--help')
    'serve api' = @('--listen', '--db', '--data', '--workers', '--tunnel-ports', '--public-host', '--mode', '--legacy-open', '--allow-from', '-h', '--help')
    'serve tunnel' = @('--listen', '--bind', '--api', '-h', '--help')
    'serve all' = @('--api-listen', '--tunnel-listen', '--tunnel-ports', '--tunnel-bind', '--public-host', '--db', '--data', '--only', '--mode', '--legacy-open', '--allow-from', '-h', '--help')
    'serve unit' = @('--install', '--dry-run', '-h', '--help')
    'tunnel' = @('-h', '--help')
    'tunnel open' = @('--for', '--allow-from', '--dry-run', '-h', '--help')
    'tunnel list' = @('--watch', '--fields', '--filter', '-h', '--help')
    'tunnel show' = @('--fields', '-h', '--help')
    'tunnel close' = @('--all', '--dry-run', '-h', '--help')
    'tunnel stats' = @('--fields', '-h', '--help')
    'tunnel agent' = @('--server', '--device-key', '--token', '--token-file', '--api', '-h', '--help')
    'remote' = @('-h', '--help')
    'remote run' = @('--all', '--sudo', '--script', '--user', '-i', '--identity', '--ask-password', '--password-file', '--via', '--parallel', '--limit', '--fail-fast', '--max-fail', '--retries', '--retry-from', '--deadline', '--idle', '--dry-run', '-h', '--help')
    'remote ssh' = @('--user', '-i', '--identity', '--via', '--print', '-h', '--help')
    'remote trust' = @('--fingerprint', '--via', '--dry-run', '-h', '--help')
    'remote untrust' = @('--dry-run', '-h', '--help')
    'fleet' = @('-h', '--help')
    'fleet list' = @('--prefix', '--limit', '--watch', '--fields', '--filter', '-h', '--help')
    'fleet show' = @('--secrets', '--fields', '-h', '--help')
    'fleet create' = @('--generate', '--type', '--distribution', '--serial', '--dry-run', '-h', '--help')
    'fleet register' = @('--token-file', '--dry-run', '-h', '--help')
    'fleet authorize' = @('--dry-run', '-h', '--help')
    'fleet revoke' = @('--dry-run', '-h', '--help')
    'fleet note' = @('--dry-run', '-h', '--help')
    'fleet tokens' = @('--set', '--new-code', '--dry-run', '-h', '--help')
    'fleet services' = @('--set', '--local-port', '--dry-run', '-h', '--help')
    'fleet remove' = @('--dry-run', '-h', '--help')
    'fleet heartbeat' = @('--token-file', '--ip-lan', '--ip-public', '--mac', '--note', '--dry-run', '-h', '--help')
    'fleet publish' = @('--type', '--distribution', '--release-version', '--notes', '--manifest', '--signature', '--dry-run', '-h', '--help')
    'fleet updates' = @('--state', '--type', '--distribution', '--search', '--export', '--out', '--limit', '--watch', '--fields', '--filter', '-h', '--help')
    'fleet history' = @('--status', '--to', '--from-day', '--until-day', '--limit', '--fields', '--filter', '-h', '--help')
    'fleet releases' = @('-h', '--help')
    'fleet releases list' = @('--type', '--distribution', '--fields', '--filter', '-h', '--help')
    'fleet releases show' = @('--fields', '-h', '--help')
    'fleet releases verify' = @('--all', '-h', '--help')
    'fleet releases download' = @('--out', '--dry-run', '-h', '--help')
    'fleet releases notes' = @('-h', '--help')
    'fleet channels' = @('-h', '--help')
    'fleet channels list' = @('--fields', '--filter', '-h', '--help')
    'fleet channels set' = @('--off', '--dry-run', '-h', '--help')
    'fleet channels rm' = @('--dry-run', '-h', '--help')
    'fleet rollout' = @('-h', '--help')
    'fleet rollout start' = @('--channel', '--waves', '--soak', '--delay', '--max-failed', '--min-success', '--tag', '--device', '--percent', '--dry-run', '-h', '--help')
    'fleet rollout status' = @('--watch', '--fields', '-h', '--help')
    'fleet rollout list' = @('--state', '--watch', '--fields', '--filter', '-h', '--help')
    'fleet rollout pause' = @('--reason', '--dry-run', '-h', '--help')
    'fleet rollout resume' = @('--dry-run', '-h', '--help')
    'fleet rollout abort' = @('--dry-run', '-h', '--help')
    'token' = @('-h', '--help')
    'token list' = @('--fields', '--filter', '-h', '--help')
    'token create' = @('--role', '--expires', '--dry-run', '-h', '--help')
    'token revoke' = @('--dry-run', '-h', '--help')
    'audit' = @('-h', '--help')
    'audit list' = @('--limit', '--object', '--before', '--fields', '--filter', '-h', '--help')
    'audit export' = @('--out', '--object', '--after', '-h', '--help')
    'audit verify' = @('-h', '--help')
    'device' = @('-h', '--help')
    'device status' = @('--root', '-h', '--help')
    'device config' = @('-h', '--help')
    'device config get' = @('--reveal', '--root', '-h', '--help')
    'device config set' = @('--root', '--dry-run', '-h', '--help')
    'device config list' = @('--root', '--changed', '--fields', '--filter', '-h', '--help')
    'device config check' = @('--root', '-h', '--help')
    'device stream' = @('--print-pipeline', '--root', '-h', '--help')
    'device stream run' = @('--host', '--http-port', '--root', '-h', '--help')
    'device stream status' = @('--root', '--fields', '-h', '--help')
    'device stream reload' = @('--root', '-h', '--help')
    'device record' = @('-h', '--help')
    'device record run' = @('--root', '-h', '--help')
    'device record status' = @('--root', '--fields', '-h', '--help')
    'device record reload' = @('--root', '-h', '--help')
    'device record list' = @('--root', '--only', '--sort', '--search', '--fields', '--filter', '-h', '--help')
    'device record prune' = @('--root', '--min-free-mb', '--max-mb', '--dry-run', '-h', '--help')
    'device record delete' = @('--root', '--force', '-h', '--help')
    'device record lock' = @('--root', '-h', '--help')
    'device record unlock' = @('--root', '-h', '--help')
    'device record export' = @('--out', '--mp4', '--force', '--root', '-h', '--help')
    'device record thumbnail' = @('--root', '--force', '-h', '--help')
    'device watchdog' = @('-h', '--help')
    'device watchdog run' = @('--once', '--dry-run', '--root', '-h', '--help')
    'device watchdog status' = @('--fields', '--root', '-h', '--help')
    'device watchdog recover' = @('--dry-run', '--root', '-h', '--help')
    'db' = @('-h', '--help')
    'db migrate' = @('--data', '--db', '--dry-run', '-h', '--help')
    'db status' = @('--data', '--db', '-h', '--help')
    'db backup' = @('--data', '--db', '--dry-run', '-h', '--help')
    'db check' = @('--data', '--db', '-h', '--help')
    'db query' = @('--data', '--db', '--fields', '--filter', '-h', '--help')
}
$MeetingctlGlobals = @('--color', '--config', '--json', '--no-input', '-o', '--output', '--profile', '-q', '--quiet', '--server-url', '--timeout', '-v', '--verbose', '-y', '--yes')
$MeetingctlValues = @{
    '*|--profile' = ''
    '*|--server-url' = ''
    '*|--config' = '@files'
    '*|-o' = 'table json ndjson plain'
    '*|--output' = 'table json ndjson plain'
    '*|--color' = 'auto always never'
    '*|--timeout' = ''
    'demo|--data' = '@files'
    'demo|--api-listen' = ''
    'demo|--tunnel-listen' = ''
    'demo|--tunnel-ports' = ''
    'login|--key-file' = '@files'
    'doctor|--bundle' = '@files'
    'config list|--group' = ''
    'config list|--fields' = ''
    'config list|--filter' = ''
    'config profile list|--fields' = ''
    'serve api|--listen' = ''
    'serve api|--db' = ''
    'serve api|--data' = '@files'
    'serve api|--workers' = ''
    'serve api|--tunnel-ports' = ''
    'serve api|--public-host' = ''
    'serve api|--mode' = ''
    'serve api|--allow-from' = ''
    'serve tunnel|--listen' = ''
    'serve tunnel|--bind' = ''
    'serve tunnel|--api' = ''
    'serve all|--api-listen' = ''
    'serve all|--tunnel-listen' = ''
    'serve all|--tunnel-ports' = ''
    'serve all|--tunnel-bind' = ''
    'serve all|--public-host' = ''
    'serve all|--db' = ''
    'serve all|--data' = '@files'
    'serve all|--only' = ''
    'serve all|--mode' = ''
    'serve all|--allow-from' = ''
    'tunnel open|--for' = ''
    'tunnel open|--allow-from' = ''
    'tunnel list|--fields' = ''
    'tunnel list|--filter' = ''
    'tunnel show|--fields' = ''
    'tunnel stats|--fields' = ''
    'tunnel agent|--server' = ''
    'tunnel agent|--device-key' = ''
    'tunnel agent|--token' = ''
    'tunnel agent|--token-file' = '@files'
    'tunnel agent|--api' = ''
    'remote run|--script' = '@files'
    'remote run|--user' = ''
    'remote run|-i' = '@files'
    'remote run|--identity' = '@files'
    'remote run|--password-file' = '@files'
    'remote run|--via' = 'auto direct tunnel'
    'remote run|--parallel' = ''
    'remote run|--limit' = ''
    'remote run|--max-fail' = ''
    'remote run|--retries' = ''
    'remote run|--retry-from' = '@files'
    'remote run|--deadline' = ''
    'remote run|--idle' = ''
    'remote ssh|--user' = ''
    'remote ssh|-i' = '@files'
    'remote ssh|--identity' = '@files'
    'remote ssh|--via' = 'auto direct tunnel'
    'remote trust|--fingerprint' = ''
    'remote trust|--via' = 'auto direct tunnel'
    'fleet list|--prefix' = ''
    'fleet list|--limit' = ''
    'fleet list|--fields' = ''
    'fleet list|--filter' = ''
    'fleet show|--fields' = ''
    'fleet create|--type' = ''
    'fleet create|--distribution' = ''
    'fleet create|--serial' = ''
    'fleet register|--token-file' = '@files'
    'fleet tokens|--set' = ''
    'fleet services|--set' = ''
    'fleet services|--local-port' = ''
    'fleet heartbeat|--token-file' = '@files'
    'fleet heartbeat|--ip-lan' = ''
    'fleet heartbeat|--ip-public' = ''
    'fleet heartbeat|--mac' = ''
    'fleet heartbeat|--note' = ''
    'fleet publish|--type' = ''
    'fleet publish|--distribution' = ''
    'fleet publish|--release-version' = ''
    'fleet publish|--notes' = ''
    'fleet publish|--manifest' = '@files'
    'fleet publish|--signature' = '@files'
    'fleet updates|--state' = ''
    'fleet updates|--type' = ''
    'fleet updates|--distribution' = ''
    'fleet updates|--search' = ''
    'fleet updates|--export' = 'table json ndjson plain'
    'fleet updates|--out' = '@files'
    'fleet updates|--limit' = ''
    'fleet updates|--fields' = ''
    'fleet updates|--filter' = ''
    'fleet history|--status' = ''
    'fleet history|--to' = ''
    'fleet history|--from-day' = ''
    'fleet history|--until-day' = ''
    'fleet history|--limit' = ''
    'fleet history|--fields' = ''
    'fleet history|--filter' = ''
    'fleet releases list|--type' = ''
    'fleet releases list|--distribution' = ''
    'fleet releases list|--fields' = ''
    'fleet releases list|--filter' = ''
    'fleet releases show|--fields' = ''
    'fleet releases download|--out' = '@files'
    'fleet channels list|--fields' = ''
    'fleet channels list|--filter' = ''
    'fleet rollout start|--channel' = ''
    'fleet rollout start|--waves' = ''
    'fleet rollout start|--soak' = ''
    'fleet rollout start|--delay' = ''
    'fleet rollout start|--max-failed' = ''
    'fleet rollout start|--min-success' = ''
    'fleet rollout start|--tag' = ''
    'fleet rollout start|--device' = ''
    'fleet rollout start|--percent' = ''
    'fleet rollout status|--fields' = ''
    'fleet rollout list|--state' = ''
    'fleet rollout list|--fields' = ''
    'fleet rollout list|--filter' = ''
    'fleet rollout pause|--reason' = ''
    'token list|--fields' = ''
    'token list|--filter' = ''
    'token create|--role' = ''
    'token create|--expires' = ''
    'audit list|--limit' = ''
    'audit list|--object' = ''
    'audit list|--before' = ''
    'audit list|--fields' = ''
    'audit list|--filter' = ''
    'audit export|--out' = '@files'
    'audit export|--object' = ''
    'audit export|--after' = ''
    'device status|--root' = '@files'
    'device config get|--root' = '@files'
    'device config set|--root' = '@files'
    'device config list|--root' = '@files'
    'device config list|--fields' = ''
    'device config list|--filter' = ''
    'device config check|--root' = '@files'
    'device stream|--root' = '@files'
    'device stream run|--host' = ''
    'device stream run|--http-port' = ''
    'device stream run|--root' = '@files'
    'device stream status|--root' = '@files'
    'device stream status|--fields' = ''
    'device stream reload|--root' = '@files'
    'device record run|--root' = '@files'
    'device record status|--root' = '@files'
    'device record status|--fields' = ''
    'device record reload|--root' = '@files'
    'device record list|--root' = '@files'
    'device record list|--only' = ''
    'device record list|--sort' = ''
    'device record list|--search' = ''
    'device record list|--fields' = ''
    'device record list|--filter' = ''
    'device record prune|--root' = '@files'
    'device record prune|--min-free-mb' = ''
    'device record prune|--max-mb' = ''
    'device record delete|--root' = '@files'
    'device record lock|--root' = '@files'
    'device record unlock|--root' = '@files'
    'device record export|--out' = ''
    'device record export|--root' = '@files'
    'device record thumbnail|--root' = '@files'
    'device watchdog run|--root' = '@files'
    'device watchdog status|--fields' = ''
    'device watchdog status|--root' = '@files'
    'device watchdog recover|--root' = '@files'
    'db migrate|--data' = '@files'
    'db migrate|--db' = ''
    'db status|--data' = '@files'
    'db status|--db' = ''
    'db backup|--data' = '@files'
    'db backup|--db' = ''
    'db check|--data' = '@files'
    'db check|--db' = ''
    'db query|--data' = '@files'
    'db query|--db' = ''
    'db query|--fields' = ''
    'db query|--filter' = ''
}
$MeetingctlArguments = @{
    'help|0' = 'exit-codes output settings targets'
    'config get|0' = 'output color timeout_s log_level log_format server_url api_key data_dir db_url api_listen api_workers mode legacy_allow_from trusted_proxies bootstrap_token metrics_token heartbeat_timeout_s heartbeat_interval_s drain_s public_url storage_quota_mib storage_reserve_mib flash_file_max_mib updates_public_read updates_url_ttl_s updates_archive_max_mib updates_signing_keys tunnel_listen tunnel_ports tunnel_bind tunnel_public_host tunnel_ttl_s tunnel_allow_from tunnel_device_may_request tunnel_max_last_seen_s tunnel_relay_ports tunnel_local_ports tunnel_poll_s tunnel_grace_s tunnel_linger_s agent_server agent_device_key agent_token agent_ports agent_heartbeat_s agent_caps ssh_user ssh_identity ssh_connect_s ssh_direct_s'
    'config set|0' = 'output color timeout_s log_level log_format server_url api_key data_dir db_url api_listen api_workers mode legacy_allow_from trusted_proxies bootstrap_token metrics_token heartbeat_timeout_s heartbeat_interval_s drain_s public_url storage_quota_mib storage_reserve_mib flash_file_max_mib updates_public_read updates_url_ttl_s updates_archive_max_mib updates_signing_keys tunnel_listen tunnel_ports tunnel_bind tunnel_public_host tunnel_ttl_s tunnel_allow_from tunnel_device_may_request tunnel_max_last_seen_s tunnel_relay_ports tunnel_local_ports tunnel_poll_s tunnel_grace_s tunnel_linger_s agent_server agent_device_key agent_token agent_ports agent_heartbeat_s agent_caps ssh_user ssh_identity ssh_connect_s ssh_direct_s'
    'config unset|0' = 'output color timeout_s log_level log_format server_url api_key data_dir db_url api_listen api_workers mode legacy_allow_from trusted_proxies bootstrap_token metrics_token heartbeat_timeout_s heartbeat_interval_s drain_s public_url storage_quota_mib storage_reserve_mib flash_file_max_mib updates_public_read updates_url_ttl_s updates_archive_max_mib updates_signing_keys tunnel_listen tunnel_ports tunnel_bind tunnel_public_host tunnel_ttl_s tunnel_allow_from tunnel_device_may_request tunnel_max_last_seen_s tunnel_relay_ports tunnel_local_ports tunnel_poll_s tunnel_grace_s tunnel_linger_s agent_server agent_device_key agent_token agent_ports agent_heartbeat_s agent_caps ssh_user ssh_identity ssh_connect_s ssh_direct_s'
    'config check|0' = '@files'
    'completion show|0' = 'bash zsh fish powershell'
    'completion install|0' = 'bash zsh fish powershell'
    'completion uninstall|0' = 'bash zsh fish powershell'
    'tunnel open|0' = '@devices'
    'tunnel open|1' = 'ssh http vnc scp relay'
    'tunnel stats|0' = '@devices'
    'remote run|*' = '@targets'
    'remote ssh|0' = '@targets'
    'remote trust|0' = '@targets'
    'remote untrust|0' = '@targets'
    'fleet show|0' = '@devices'
    'fleet register|0' = '@devices'
    'fleet authorize|*' = '@devices'
    'fleet revoke|*' = '@devices'
    'fleet note|0' = '@devices'
    'fleet tokens|0' = '@devices'
    'fleet services|0' = '@devices'
    'fleet remove|*' = '@devices'
    'fleet heartbeat|0' = '@devices'
    'fleet publish|0' = '@files'
    'fleet history|0' = '@devices'
    'device config check|0' = '@files'
    'db backup|0' = '@files'
}

function Get-MeetingctlCached([string] $Name) {
    $base = if ($env:XDG_CACHE_HOME) { $env:XDG_CACHE_HOME } else { Join-Path $HOME '.cache' }
    $file = Join-Path (Join-Path (Join-Path $base 'meetingctl') 'complete') $Name
    if (Test-Path -LiteralPath $file) { Get-Content -LiteralPath $file }
}

function Get-MeetingctlWords([string] $Kind, [string] $Current) {
    switch ($Kind) {
        '@files' { Get-ChildItem -Path "$Current*" -ErrorAction SilentlyContinue | ForEach-Object { $_.Name } }
        '@devices' { Get-MeetingctlCached 'devices' }
        '@targets' { Get-MeetingctlCached 'devices'; Get-MeetingctlCached 'tags' | ForEach-Object { "tag:$_" } }
        default { $Kind -split ' ' }
    }
}

Register-ArgumentCompleter -Native -CommandName meetingctl -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $path = ''
    $count = 0
    $pending = $null
    $elements = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition -or
        ($_.Extent.EndOffset -eq $cursorPosition -and -not $wordToComplete) } | Select-Object -Skip 1)
    foreach ($element in $elements) {
        $word = $element.Extent.Text
        if ($pending) { $pending = $null; continue }
        if ($word -eq '--') { return }
        if ($word.StartsWith('-')) {
            if ($MeetingctlValues.ContainsKey("$path|$word") -or $MeetingctlValues.ContainsKey("*|$word")) { $pending = $word }
            continue
        }
        if ($MeetingctlSubcommands[$path] -ccontains $word) { $path = "$path $word".Trim() } else { $count++ }
    }
    $words = if ($pending) {
        $kind = if ($MeetingctlValues.ContainsKey("$path|$pending")) { $MeetingctlValues["$path|$pending"] } else { $MeetingctlValues["*|$pending"] }
        Get-MeetingctlWords $kind $wordToComplete
    } elseif ($wordToComplete.StartsWith('-')) {
        @($MeetingctlOptions[$path]) + $MeetingctlGlobals
    } elseif ($MeetingctlSubcommands.ContainsKey($path)) {
        $MeetingctlSubcommands[$path]
    } else {
        $kind = if ($MeetingctlArguments.ContainsKey("$path|$count")) { $MeetingctlArguments["$path|$count"] } else { $MeetingctlArguments["$path|*"] }
        if ($kind) { Get-MeetingctlWords $kind $wordToComplete }
    }
    $words | Where-Object { $_ -and $_.StartsWith($wordToComplete) } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
