#!/bin/bash
# The room in which one page of the manual is played. Runs as the first process of fresh mount, network and process
# namespaces (tests/manual/room.rs), with two arguments: a directory shared with the test, and the tree.
#
# Inside: the machine's own file system under a layer that is thrown away; a loopback interface with the addresses of
# the examples; a name server with their domains; and in /stage/bin, first in PATH, the binary under test and shims:
#   cargo      `cargo run --release -- X` is the binary with X; `cargo build --release` has been done
#   sudo       everybody is root here
#   systemctl  start, stop, restart, reload and status of the two services, without systemd: the same command lines
#   waystation the binary; `serve` asks Pebble, the ACME server of the room, for its certificate, and `gateway bootstrap wss://...`
#              also trusts what that one signs
set -eu
shared=$1 tree=$2 binary=$3

mount --make-rprivate /
mount -t tmpfs -o size=6g,mode=755 room /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o "lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work" /mnt/root
cd /mnt/root
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=755 run run
mkdir -p stage
mount --bind "$shared" stage
mkdir -p stage/bin stage/dns stage/acme
touch stage/bin/waystation.real
mount --bind "$binary" stage/bin/waystation.real

hostname relay
ip link set lo up
ip address add 203.0.113.5/32 dev lo
ip -6 address add 2001:db8::5/128 dev lo nodad 2>/dev/null || true

rm -f etc/resolv.conf etc/hosts
echo 'nameserver 127.0.0.1' > etc/resolv.conf
printf '127.0.0.1 localhost\n203.0.113.5 relay.example.org\n' > etc/hosts
sed -i 's/^hosts:.*/hosts: files dns/' etc/nsswitch.conf 2>/dev/null || true

cat > stage/bin/waystation <<'END'
#!/bin/bash
case " $* " in
*" serve "*)
  export WAYSTATION_TLS__ACME__DIRECTORY_URL=https://localhost:14000/dir
  export WAYSTATION_TLS__ACME__CA_FILE=/stage/acme/pebble-ca.pem
  ;;
*" gateway bootstrap wss://"*) set -- "$@" --extra-ca-file /stage/acme/root.pem ;;
esac
exec -a waystation /stage/bin/waystation.real "$@"
END
cat > stage/bin/sudo <<'END'
#!/bin/bash
while :; do
  case "${1-}" in
  -u) shift 2 ;;
  -*) shift ;;
  *) exec "$@" ;;
  esac
done
END
cat > stage/bin/cargo <<'END'
#!/bin/bash
case "$1 ${2-} ${3-}" in
"run --release --") shift 3; exec waystation "$@" ;;
"build --release "*) exit 0 ;;
esac
echo "this room has no cargo $*" >&2
exit 1
END
cat > stage/bin/systemctl <<'END'
#!/bin/bash
# Services are started by the same command line as in the unit; systemd itself is tested elsewhere.
now=no words=()
for word in "$@"; do
  case $word in --now) now=yes ;; -*) ;; *) words+=("${word%.service}") ;; esac
done
verb=${words[0]-} unit=${words[1]-waystation} pid=/run/$unit.pid log=/run/$unit.log
start() {
  case $unit in
  waystation) line=(waystation serve --config /etc/waystation/waystation.toml) ready=relay.started ;;
  waystation-gateway) line=(waystation gateway run --config /etc/waystation/gateway.toml) ready=gateway.connected ;;
  *) echo "this room has no service $unit" >&2; exit 5 ;;
  esac
  setsid "${line[@]}" >> "$log" 2>&1 < /dev/null &
  echo $! > "$pid"
  for _ in $(seq 600); do
    grep -q "$ready" "$log" && return
    kill -0 "$(cat "$pid")" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.1
  done
  cat "$log" >&2
  exit 1
}
stop() {
  [ -e "$pid" ] || return 0
  kill "$(cat "$pid")" 2>/dev/null && while kill -0 "$(cat "$pid")" 2>/dev/null; do sleep 0.05; done
  rm -f "$pid" "$log"
}
case $verb in
daemon-reload) ;;
enable) [ $now = no ] || start ;;
start) start ;;
stop) stop ;;
disable) [ $now = no ] || stop ;;
restart) stop; start ;;
reload) kill -HUP "$(cat "$pid")" ;;
status | is-active) kill -0 "$(cat "$pid" 2>/dev/null)" && echo active ;;
*) echo "this room has no systemctl $verb" >&2; exit 1 ;;
esac
END
chmod 755 stage/bin/*

# What a page shows is made by programs that would otherwise ask the environment of whoever runs the tests.
for name in $(env | sed -n 's/^\(WAYSTATION_[A-Z_]*\)=.*/\1/p'); do unset "$name"; done
export HOME=/root LANG=C.UTF-8 LC_ALL=C.UTF-8 TERM=dumb COLUMNS=240 USER=root
export PATH=/stage/bin:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
mkdir -p root/room
ln -s "$tree" root/tree

# The first process of the room cannot be left by a chroot of a shell that goes on, so the rest is a second script.
exec chroot . /bin/bash /stage/inside.sh "$tree"
