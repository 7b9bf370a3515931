//! Client for one namespace of a containerd.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::containerd::grpc::Channel;
use crate::containerd::messages::{
    Blobs, CriImages, CriVersion, Delete, Descriptor, Empty, Image, ImageSpec, ImageStatus,
    ImageStatusAnswer, Images, Name, Namespaces, OneImage, Part, Read, Version,
};
use crate::containerd::{ContainerdError, CriImage, Node, Record, Target};
use crate::image::digest::{Digest, ImageId};
use crate::image::manifest;

const LIST: &str = "/containerd.services.images.v1.Images/List";
const GET: &str = "/containerd.services.images.v1.Images/Get";
const CREATE: &str = "/containerd.services.images.v1.Images/Create";
const DELETE: &str = "/containerd.services.images.v1.Images/Delete";
const BLOBS: &str = "/containerd.services.content.v1.Content/List";
const READ: &str = "/containerd.services.content.v1.Content/Read";
const NAMESPACES: &str = "/containerd.services.namespaces.v1.Namespaces/List";
const VERSION: &str = "/containerd.services.version.v1.Version/Version";
const CRI_VERSION: &str = "/runtime.v1.RuntimeService/Version";
const CRI_LIST: &str = "/runtime.v1.ImageService/ListImages";
const CRI_STATUS: &str = "/runtime.v1.ImageService/ImageStatus";

/// gRPC's codes (`codes.go`).
const NOT_FOUND: u32 = 5;
const ALREADY_EXISTS: u32 = 6;

#[derive(Debug)]
pub struct Client {
    channel: Channel,
    namespace: String,
}

impl Client {
    /// Creates a client for this socket. The client connects at its first call. `within`
    /// is the timeout of each call.
    pub fn new(socket: &Path, namespace: &str, within: Duration) -> Self {
        Self {
            channel: Channel::new(socket, within),
            namespace: namespace.to_owned(),
        }
    }

    /// containerd's version.
    pub async fn version(&self) -> Result<String, ContainerdError> {
        let told: Version = self.channel.call_one(VERSION, None, &Empty {}).await?;
        Ok(told.version)
    }

    /// The name and the version of the CRI's runtime.
    pub async fn cri_version(&self) -> Result<(String, String), ContainerdError> {
        let told: CriVersion = self.channel.call_one(CRI_VERSION, None, &Empty {}).await?;
        Ok((told.runtime, told.version))
    }

    pub async fn has_namespace(&self) -> Result<bool, ContainerdError> {
        let told: Namespaces = self.channel.call_one(NAMESPACES, None, &Empty {}).await?;
        let mut names = told.namespaces.iter();
        Ok(names.any(|one| one.name == self.namespace))
    }

    /// The digests of all blobs in the namespace.
    pub async fn blobs(&self) -> Result<BTreeSet<Digest>, ContainerdError> {
        let messages: Vec<Blobs> = self.call(BLOBS, &Empty {}).await?;
        let blobs = messages.into_iter().flat_map(|message| message.blobs);
        blobs.map(|blob| self.digest(BLOBS, &blob.digest)).collect()
    }

    async fn call<A: prost::Message + Default>(
        &self,
        call: &'static str,
        request: &impl prost::Message,
    ) -> Result<Vec<A>, ContainerdError> {
        self.channel
            .call(call, Some(&self.namespace), request)
            .await
    }

    async fn call_one<A: prost::Message + Default>(
        &self,
        call: &'static str,
        request: &impl prost::Message,
    ) -> Result<A, ContainerdError> {
        let namespace = Some(self.namespace.as_str());
        self.channel.call_one(call, namespace, request).await
    }

    fn digest(&self, call: &'static str, text: &str) -> Result<Digest, ContainerdError> {
        let parsed = text.parse::<Digest>();
        parsed.map_err(|error| self.channel.unusable(call, format!("{text:?}: {error}")))
    }

    fn image_id(&self, call: &'static str, text: &str) -> Result<ImageId, ContainerdError> {
        let no_id = |_| {
            self.channel
                .unusable(call, format!("{text:?} is not an image ID"))
        };
        text.parse().map_err(no_id)
    }

