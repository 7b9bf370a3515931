//! Objects in JSON and YAML that contain a digest and a name: Helm's values, a
//! kustomization, `docker images --format json`, `docker buildx --metadata-file`, podman,
//! crictl, skopeo, the pods of a cluster.
//!
//! digestfix combines a name and a digest only if both are fields of the same object, not
//! of a nested object.

use crate::claims::row::{Row, is_bare_id, is_digest, pinned, without_scheme};
use crate::claims::source::Problem;
use crate::claims::source::collected::Collected;
use crate::image::reference::Reference;

/// The most values that digestfix keeps of one object.
const MOST_VALUES: usize = 200;

/// A field of an object that may contain information about an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// A repository, or a name with a tag.
    Repository,
    /// A repository, or a name with a tag. If the object describes a container, the name
    /// of the container's image.
    Image,
    /// A name of an image, or of something else.
    Name,
    /// The field `newName` in a Kustomize file, which replaces `name`.
    NewName,
    Registry,
    Tag,
    Digest,
    /// An image ID.
    Id,
    /// The field `imageID` in a pod's `containerStatuses`: an image ID, or a reference
    /// with a digest.
    ImageId,
    /// A list of references with digests, and of names with tags.
    Names,
    /// The name of a tag in a list of objects, as in Harbor's output.
    NestedTag,
    /// The name of a repository without its registry.
    Path,
    /// The names of an image that `docker buildx` built, separated by commas.
    Built,
    /// A field that no object of a whole image has. The field occurs in an entry of an
    /// index, or in an object that is not an image.
    Part,
}

impl Field {
    fn of(key: &str) -> Option<Self> {
        Some(match key {
            "repository" | "Repository" => Self::Repository,
            "image" | "Image" => Self::Image,
            "name" | "Name" => Self::Name,
            "newName" => Self::NewName,
            "registry" => Self::Registry,
            "tag" | "Tag" | "newTag" => Self::Tag,
            "digest" | "Digest" | "containerimage.digest" => Self::Digest,
            "id" | "Id" | "ID" | "image_id" | "ImageID" | "containerimage.config.digest" => {
                Self::Id
            }
            "imageID" | "Image ID" => Self::ImageId,
            "RepoDigests" | "repoDigests" | "RepoTags" | "repoTags" | "repo_digest" | "names"
            | "Names" => Self::Names,
            "repository_name" => Self::Path,
            "image.name" => Self::Built,
            "Platform" | "platform" | "mediaType" | "media_type" | "DiffID" => Self::Part,
            _ => return None,
        })
    }

    /// Whether to wait for the end of the object before using a reference in this field.
    /// Another field may contain the tag or the image ID. In Helm's values, a tag may
    /// contain a digest: `1.4@sha256:…` does not mean a repository "1.4".
    const fn waits(self) -> bool {
        matches!(self, Self::ImageId | Self::Names | Self::Name | Self::Tag)
    }
}

/// The values of one object. digestfix collects the values until the object ends.
#[derive(Debug, Default)]
struct Object {
    /// Whether the object is the value of a key `image`, or an element of a list
    /// `images`.
    of_images: bool,
    values: Vec<(Field, String, Option<usize>)>,
}

/// An object or list whose end digestfix has not reached yet. `key` is its key in the
/// outer object.
#[derive(Debug)]
struct Open {
    key: Option<String>,
    /// `None` for a list.
    object: Option<Object>,
    /// Whether this object or list is the value of a key `image` or `images`, or an
    /// element of such a list.
    of_images: bool,
}

/// Visits the objects of one JSON or YAML document.
pub(super) struct Objects<'a> {
    place: &'a str,
    collected: &'a mut Collected,
    open: Vec<Open>,
    unnamed: Vec<usize>,
    unplaced: usize,
}

impl<'a> Objects<'a> {
    pub(super) const fn new(place: &'a str, collected: &'a mut Collected) -> Self {
        Self {
            place,
            collected,
            open: Vec::new(),
            unnamed: Vec::new(),
            unplaced: 0,
        }
    }

