//! gRPC messages, with only the fields that digestfix uses. The definitions are in
//! containerd 1.6 to 2.1 (`api/services/{images,content,namespaces,version}/v1` and
//! `api/types`) and in Kubernetes (`cri-api/pkg/apis/runtime/v1/api.proto`). Decoding
//! skips all other fields.

use std::collections::BTreeMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Descriptor {
    #[prost(string, tag = "1")]
    pub media_type: String,
    #[prost(string, tag = "2")]
    pub digest: String,
    #[prost(int64, tag = "3")]
    pub size: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Image {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub target: Option<Descriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Images {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<Image>,
}

/// The request to create an image record. The answers to a create request and to a get
/// request have the same form.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OneImage {
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Name {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Delete {
    #[prost(string, tag = "1")]
    pub name: String,
    /// containerd 2.0 and later delete the record only if it points at this target.
    #[prost(message, optional, tag = "3")]
    pub target: Option<Descriptor>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Blob {
    #[prost(string, tag = "1")]
    pub digest: String,
}

/// A list of blobs in a namespace. containerd splits a long list into several messages.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Blobs {
    #[prost(message, repeated, tag = "1")]
    pub blobs: Vec<Blob>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Read {
    #[prost(string, tag = "1")]
    pub digest: String,
    #[prost(int64, tag = "3")]
    pub size: i64,
}

/// A part of a blob.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Part {
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Namespaces {
    #[prost(message, repeated, tag = "1")]
    pub namespaces: Vec<Name>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Version {
    #[prost(string, tag = "1")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageStatus {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CriImage {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, repeated, tag = "2")]
    pub tags: Vec<String>,
    #[prost(string, repeated, tag = "3")]
    pub digests: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ImageStatusAnswer {
    #[prost(message, optional, tag = "1")]
    pub image: Option<CriImage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CriImages {
    #[prost(message, repeated, tag = "1")]
    pub images: Vec<CriImage>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CriVersion {
    #[prost(string, tag = "2")]
    pub runtime: String,
    #[prost(string, tag = "3")]
    pub version: String,
}
