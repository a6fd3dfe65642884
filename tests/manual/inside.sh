#!/bin/bash
# Inside the room: a name server, an ACME server when they are installed, then one block after the other.
# Standard input names them: `N wait` or `N background`. Standard output answers: `N CODE`.
set -u
tree=$1
exec 3>&1 1>&2

# Whom the package makes.
getent passwd waystation > /dev/null || useradd --system --user-group --no-create-home waystation

if [ -x /usr/sbin/unbound ]; then
  unbound -c /stage/unbound.conf
  for _ in $(seq 200); do
    unbound-control -c /stage/unbound.conf status > /dev/null 2>&1 && break
    sleep 0.05
  done
fi
if command -v pebble > /dev/null && [ -e /stage/pebble.json ]; then
  PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 setsid pebble -config /stage/pebble.json -dnsserver 127.0.0.1:53 > /stage/pebble.log 2>&1 &
  # Its own certificate authority signs what it issues; a gateway has to trust that one.
  for _ in $(seq 200); do
    curl -sk https://127.0.0.1:15000/roots/0 -o /stage/acme/root.pem && break
    sleep 0.05
  done
fi
cd /root/room
{ echo 'cd /root/room'; export -p; } > /stage/state

while read -r block how <&0; do
  case $how in
  background)
    { setsid --wait /bin/bash "/stage/$block.sh" > "/stage/$block.out" 2>&1 < /dev/null; echo $? > "/stage/$block.ended"; } &
    echo "$block 0" >&3
    ;;
  *)
    /bin/bash "/stage/$block.sh" > "/stage/$block.out" 2>&1 < /dev/null
    echo "$block $?" >&3
    ;;
  esac
done