    /// Begins an object. `key` is `None` if the new object is not a field of another
    /// object.
    pub(super) fn begin_object(&mut self, key: Option<&str>) {
        let of_images = self.is_of_images(key);
        self.begin(
            key,
            Some(Object {
                of_images,
                values: Vec::new(),
            }),
        );
    }

    pub(super) fn begin_list(&mut self, key: Option<&str>) {
        self.begin(key, None);
    }

    fn begin(&mut self, key: Option<&str>, object: Option<Object>) {
        let of_images = self.is_of_images(key);
        self.open.push(Open {
            key: key.map(str::to_owned),
            object,
            of_images,
        });
    }

    fn is_of_images(&self, key: Option<&str>) -> bool {
        match (key, self.open.last()) {
            (Some(key), _) => matches!(key, "image" | "images" | "Image" | "Images"),
            (None, Some(open)) => open.object.is_none() && open.of_images,
            (None, None) => false,
        }
    }

    /// Reads a text value. `key` is `None` if the value is not a field of an object.
    pub(super) fn text(
        &mut self,
        key: Option<&str>,
        value: &str,
        line: Option<usize>,
    ) -> Result<(), Problem> {
        let pin = pinned(without_scheme(value));
        let listed = self.open.last().is_some_and(|open| open.object.is_none());
        if listed && is_digest(value) && self.of_a_synced_repository(value, line)? {
            return Ok(());
        }
        let field = match listed {
            true => self.open.last().and_then(|open| open.key.as_deref()),
            false => key,
        };
        let field = field.and_then(Field::of);
        let object = match listed {
            true => self.open.iter_mut().rev().nth(1),
            false => self.open.last_mut(),
        };
        if let (Some(field), Some(object)) = (field, object.and_then(|open| open.object.as_mut()))
            && object.values.len() < MOST_VALUES
            && (pin.is_none() || field.waits())
            && (!listed || field == Field::Names)
        {
            object.values.push((field, value.to_owned(), line));
            return Ok(());
        }
        match pin {
            Some(pin) => self.pin(&pin, line),
            None => self.within(value, line),
        }
    }

    /// Reads a digest in a YAML file for `skopeo sync`, where a digest stands below a
    /// registry, the key `images`, and a repository. Returns false if the digest is in
    /// another place.
    fn of_a_synced_repository(
        &mut self,
        digest: &str,
        line: Option<usize>,
    ) -> Result<bool, Problem> {
        let mut keys = self.open.iter().rev().map(|open| open.key.as_deref());
        let (Some(path), Some("images"), Some(registry)) = (
            keys.next().flatten(),
            keys.next().flatten(),
            keys.next().flatten(),
        ) else {
            return Ok(false);
        };
        let name = format!("{registry}/{path}");
        let row = Row {
            name: &name,
            digest,
            ..Row::default()
        };
        self.collected.row(&row, self.place, line)
    }

    /// Reads a reference with a digest after `=`, for example in the argument
    /// `--image=NAME@DIGEST`.
    fn within(&mut self, value: &str, line: Option<usize>) -> Result<(), Problem> {
        if value.contains(char::is_whitespace) {
            return Ok(());
        }
        let option = value
            .rsplit_once('=')
            .map(|(_, value)| without_scheme(value));
        match option.and_then(pinned) {
            Some(pin) => self.pin(&pin, line),
            None => Ok(()),
        }
    }

    fn pin(&mut self, pin: &Reference, line: Option<usize>) -> Result<(), Problem> {
        let place = at(self.place, line);
        self.collected.pin(pin, &place)
    }

    /// Ends an object or a list.
    pub(super) fn end(&mut self) -> Result<(), Problem> {
        let Some(Open {
            object: Some(object),
            ..
        }) = self.open.pop()
        else {
            return Ok(());
        };
        if let [.., outer, list] = self.open.as_mut_slice()
            && list.object.is_none()
            && list.key.as_deref() == Some("tags")
            && let (Some(outer), Ok(Some(tag))) = (&mut outer.object, object.one(&[Field::Name]))
            && outer.values.len() < MOST_VALUES
        {
            outer.values.push((Field::NestedTag, tag.to_owned(), None));
        }
        self.object(&object)
    }

