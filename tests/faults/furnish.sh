# Sets up a machine as a host that has something to lose: containers in every state, a
# unit that stops along with Docker, a daemon.json of its own.
set -eu

# With cgroup v1, nspawn mounts the control groups read-only. Docker needs to write to
# them before its first container, also after a reboot.
cat >/usr/local/sbin/lab-cgroups <<'X'
#!/bin/sh
[ -e /sys/fs/cgroup/cgroup.controllers ] || for c in /sys/fs/cgroup/*; do
  mount -o remount,rw,bind "$c" 2>/dev/null || true
done
X
chmod +x /usr/local/sbin/lab-cgroups
cat >/etc/systemd/system/lab-cgroups.service <<'X'
[Unit]
# With default dependencies, this unit would start after all sockets, which makes a
# cycle with units that need docker.socket.
DefaultDependencies=no
Before=docker.service containerd.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/lab-cgroups
[Install]
WantedBy=multi-user.target
X
cat >/etc/systemd/system/lab-dependent.service <<'X'
[Unit]
BindsTo=docker.service
After=docker.service
[Service]
ExecStart=/bin/sleep infinity
[Install]
WantedBy=multi-user.target
X

case $1 in
  none) rm -f /etc/docker/daemon.json ;;
  file)
    printf '{\n  "max-concurrent-downloads": 5,\n  "debug": false\n}\n' >/etc/docker/daemon.json
    chmod 640 /etc/docker/daemon.json
    chown root:daemon /etc/docker/daemon.json
    ;;
  containerd)
    printf '{"features": {"containerd-snapshotter": true}}' >/etc/docker/daemon.json
    ;;
  link)
    printf '{"debug": false}' >/etc/docker/lab.json
    ln -s lab.json /etc/docker/daemon.json
    ;;
esac
[ "$1" = none ] || touch -d '2020-02-02 02:02:02.123456789' /etc/docker/daemon.json

systemctl daemon-reload
systemctl enable -q --now lab-cgroups.service
systemctl restart docker.service
systemctl enable -q --now lab-dependent.service

docker load -q -i /lab/app.tar >/dev/null
app=localhost:5000/lab/app:v1
docker run -d --name plain $app /bin/busybox sleep 1000000 >/dev/null
docker run -d --name frozen --restart always $app /bin/busybox sleep 1000000 >/dev/null
docker run -d --name down --restart always $app /bin/busybox sleep 1000000 >/dev/null
docker run -d --name web -p 8080:80 $app /bin/busybox httpd -f -p 80 -h / >/dev/null
docker pause frozen >/dev/null
docker kill down >/dev/null
