# Users that a server was built to run as, where nobody else sees them. $2: our directory.
set -e
mount --make-rprivate /
cp /etc/passwd "$2/passwd"; cp /etc/group "$2/group"
number=64990
for name in {users}; do
  printf '%s:x:%s:%s::/nonexistent:/usr/sbin/nologin\n' "$name" "$number" "$number" >> "$2/passwd"
  printf '%s:x:%s:\n' "$name" "$number" >> "$2/group"
  number=$((number + 1))
done
mount --bind "$2/passwd" /etc/passwd
mount --bind "$2/group" /etc/group