    fn read_record(&self, call: &'static str, image: Image) -> Result<Record, ContainerdError> {
        let Some(target) = image.target else {
            let problem = format!("{:?} points at nothing", image.name);
            return Err(self.channel.unusable(call, problem));
        };
        Ok(Record {
            name: image.name,
            target: Target {
                digest: self.digest(call, &target.digest)?,
                media_type: target.media_type,
                size: target.size,
                annotations: target.annotations,
            },
            labels: image.labels,
        })
    }
}

impl From<&Target> for Descriptor {
    fn from(target: &Target) -> Self {
        Self {
            media_type: target.media_type.clone(),
            digest: target.digest.to_string(),
            size: target.size,
            annotations: target.annotations.clone(),
        }
    }
}

/// Returns `None` if containerd answers that the object does not exist.
fn if_found<T>(answer: Result<T, ContainerdError>) -> Result<Option<T>, ContainerdError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ContainerdError::Refused {
            code: NOT_FOUND, ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Node for Client {
    async fn records(&self) -> Result<Vec<Record>, ContainerdError> {
        let list: Images = self.call_one(LIST, &Empty {}).await?;
        let images = list.images.into_iter();
        images.map(|image| self.read_record(LIST, image)).collect()
    }

    async fn record(&self, name: &str) -> Result<Option<Record>, ContainerdError> {
        let name = Name {
            name: name.to_owned(),
        };
        let answer: Option<OneImage> = if_found(self.call_one(GET, &name).await)?;
        let image = answer.and_then(|answer| answer.image);
        image.map(|image| self.read_record(GET, image)).transpose()
    }

    async fn create(&self, record: &Record) -> Result<bool, ContainerdError> {
        let request = OneImage {
            image: Some(Image {
                name: record.name.clone(),
                labels: record.labels.clone(),
                target: Some((&record.target).into()),
            }),
        };
        match self.call_one::<OneImage>(CREATE, &request).await {
            Ok(_) => Ok(true),
            Err(ContainerdError::Refused {
                code: ALREADY_EXISTS,
                ..
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn remove(&self, record: &Record) -> Result<(), ContainerdError> {
        let request = Delete {
            name: record.name.clone(),
            target: Some((&record.target).into()),
        };
        if_found(self.call_one::<Empty>(DELETE, &request).await)?;
        Ok(())
    }

    async fn cri_images(&self) -> Result<Vec<CriImage>, ContainerdError> {
        let list: CriImages = self.call_one(CRI_LIST, &Empty {}).await?;
        let images = list.images.into_iter().map(|image| {
            Ok(CriImage {
                id: self.image_id(CRI_LIST, &image.id)?,
                names: [image.tags, image.digests].concat(),
            })
        });
        images.collect()
    }

    async fn cri_image(&self, reference: &str) -> Result<Option<ImageId>, ContainerdError> {
        let request = ImageStatus {
            image: Some(ImageSpec {
                image: reference.to_owned(),
            }),
        };
        let answer: Option<ImageStatusAnswer> =
            if_found(self.call_one(CRI_STATUS, &request).await)?;
        let image = answer.and_then(|answer| answer.image);
        image
            .map(|image| self.image_id(CRI_STATUS, &image.id))
            .transpose()
    }

    async fn manifest(&self, digest: &Digest) -> Result<Option<String>, ContainerdError> {
        // Read at most one byte more than the maximum size of a manifest. If the blob is
        // larger, its beginning does not match the digest.
        let most = manifest::MAX_BYTES + 1;
        let request = Read {
            digest: digest.to_string(),
            size: i64::try_from(most).unwrap_or(i64::MAX),
        };
        let parts: Option<Vec<Part>> = if_found(self.call(READ, &request).await)?;
        let bytes: Vec<u8> = parts
            .into_iter()
            .flatten()
            .flat_map(|part| part.data)
            .collect();
        let text = String::from_utf8(bytes).ok();
        Ok(text.filter(|text| Digest::of(digest.algorithm(), text.as_bytes()) == *digest))
    }
}
