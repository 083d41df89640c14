#!/usr/bin/env bash
# Make .venv and install meetingctl into it.   scripts/setup.sh run | test
#   run   what `meetingctl` needs: Python packages only
#   test  that and the test tools, and with apt the real servers that the tests talk to
# Says what it does; does nothing that is done already. PYTHON=/path/to/python3 chooses another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

want=${1:?run or test}
# Real parts of the tests: servers, network namespaces, two shells whose completion is tried, GStreamer for the
# camera, and what boots a Debian as a device.
apt_for_tests=(
  openssh-server openssh-client putty-tools postgresql iproute2 curl wrk zsh fish systemd logrotate
  python3-gi python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0 gstreamer1.0-tools
  gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly
  gstreamer1.0-libav gstreamer1.0-x gstreamer1.0-alsa ffmpeg xvfb mmdebstrap systemd-container
)
command -v npm >/dev/null || apt_for_tests+=(nodejs npm)

say() { printf '\033[2m-- %s\033[0m\n' "$*" >&2; }

apt_install() {
  local missing=()
  command -v dpkg-query >/dev/null || return 0
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  if [ "$(id -u)" -ne 0 ]; then
    printf 'these Debian packages are missing; install them with:\n\n  sudo apt-get install %s\n\n' "${missing[*]}" >&2
    return 1
  fi
  say "apt-get install ${missing[*]}"
  # No service of these packages is started: the tests run their own copies on free ports.
  local policy=/usr/sbin/policy-rc.d made=
  [ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=1; }
  trap '[ -z "$made" ] || rm -f "$policy"' RETURN
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The system's own interpreter sees Debian's Python packages (GStreamer on a camera), so it comes first.
python=${PYTHON:-}
for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
  [ -n "$python" ] && break
  command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' && python=$candidate
done
[ -n "$python" ] || { echo "error: Python 3.11 or newer is needed" >&2; exit 1; }

if ! [ -x .venv/bin/python ]; then
  "$python" -c 'import ensurepip' 2>/dev/null || apt_install python3-venv || exit 1
  say "creating .venv with $("$python" -V)"
  "$python" -m venv --system-site-packages .venv
fi

extra=; [ "$want" = test ] && extra='[test]'
stamp=".venv/.installed-$want"
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ scripts/setup.sh -nt "$stamp" ]; then
  say "installing meetingctl$extra into .venv (a minute the first time)"
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --root-user-action ignore -e ".$extra"
  .venv/bin/python -m compileall -q src >/dev/null || true
  touch "$stamp"
fi

if [ "$want" = test ]; then
  apt_install "${apt_for_tests[@]}" || say "tests that need them will be skipped"
  # An ONVIF client of home automation; tests/device/onvif_service runs it.
  if ! [ -d .venv/node/node_modules/onvif ] && command -v npm >/dev/null; then
    say "npm install onvif@0.8.3 into .venv/node"
    npm install --silent --no-audit --no-fund --prefix .venv/node onvif@0.8.3 >/dev/null ||
      say "tests that need it will be skipped"
  fi
fi
