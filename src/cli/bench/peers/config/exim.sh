# What Exim insists on. $1: the unpacked package, $2: our directory.
mkdir -p "$2/spool" "$2/log"
chown Debian-exim:Debian-exim "$2/spool" "$2/log"
export LD_LIBRARY_PATH="$1/usr/lib/x86_64-linux-gnu"
exec "$1/usr/sbin/exim4" -C "$2/exim.conf" -bdf
