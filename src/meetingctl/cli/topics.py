"""The texts of `meetingctl help TOPIC`; the first line of each is its summary."""

from __future__ import annotations

TOPICS = {
    "exit-codes": """\
What the exit code of a command says

  0    done
  1    tried and failed
  2    wrong usage, or a question was needed and not allowed
  3    some targets failed, others did not
  4    the server refused the credential, or the role is too low
  69   nothing answered
  75   busy or locked: try again
  78   the configuration is invalid
  130  interrupted
  141  the reader of the output went away

`remote run` and `remote ssh` on one target return the remote program's code; a lost connection is 255, as in ssh.
""",
    "output": """\
Formats, fields, filters and colour

  -o table    for people; the default on a terminal
  -o plain    one line each, tab-separated, without a heading; the default in a pipe
  -o json     one JSON document; failures too: {"ok": false, "error": {"code", "message", "hint"}}
  -o ndjson   one JSON object a line

Times are UTC in ISO 8601. Lists take --fields a,b and --filter key=value with * and ?.
Messages go to standard error, results to standard output. NO_COLOR and FORCE_COLOR are honoured; --color wins.
""",
    "settings": """\
Where a setting comes from

Weak to strong: built-in default; /etc/meetingctl/config.toml; the user's config.toml [default]; [profile.NAME];
credentials.toml; the environment (MEETINGCTL_ and the key in capitals); the command line.

  meetingctl config list --origin     every setting and the layer that won
  meetingctl config path              the files

An API key is kept in credentials.toml (mode 0600), and is sent only to the server that it was stored for. Secrets can
also come from files: MEETINGCTL_API_KEY_FILE=/run/secrets/key. On the machine of the server its own key works at once
for whoever may read it: the user who runs the server, or root when it runs under systemd.
""",
    "targets": """\
What a TARGET may be

  cam-7                 a device, by its key: direct where it can be reached, else through the tunnel
  pi@10.0.0.7[:2222]    an address, without the registry
""",
}
