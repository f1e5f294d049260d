# The root of a container, on a file system that only this process sees: the programs, the machine's libraries, and the
# files that kubelet mounts. Then capsh(1) takes the user and the capabilities of the Deployment, and confine.c the
# filter of system calls, if the Deployment wants one.
set -eu
root=$1 volumes=$2 programs=$3 program=/bin/$4 uid=$5 gid=$6 profile=$7
shift 7
mount -t tmpfs -o size=1m tmpfs "$root"
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/etc/coredns" "$root/lib" "$root/lib64" "$root/usr" \
  "$root/var/run/secrets/kubernetes.io/serviceaccount"
mount --bind "$programs" "$root/bin"
for folder in /lib /lib64 /usr; do
  [ ! -e "$folder" ] || mount --bind "$folder" "$root$folder"
done
mount -t proc proc "$root/proc"
: >"$root/dev/null"
mount --bind /dev/null "$root/dev/null"
mount --bind "$volumes/config" "$root/etc/coredns"
mount --bind "$volumes/token" "$root/var/run/secrets/kubernetes.io/serviceaccount"
for folder in /etc/coredns /var/run/secrets/kubernetes.io/serviceaccount; do
  mount -o remount,bind,ro "$root$folder"
done
cp "$volumes/resolv.conf" "$volumes/hosts" "$root/etc/"
mount -o remount,ro "$root"
others=$(capsh --print | sed -n 's/^Bounding set =//p' | tr , '\n' | grep -v '^cap_net_bind_service$' | paste -s -d ,)
if [ "$profile" = RuntimeDefault ]; then
  set -- /bin/seccomp.list "$program" "$@"
  program=/bin/confine
fi
# Without new privileges, as "allowPrivilegeEscalation: false" has it.
exec capsh --chroot="$root" --drop="$others" --keep=1 --groups= --gid="$gid" --uid="$uid" \
  --caps=cap_net_bind_service=eip --no-new-privs --shell="$program" -- "$@"
