# Makes every kind of source in /src, each with its own tool. Then loads the images from
# an archive of docker save, so that they have no digests any more.
set -eu
R=localhost:5000/lab
copy() { skopeo --insecure-policy copy -q --src-tls-verify=false --dest-tls-verify=false "$@"; }
raw() { skopeo inspect --raw --tls-verify=false "docker://$1"; }
digest() { echo "sha256:$(sha256sum "$1" | cut -d' ' -f1)"; }
mkdir -p /src/ctx
cd /src

systemctl start docker docker-registry
until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.1; done

# An image in the OCI format, and an image for two platforms. lab/app is in Docker's
# format.
copy --format oci docker://$R/app:v1 docker://$R/oci:v1
copy docker://$R/other:v1 docker://$R/multi:amd64
copy --format oci docker://$R/other:v1 docker://$R/multi:arm64
raw $R/multi:amd64 >amd64.json
raw $R/multi:arm64 >arm64.json
list=application/vnd.docker.distribution.manifest.list.v2+json
platform() {
  printf '{"mediaType":%s,"size":%s,"digest":"%s","platform":{"architecture":"%s","os":"linux"}}' \
    "$(jq .mediaType "$1.json")" "$(stat -c %s "$1.json")" "$(digest "$1.json")" "$1"
}
printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s,%s]}' \
  $list "$(platform amd64)" "$(platform arm64)" >list.json
curl -sf -X PUT -H "Content-Type: $list" --data-binary @list.json \
  http://localhost:5000/v2/lab/multi/manifests/v1

# The output of each tool.
copy docker://$R/app:v1 dir:app.dir
copy --all docker://$R/multi:v1 dir:multi.dir
copy docker://$R/oci:v1 oci-archive:oci.tar:v1
gzip -k oci.tar
zstd -q oci.tar
copy docker://$R/oci:v1 oci:oci.layout:v1
copy docker://$R/multi:amd64 oci-archive:converted.tar:v1
raw $R/app:v1 >app.json
{ raw $R/multi:v1; raw $R/multi:amd64; } >index-and-manifest.json
! command -v oras >/dev/null || oras cp --from-plain-http --to-oci-layout $R/oci:v1 oras.layout:v1 >/dev/null
! command -v oras >/dev/null || oras manifest fetch --plain-http $R/oci:v1 >oras.json
! command -v crane >/dev/null || crane pull --insecure --format=oci $R/oci:v1 crane.layout
! command -v crane >/dev/null || crane manifest --insecure $R/oci:v1 >crane.json
for name in app oci multi; do docker pull -q $R/$name:v1; done
docker image inspect $(docker images -q) >inspect.json
docker images --digests >images.txt
cp /var/lib/docker/image/overlay2/repositories.json other-hosts.json
digestfix export >export.json
docker save -o carried.tar $R/app:v1 $R/oci:v1 $R/multi:v1
digest app.json >app.digest
raw $R/oci:v1 >oci.json
digest oci.json >oci.digest
digest list.json >list.digest
digest amd64.json >amd64.digest

# The containerd image store, and BuildKit's OCI exporter, which needs that store.
if docker buildx version >/dev/null 2>&1; then
  docker buildx imagetools inspect --raw $R/multi:v1 >imagetools.json
  cat amd64.json >>imagetools.json
  mkdir -p /etc/docker
  echo '{"features":{"containerd-snapshotter":true}}' >/etc/docker/daemon.json
  systemctl restart docker
  for name in app oci multi; do docker pull -q $R/$name:v1; done
  digestfix export >containerd-export.json
  digestfix export $R/multi >containerd-export-of-one.json
  docker save -o containerd.tar $R/app:v1 $R/oci:v1 $R/multi:v1
  docker image inspect $R/app:v1 $R/oci:v1 >containerd-inspect.json
  cp /lab/build/busybox ctx/
  printf 'FROM scratch\nCOPY busybox /bin/busybox\nCMD ["/bin/busybox","echo","built"]\n' >ctx/Dockerfile
  docker buildx build -q -o type=oci,dest=/src/buildx.tar -t $R/built:v1 ctx
  tar xOf buildx.tar index.json | jq -r '.manifests[0].digest' >built.digest
  rm /etc/docker/daemon.json
  systemctl reset-failed docker.service docker.socket
  systemctl restart docker
fi

# Files that people write by hand.
app=$R/app:v1@$(cat app.digest)
oci=$R/oci:v1@$(cat oci.digest)
printf '# images\n%s\n%s\n' "$app" "$oci" >pins.txt
printf 'services:\n  a:\n    image: %s\n  b:\n    image: %s\n' "$app" "$oci" >compose.yaml
printf 'kind: Pod\nspec:\n  containers: [{image: "%s"}]\n---\nkind: Deployment\nspec: {template: {spec: {initContainers: [{image: %s}]}}}\n' \
  "$app" "$oci" >chart.yaml
printf 'FROM %s AS one\nFROM %s\nCOPY --from=one /hello /\n' "$app" "$oci" >Dockerfile
printf '{"digestfix_claims":1,"claims":[{"reference":"%s"},{"reference":"%s"}]}' "$app" "$oci" >claims.json

# Sources that were changed on the way, or that are about another image.
mkdir tampered
tar xf oci.tar -C tampered
manifest=tampered/blobs/sha256/$(cut -d: -f2 oci.digest)
config=tampered/blobs/sha256/$(jq -r .config.digest oci.json | cut -d: -f2)
cp "$config" config
jq . config >"$config"
tar cf swapped-config.tar -C tampered .
cp config "$config"
jq . oci.json >"$manifest"
digest "$manifest" >tampered.digest
tar cf tampered.tar -C tampered .
printf '%s:v1@%s\n' $R/app "$(cat amd64.digest)" >of-another.txt
printf 'image: %s:v1@%s\n' $R/app "$(cat list.digest)" >contradicts.yaml

docker rmi -f $(docker images -aq) >/dev/null
docker load -q -i carried.tar
[ ! -e buildx.tar ] || skopeo --insecure-policy copy -q oci-archive:buildx.tar docker-daemon:$R/built:v1
systemctl stop docker-registry
