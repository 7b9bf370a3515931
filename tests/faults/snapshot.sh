# Prints the state of a host: on each line a name, a tab and a value. It asks Docker
# only if Docker runs, because a client would start it.
[ ! -x /usr/local/sbin/lab-node ] || exec /usr/local/sbin/lab-node
tell() { printf '%s\t%s\n' "$1" "$2"; }
# If a slow host does not answer in time, the output says so, because an empty answer
# would mean something else.
ask() {
  timeout 10 "$@" 2>&1
  [ $? != 124 ] || echo "no answer in 10 s"
}

systemctl show -p Id,ActiveState,SubState,NeedDaemonReload docker.service docker.socket lab-dependent.service |
  awk 'BEGIN { RS = ""; FS = "\n" }
    {
      for (i = 1; i <= NF; i++) { at = index($i, "="); value[substr($i, 1, at - 1)] = substr($i, at + 1) }
      state = value["ActiveState"] " (" value["SubState"] ")"
      if (value["NeedDaemonReload"] == "yes") state = state ", changed on disk"
      print value["Id"] "\t" state
    }'

store=/var/lib/docker/image/overlay2
config=/etc/docker/daemon.json
if grep -q containerd-snapshotter $config 2>/dev/null; then
  in_containerd=yes
  tell references "$(ask ctr -n moby images ls | awk 'NR > 1 { print $1, $3 }' | sort | paste -s -d,)"
else
  in_containerd=
  tell references "$(sha256sum <$store/repositories.json 2>&1)"
fi
tell daemon.json "$(stat -c '%F, inode %i, mode %a, owner %u:%g, of %y' $config 2>&1), $(stat -L -c 'inode %i, mode %a, owner %u:%g, of %y' $config 2>&1), $(sha256sum 2>&1 <$config)"
tell hosts "$(stat -c '%F, inode %i, mode %a, of %y' /etc/hosts 2>&1), $(sha256sum 2>&1 </etc/hosts)"
tell /etc/docker "$(ls -A /etc/docker 2>&1 | tr '\n' ' ')"

if [ "$(systemctl is-active docker.service)" = active ]; then
  tell live-restore "$(ask docker info -f '{{.LiveRestoreEnabled}}')"
  tell mirrors "$(ask docker info -f '{{len .RegistryConfig.Mirrors}}')"
  ask docker inspect -f '{{$n := .Name}}container {{$n}} status	{{.State.Status}}
container {{$n}} process	{{.State.Pid}}, since {{.State.StartedAt}}
container {{$n}} restarts	{{.RestartCount}}
container {{$n}} policy	{{.HostConfig.RestartPolicy}}' $(ask docker ps -aq)
  tell tag "$(ask docker image inspect -f '{{.Id}}' localhost:5000/lab/app:v1)"
  pinned=localhost:5000/lab/app@$(cat /lab/app.digest)
  timeout 10 docker image inspect "$pinned" >/dev/null 2>&1 && held=yes || held=no
  # Docker 28.5 shows an image even if it has only the name, so run a container.
  if [ "$held$in_containerd" = yesyes ]; then
    said=$(timeout 20 docker run --rm --network none "$pinned" 2>&1)
    [ "$said" = "hello from app" ] || held="shown, and cannot be run: $said"
  fi
  tell digest $held
  # If the first packet is held back, the client sends it again after a second, which is
  # too late here.
  curl -s -m 0.9 -o /dev/null http://127.0.0.1:8080/hello && answers=yes || answers=no
  tell "published port" "answers: $answers"
fi

# Everything that digestfix may leave behind, one item per line.
{
  [ ! -d /var/lib/docker/digestfix ] || find /var/lib/docker/digestfix -mindepth 1 ! -name lock ! -name 'provenance-*.json' ! -name history ! -path '*/history/*.json'
  grep -s -L '"ended":"' /var/lib/docker/digestfix/history/*.json
  [ ! -d /var/lib/digestfix/pending ] || find /var/lib/digestfix/pending -mindepth 1
  find /run/systemd/system /etc/docker -name '*digestfix*'
  find $store -name '*digestfix*' | grep -v -E '/repositories\.json\.digestfix-[0-9A-Za-z]+-[0-9]+$'
  for backup in $store/repositories.json.digestfix-*; do
    [ ! -e "$backup" ] || jq -e .Repositories "$backup" >/dev/null 2>&1 || echo "$backup, torn"
  done
  systemctl list-units --all --plain --no-legend 'digestfix-watchdog-*' | awk '{ print $1, $3, $4 }'
  systemctl list-units --failed --plain --no-legend 'digestfix-*' | awk '{ print $1, $3, $4 }'
  pgrep -a -x digestfix
} 2>&1 | sort -u | while read -r left; do tell "left: $left" yes; done
