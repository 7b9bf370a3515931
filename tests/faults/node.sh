# Sets up a machine as a Kubernetes node with an imported image and without Docker.
set -eu
chmod 755 /usr/local/bin/cri.py
systemctl stop docker.socket docker.service
systemctl mask -q docker.socket docker.service
systemctl restart containerd
ctr -n k8s.io images import /lab/app.tar >/dev/null
until cri.py status localhost:5000/lab/app:v1 2>/dev/null | grep -q sha256; do sleep 0.1; done
# containerd frees the leftovers of the import when a record is removed, so remove one.
ctr -n k8s.io images tag localhost:5000/lab/app:v1 localhost:5000/lab/app:gone >/dev/null
ctr -n k8s.io images rm --sync localhost:5000/lab/app:gone >/dev/null

# On a node, snapshot.sh runs this script. It prints a name, a tab and a value on each
# line.
cat >/usr/local/sbin/lab-node <<'X'
#!/bin/sh
tell() { printf '%s\t%s\n' "$1" "$2"; }
pinned=localhost:5000/lab/app@$(cat /lab/app.digest)
for kind in images content; do
  tell $kind "$(timeout 10 ctr -n k8s.io $kind ls -q 2>&1 | grep -v "^$pinned" | sort | paste -s -d,)"
done
tell snapshots "$(timeout 10 ctr -n k8s.io snapshots ls 2>&1 | awk 'NR > 1 { print $1 }' | sort | paste -s -d,)"
tell leases "$(timeout 10 ctr -n k8s.io leases ls -q 2>&1)"
tell references "$(timeout 10 ctr -n k8s.io images ls 2>&1 | awk -v name="$pinned" '$1 == name { print $1, $3 }')"
told=$(timeout 10 cri.py status "$pinned" 2>&1)
case $told in
  none) tell digest no ;;
  "$(cat /lab/app.id)") tell digest yes ;;
  *) tell digest "$told" ;;
esac

# Everything that digestfix may leave behind, one item per line.
{
  [ ! -d /var/lib/digestfix/kubernetes ] || find /var/lib/digestfix/kubernetes -type f ! -name lock ! -name 'provenance-*.json' ! -path '*/history/*.json'
  grep -s -L '"ended":"' /var/lib/digestfix/kubernetes/*/digestfix/history/*.json
  [ ! -d /var/lib/digestfix/pending ] || find /var/lib/digestfix/pending -mindepth 1
  find /run/systemd/system -name '*digestfix*'
  systemctl list-units --all --plain --no-legend 'digestfix-watchdog-*' | awk '{ print $1, $3, $4 }'
  systemctl list-units --failed --plain --no-legend 'digestfix-*' | awk '{ print $1, $3, $4 }'
  pgrep -a -x digestfix
} 2>&1 | sort -u | while read -r left; do tell "left: $left" yes; done
X
chmod 755 /usr/local/sbin/lab-node