    /// Ends the document, and adds warnings about digests that digestfix could not use.
    pub(super) fn finish(self) {
        self.collected.unnamed(self.place, &self.unnamed);
        if self.unplaced > 0 {
            self.collected.remark(format!(
                "{}: for {} of the digests, the file gives a path but no registry; name the \
                 registry: --rewrite PATH=REGISTRY/PATH",
                self.place, self.unplaced
            ));
        }
    }

    fn object(&mut self, object: &Object) -> Result<(), Problem> {
        let line = object.values.iter().find_map(|(_, _, line)| *line);
        let is_part = object
            .values
            .iter()
            .any(|(field, ..)| *field == Field::Part);
        let names: Vec<Reference> = object
            .all(&[Field::Names, Field::ImageId, Field::Name])
            .filter_map(|text| Reference::parse(without_scheme(text)).ok())
            .collect();
        let (pins, tagged): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| name.digest().is_some());
        if !pins.is_empty() {
            // The object is one entry of an index. The entry does not show whether its
            // manifest is for this host.
            let of_platform = is_part
                && object
                    .all(&[Field::Name])
                    .any(|name| pinned(name).is_some());
            if of_platform {
                return Ok(());
            }
            return self.pins(object, &pins, tagged, line);
        }
        let Ok(digest) = object.one(&[Field::Digest]) else {
            self.lost(line);
            return Ok(());
        };
        let tag = object.one(&[Field::Tag]).ok().flatten();
        let in_tag = tag.and_then(|tag| Some(tag.split_once('@')?.1));
        let Some(digest) = in_tag.or(digest).filter(|text| is_digest(text)) else {
            self.unpinned(object, tag);
            return Ok(());
        };
        if let Some(path) = object.one(&[Field::Path]).ok().flatten() {
            let tag = object.one(&[Field::Tag, Field::NestedTag]).ok().flatten();
            return self.in_no_registry(path, tag, digest, line);
        }
        let id = object.id();
        let names = object.names(tag);
        let tag = tag.map(|tag| tag.split_once('@').map_or(tag, |(tag, _)| tag));
        if names.is_empty() && !is_part {
            self.lost(line);
        }
        for name in names {
            let row = Row {
                name: &name,
                tag: tag.unwrap_or_default(),
                digest,
                id,
            };
            if !self.collected.row(&row, self.place, line)? {
                self.lost(line);
            }
        }
        Ok(())
    }

    /// Adds the image name of an object that contains no digest.
    fn unpinned(&mut self, object: &Object, tag: Option<&str>) {
        match tag.filter(|tag| !tag.is_empty()) {
            Some(tag) => {
                for name in object.names(Some(tag)) {
                    self.collected.name(&format!("{name}:{tag}"));
                }
            }
            None => {
                for image in object.all(&[Field::Image]) {
                    self.collected.name(image);
                }
            }
        }
    }

    /// Reads those references of an object that have a digest, together with the object's
    /// image ID or tag.
    fn pins(
        &mut self,
        object: &Object,
        pins: &[Reference],
        mut tagged: Vec<Reference>,
        line: Option<usize>,
    ) -> Result<(), Problem> {
        let id = object.id();
        let is_digest_of = |pin: &Reference| {
            let digest = pin.digest().map(ToString::to_string).unwrap_or_default();
            !id.is_empty() && digest.contains(id)
        };
        // With the containerd image store, the "ID" is one of the digests, not an image
        // ID.
        let id = if pins.iter().any(is_digest_of) {
            ""
        } else {
            id
        };
        tagged.extend(
            object
                .all(&[Field::Repository, Field::Image])
                .filter_map(|text| Reference::parse(text).ok()),
        );
        for pin in pins {
            let mut tags = tagged
                .iter()
                .filter(|name| name.tag().is_some() && name.repository() == pin.repository());
            let tag = match (tags.next(), tags.next()) {
                (Some(only), None) if pins.len() == 1 => {
                    only.tag().map(|tag| tag.as_str().to_owned())
                }
                _ => None,
            };
            let row = Row {
                name: &pin.full(),
                tag: tag.as_deref().unwrap_or_default(),
                digest: "",
                id,
            };
            if !self.collected.row(&row, self.place, line)? {
                self.lost(line);
            }
        }
        Ok(())
    }

    /// Reads a digest from Harbor's output, where the name of a repository lacks the
    /// registry. If no `--rewrite` rule adds the registry, counts the digest, but does not
    /// claim it.
    fn in_no_registry(
        &mut self,
        path: &str,
        tag: Option<&str>,
        digest: &str,
        line: Option<usize>,
    ) -> Result<(), Problem> {
        let named = Reference::parse(path).map_err(|_| ());
        let known = named.is_ok_and(|named| self.collected.rewrites(named.repository()));
        if !known {
            self.unplaced += 1;
            return Ok(());
        }
        let row = Row {
            name: path,
            tag: tag.unwrap_or_default(),
            digest,
            ..Row::default()
        };
        if !self.collected.row(&row, self.place, line)? {
            self.lost(line);
        }
        Ok(())
    }

    fn lost(&mut self, line: Option<usize>) {
        self.unnamed.push(line.unwrap_or_default());
    }
}

