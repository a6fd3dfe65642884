# shellcheck shell=bash disable=SC2015,SC2016
# A clean Debian in a container: what the scripts that try the deployment share; to be sourced by them.
#
#   make_base                 the root that is copied, made once by debootstrap
#   make_root                 a fresh copy in $root, removed at the end
#   enter yes|no              boots it (sets $boot=yes), or makes namespaces of its own without systemd (boot=no)
#   inside COMMAND...         runs it in there; `as USER COMMAND...` as somebody
#   step NAME, fail WHY, until_so SECONDS WHAT COMMAND..., report_steps
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/sbin"

cannot() { echo "cannot be done here: $*"; exit 75; }

started=$(date +%s%N)
step_name='' step_at=$started report=''
seconds() { printf '%d.%01d' $(($1 / 1000000000)) $(($1 / 100000000 % 10)); }
step() {
  local now; now=$(date +%s%N)
  [ -z "$step_name" ] || report+="$(printf '%6s s  %s' "$(seconds $((now - step_at)))" "$step_name")"$'\n'
  step_name=$1 step_at=$now
  [ -z "$1" ] || printf '== %s\n' "$1"
}
report_steps() {
  step ''
  printf '\n%s' "$report"
  printf '%6s s  everything%s\n' "$(seconds $(($(date +%s%N) - started)))" "$1"
}
fail() { printf 'NOT AS PROMISED: %s\n' "$*" >&2; exit 1; }
# Looks again until the command succeeds.
until_so() {
  local left=$(($1 * 10)) what=$2
  shift 2
  while ! "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || fail "waited in vain until $what"
    sleep 0.1
  done
}

# In memory where there is room: installing is mostly waiting for the disk (one minute in place of six).
roomy() {
  local room
  room=$(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1 || echo 0)
  if [ "${room:-0}" -gt 3000000 ]; then echo /dev/shm; else echo "${TMPDIR:-/tmp}"; fi
}

cache=${WAYSTATION_CLEAN_ROOT_CACHE:-target/deploy}
base=$cache/bookworm.tar.gz
make_base() {
  [ ! -s "$base" ] || return 0
  local fresh
  command -v debootstrap >/dev/null || cannot "debootstrap is missing"
  step "a minimal Debian 12 (debootstrap, once)"
  mkdir -p "$cache"
  fresh=$(mktemp -d "$(roomy)/waystation-base.XXXXXX")
  # It becomes `/`, which everybody must be able to enter.
  chmod 0755 "$fresh"
  # What every server has: systemd with its bus and its sessions, and sshd. Nothing else is there.
  debootstrap --variant=minbase --include=systemd,systemd-sysv,libpam-systemd,dbus,openssh-server bookworm "$fresh" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" >"$cache/debootstrap.log" 2>&1 ||
    { rm -rf "$fresh"; cannot "debootstrap failed (no network?), see $cache/debootstrap.log"; }
  rm -rf "$fresh"/var/cache/apt/archives/*.deb "$fresh"/var/lib/apt/lists/*
  tar -C "$fresh" -cf - . | gzip -1 >"$base.new.$$"
  mv "$base.new.$$" "$base"
  rm -rf "$fresh"
}

work='' root='' nspawn='' leader='' boot=no
make_root() {
  step "a clean root"
  work=$(mktemp -d "$(roomy)/waystation-root.XXXXXX")
  root=$work/root
  trap cleanup EXIT
  mkdir -m 0755 "$root"
  tar -C "$root" -xzf "$base"
  chmod 0755 "$root"
  # What DNS would say; a gateway wants to reach the relay by its name.
  echo '127.0.0.1 localhost relay.example.org' >"$root/etc/hosts"
}
cleanup() {
  local code=$?
  trap - EXIT
  if [ "$code" -ne 0 ] && [ -n "$leader" ] && [ -d "/proc/$leader" ]; then
    inside journalctl --no-pager --lines=40 --unit 'waystation*' >&2 2>/dev/null || true
    tail -n 20 "$root"/home/*/*.log "$work"/*.log >&2 2>/dev/null || true
  fi
  # What runs inside goes first: nsenter stops itself, and then stays, when a shutdown stops what it has started.
  local job
  for job in $(jobs -p); do
    [ "$job" = "$nspawn" ] || kill -9 "$job" 2>/dev/null || true
  done
  if [ -n "$nspawn" ]; then
    # SIGTERM is a clean shutdown of the container.
    kill "$nspawn" 2>/dev/null || true
    for _ in $(seq 100); do kill -0 "$nspawn" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
  fi
  [ -z "$work" ] || rm -rf --one-file-system "$work"
  exit "$code"
}

# Runs a command in the container, deaf to our environment.
inside() {
  nsenter --target "$leader" --mount --uts --ipc --net --pid --cgroup --root --wd \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 HOME=/root "$@"
}
as() {
  local who=$1 home
  shift
  home=$(inside getent passwd "$who" | cut -d : -f 6)
  inside env HOME="$home" setpriv --reuid "$who" --regid "$who" --init-groups "$@"
}
relay() { as waystation waystation --config /etc/waystation/waystation.toml "$@"; }
prop() { inside systemctl show --property "$1" --value "$2"; }
# Sends a message as a stranger would: prints the reply to the final dot.
send() { # PORT TO SUBJECT
  nsenter --target "$leader" --net python3 - "$@" <<'PY'
import smtplib, sys
port, to, subject = int(sys.argv[1]), sys.argv[2], sys.argv[3]
with smtplib.SMTP("127.0.0.1", port, local_hostname="client.example", timeout=60) as smtp:
    smtp.ehlo()
    smtp.mail("stranger@far.example")
    code, text = smtp.rcpt(to)
    assert code == 250, (code, text)
    code, text = smtp.data("From: stranger@far.example\r\nTo: %s\r\nSubject: %s\r\n\r\nhello\r\n" % (to, subject))
    assert code == 250, (code, text)
    print(code, text.decode())
PY
}
arrived() { grep -rqs "^Subject: $2" "$root/$1/new"; }

boot_container() {
  command -v systemd-nspawn >/dev/null || return 1
  systemd-nspawn --quiet --register=no --keep-unit --private-network --directory "$root" --machine "waystation-$$" \
    --console=pipe --boot systemd.log_target=journal >"$work/console" 2>&1 </dev/null &
  nspawn=$!
  for _ in $(seq 300); do
    leader=$(pgrep --parent "$nspawn" | head -n 1 || true)
    if [ -n "$leader" ]; then
      # `degraded` is a unit of Debian's that a container does not like.
      case "$(inside systemctl is-system-running 2>/dev/null || true)" in running | degraded) return 0 ;; esac
    fi
    kill -0 "$nspawn" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "$nspawn" 2>/dev/null || true
  wait "$nspawn" 2>/dev/null || true
  nspawn='' leader=''
  return 1
}

enter() {
  boot=$1
  if [ "$boot" = yes ]; then
    step "boot (systemd as process 1, network of its own)"
    boot_container && return 0
    tail -n 5 "$work/console" >&2 || true
    echo "a container cannot boot here; going on in a chroot"
    boot=no
  fi
  # Namespaces of our own in place of the container: processes, mounts, network.
  unshare --kill-child --mount --pid --net --ipc --uts --fork \
    sh -c "ip link set lo up; mount --bind '$root' '$root'; mount -t proc proc '$root/proc'; cd '$root'; exec chroot '$root' sleep infinity" &
  nspawn=$!
  until_so 10 "the namespaces are there" pgrep --parent "$nspawn" --exact sleep
  leader=$(pgrep --parent "$nspawn" --exact sleep)
}
