# PowerShell completion for meetingctl; @HEAD@

$MeetingctlSubcommands = @{
@SUBCOMMANDS@
}
$MeetingctlOptions = @{
@OPTIONS@
}
$MeetingctlGlobals = @(@GLOBALS@)
$MeetingctlValues = @{
@VALUES@
}
$MeetingctlArguments = @{
@ARGUMENTS@
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
