# What OpenSMTPD insists on, where nobody else sees it. $1: the unpacked package, $2: our directory.
for place in /var/lib /var/spool /run /usr/libexec; do mount -t tmpfs none "$place"; done
mkdir -m 755 -p /var/lib/opensmtpd/empty
# The queue lies on the disk that is measured.
mkdir -m 711 -p "$2/spool/smtpd" /var/spool/smtpd
chmod 755 "$2/spool"
mount --bind "$2/spool/smtpd" /var/spool/smtpd
cp -r "$1/usr/libexec/opensmtpd" /usr/libexec/
# It asks who each client is before it greets: from the hosts file, so that no name server is in the figures.
echo 'lookup file' > "$2/resolv.conf"
mount --bind "$2/resolv.conf" /etc/resolv.conf
exec "$1/usr/sbin/smtpd" -d -P mta -P mda -f "$2/smtpd.conf"