impl Object {
    fn all(&self, fields: &[Field]) -> impl Iterator<Item = &str> {
        let values = self.values.iter();
        values
            .filter(move |(field, ..)| fields.contains(field))
            .map(|(_, value, _)| value.as_str())
    }

    /// The value of a field. Fails if the field has several different values.
    fn one(&self, fields: &[Field]) -> Result<Option<&str>, ()> {
        let mut values = self.all(fields);
        let first = values.next();
        match values.all(|value| Some(value) == first) {
            true => Ok(first),
            false => Err(()),
        }
    }

    /// The object's image ID. Empty if the object has no ID, or several IDs.
    fn id(&self) -> &str {
        let is_id = |text: &&str| is_bare_id(text.strip_prefix("sha256:").unwrap_or(text));
        let mut ids = self.all(&[Field::Id, Field::ImageId]).filter(is_id);
        let first = ids.next().unwrap_or_default();
        match ids.all(|id| id == first) {
            true => first,
            false => "",
        }
    }

    /// The image names that belong to the object's digest. Empty if it is not clear that
    /// the object's name is the name of an image.
    fn names(&self, tag: Option<&str>) -> Vec<String> {
        if let Ok(Some(built)) = self.one(&[Field::Built]) {
            return built
                .split(',')
                .map(|name| name.trim().to_owned())
                .collect();
        }
        let Ok(registry) = self.one(&[Field::Registry]) else {
            return Vec::new();
        };
        if let Ok(Some(name)) = self.one(&[Field::NewName]) {
            return vec![name.to_owned()];
        }
        if let Ok(Some(repository)) = self.one(&[Field::Repository, Field::Image]) {
            return vec![match registry.filter(|registry| !registry.is_empty()) {
                Some(registry) => format!("{}/{repository}", registry.trim_end_matches('/')),
                None => repository.to_owned(),
            }];
        }
        let Ok(Some(name)) = self.one(&[Field::Name]) else {
            return Vec::new();
        };
        let tells = Reference::parse(name).is_ok_and(|named| {
            let domain = named.repository().domain();
            let in_registry = domain.contains(['.', ':']) || domain == "localhost";
            let said = name.starts_with(domain) && name.contains('/');
            named.tag().is_some() || tag.is_some() || self.of_images || in_registry && said
        });
        match tells {
            true => vec![name.to_owned()],
            false => Vec::new(),
        }
    }
}

fn at(place: &str, line: Option<usize>) -> String {
    match line {
        Some(line) => format!("{place}:{line}"),
        None => place.to_owned(),
    }
}
