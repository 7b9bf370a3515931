# Writes to /src the kinds of files that people carry, about one image that has a digest:
# real/ is made by the tools themselves, written/ by hand in the format of tools that this
# machine does not have. Then loads the image from an archive of docker save, so that it
# has no digest any more.
set -eu
R=localhost:5000/lab
A=$R/app:v1
mkdir -p /src/real /src/written
systemctl start docker docker-registry
until curl -sf localhost:5000/v2/ >/dev/null; do sleep 0.1; done
cd /src/real

docker pull $A >docker-pull.txt
docker images --digests >images.txt
{ echo 'root@build:~# docker images --digests'; cat images.txt; } >images-with-prompt.txt
sed 's/$/\r/' images.txt >images-crlf.txt
docker images --digests --format '{{json .}}' >images.jsonl
docker images --digests --format 'table {{.Repository}}\t{{.Tag}}\t{{.Digest}}' >images-three-columns.txt
docker images --digests --format 'table {{.ID}}\t{{.Digest}}\t{{.Repository}}' >images-in-another-order.txt
docker images --digests --format '{{.Repository}}@{{.Digest}} {{.ID}}' >images-pin-and-id.txt
docker images --digests --format '{{.Repository}}:{{.Tag}}@{{.Digest}}' >images-pins.txt
docker images --digests --format '{{.Repository}}:{{.Tag}},{{.Digest}}' >images.csv
docker image inspect $A >inspect.json
docker image inspect -f '{{index .RepoDigests 0}}' $A >inspect-pin.txt
tar czf inspect.json.tgz inspect.json
cp /var/lib/docker/image/overlay2/repositories.json .
digestfix export >export.json
docker push $A >docker-push.txt
docker manifest inspect --insecure -v $A >manifest-inspect-v.json || rm manifest-inspect-v.json
D=$(cat /lab/app.digest) ID=$(cat /lab/app.id)

# Files of other tools, unless the test is about Docker alone.
if [ -z "${DOCKER_ALONE:-}" ]; then
skopeo inspect --tls-verify=false docker://$A >skopeo-inspect.json
skopeo inspect --raw --tls-verify=false docker://$A >skopeo-raw.json
mkdir sync
skopeo --insecure-policy sync --scoped --src-tls-verify=false --src docker --dest dir $A sync >/dev/null
tar cf skopeo-sync.tar sync
skopeo --insecure-policy copy -q --src-tls-verify=false docker://$A dir:dir
tar czf dir.tgz dir
cp -r /var/lib/docker-registry registry
tar czf registry.tgz registry
if docker buildx version >/dev/null 2>&1; then
  docker buildx imagetools inspect $A >imagetools.txt
fi
! command -v oras >/dev/null || oras manifest fetch --plain-http $A >oras-manifest.json
! command -v crane >/dev/null || crane digest --insecure --full-ref $A >crane-digest.txt
! command -v crane >/dev/null || crane manifest --insecure $A >crane-manifest.json
ctr -n lab images pull --plain-http $A >/dev/null
ctr -n lab images ls >ctr-images.txt
ctr -n lab images rm --sync $A >/dev/null

cd ../written
SHORT=$(echo "$ID" | cut -c8-19)
printf 'REPOSITORY  TAG  DIGEST  IMAGE ID  CREATED  SIZE\n%s/app  v1  %s  %s  2 days ago  1 MB\n' $R "$D" "$SHORT" >podman-images.txt
printf '[{"Id":"%s","Digest":"%s","Names":["%s"],"RepoTags":["%s"],"RepoDigests":["%s/app@%s"]}]' \
  "${ID#sha256:}" "$D" $A $A $R "$D" >podman-inspect.json
printf '{"images":[{"id":"%s","repoTags":["%s"],"repoDigests":["%s/app@%s"],"size":"1"}]}' "$ID" $A $R "$D" >crictl-images.json
printf 'REPOSITORY    TAG    DIGEST    IMAGE ID    CREATED    PLATFORM    SIZE\n%s/app    v1    %s    %s    1 day ago    linux/amd64    1 MiB\n' \
  $R "$D" "$(echo "$D" | cut -c8-19)" >nerdctl-images.txt
printf '{"status":{"containerStatuses":[{"image":"%s","imageID":"docker-pullable://%s/app@%s"}]},"kind":"Pod"}' $A $R "$D" >pods.json
printf '{"containerimage.config.digest":"%s","containerimage.digest":"%s","image.name":"%s"}' "$ID" "$D" $A >buildx-metadata.json
fi

docker rmi -f "$ID" >/dev/null
docker load -q -i /lab/app.tar >/dev/null
systemctl stop docker-registry
