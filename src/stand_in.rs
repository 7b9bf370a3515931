//! A registry that stands in for others on this host's loopback, for as long as
//! it takes the running Docker to record digests itself.
//!
//! Docker records a digest when it pulls. Where the image's config is here
//! already, it asks the registry for nothing but the manifest, checks its hash,
//! and records the reference (moby `distribution/pull_v2.go`). So whoever has
//! the manifest can have that done without a network, and without a restart:
//! it is served by digestfix, and Docker is led there.
//!
//! Which way it is led depends on the name. Docker asks over plain HTTP wherever
//! a name's address is in 127.0.0.0/8 (moby `registry/config.go`,
//! `isSecureIndex`); images of docker.io it looks for on mirrors first.
//!
//! All of this is for what is proven and new. What is removed, replaced or
//! merely claimed is changed in the file, and so is all that [`Hindrance`]
//! names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use crate::container::Container;
use crate::digest::{Digest, ImageId};
use crate::engine::{Info, Proxies, References};
use crate::evidence::Evidence;
use crate::host::{Managed, asks_for_authorization, mirrors};
use crate::live_restore;
use crate::manifest::{self, Manifest};
use crate::plan::Plan;
use crate::platform::Platform;
use crate::reference::{Reference, Repository};
use crate::store::Store;
use crate::trust::Trust;

mod dns;
mod hindrance;
pub mod hosts;
pub mod listening;
pub mod names;
pub mod outside;
mod platform;
pub mod server;

pub use hindrance::Hindrance;

use listening::takes;
use names::{Names, Whereabouts};

/// Where registries answer whose name says no port: over HTTPS first, and then
/// over plain HTTP.
const DEFAULT_PORTS: [u16; 2] = [443, 80];

/// What Docker is to pull, and from where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Errand {
    /// What is served, by its digest.
    pub manifests: BTreeMap<Digest, Served>,
    /// What Docker is to record, each for which image.
    pub references: Vec<(Reference, ImageId)>,
    registries: BTreeSet<Registry>,
}

/// What is served under a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Its media type.
    pub media_type: &'static str,
    /// Its text.
    pub text: Arc<str>,
}

/// A registry that is stood in for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Registry {
    DockerHub,
    At { host: String, port: Option<u16> },
}

/// How Docker is led to what is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Route {
    /// Where there is to be an answer.
    pub listen: BTreeSet<SocketAddr>,
    /// docker.io gets a mirror.
    pub mirror: bool,
    /// The names that get the address of this host's loopback.
    pub names: Vec<String>,
}

impl Errand {
    /// What a plan comes to, of the store that it was made of.
    ///
    /// # Errors
    /// The first [`Hindrance`] that the plan itself has.
    pub fn new(plan: &Plan, before: &Store, evidence: &Evidence) -> Result<Self, Hindrance> {
        if plan.is_empty() {
            return Err(Hindrance::Unread);
        }
        let mut errand = Self::default();
        for change in &plan.changes {
            let reference = &change.reference;
            let name = reference.familiar();
            let (None, Some(image)) = (&change.from, &change.to) else {
                return Err(Hindrance::Displaced(name));
            };
            let (None, Some(digest)) = (reference.tag(), reference.digest()) else {
                return Err(Hindrance::Tag(name));
            };
            let trust = plan
                .basis(reference)
                .map_or(Trust::Asserted, |basis| basis.trust);
            if trust < Trust::Proven {
                return Err(Hindrance::NotProven {
                    reference: name,
                    trust,
                });
            }
            let Some(way) = evidence.way(digest, image) else {
                return Err(Hindrance::NotKept(name));
            };
            for (digest, text) in way {
                let Some(manifest) = evidence.manifest(&digest) else {
                    return Err(Hindrance::NotKept(name));
                };
                let media_type = manifest::media_type(text.as_bytes(), manifest);
                errand.manifests.insert(digest, Served { media_type, text });
            }
            errand
                .registries
                .insert(Registry::of(reference.repository()));
            errand.references.push((reference.clone(), image.clone()));
        }
        let wanted = errand.references.iter();
        let mut nameless: BTreeSet<String> = wanted.map(|(_, image)| image.to_string()).collect();
        for entry in before.entries() {
            if nameless.contains(entry.value) && entry.meaning().is_ok() {
                nameless.remove(entry.value);
            }
        }
        let mut wanted = errand.references.iter();
        match wanted.find(|(_, image)| nameless.contains(&image.to_string())) {
            Some((reference, _)) => Err(Hindrance::OnlyReference(reference.familiar())),
            None => Ok(errand),
        }
    }

    /// The engine's platform matters to what Docker will take.
    #[must_use]
    pub fn has_indexes(&self) -> bool {
        let mut types = self.manifests.values().map(|served| served.media_type);
        types.any(manifest::is_index)
    }

    /// Docker comes to each image by nothing but what is served.
    ///
    /// # Errors
    /// [`Hindrance::OtherPlatform`] when that is not certain.
    pub fn suits(&self, platform: &Platform) -> Result<(), Hindrance> {
        for (reference, image) in &self.references {
            if self.taken(reference.digest(), platform).as_ref() != Some(image) {
                return Err(Hindrance::OtherPlatform {
                    reference: reference.familiar(),
                    platform: platform.clone(),
                });
            }
        }
        Ok(())
    }

    fn taken(&self, digest: Option<&Digest>, platform: &Platform) -> Option<ImageId> {
        let mut served = self.manifests.get(digest?)?;
        // Docker takes no index out of an index (moby `distribution/pull_v2.go`,
        // `pullManifestList`).
        for _ in 0..2 {
            match Manifest::parse(served.text.as_bytes()).ok()? {
                Manifest::Image(manifest) => return Some(manifest.image),
                Manifest::Index(_) => {
                    let digest = platform::taken(&served.text, platform)?;
                    served = self.manifests.get(&digest)?;
                }
                Manifest::Artifact => return None,
            }
        }
        None
    }

    /// How Docker is led on this host.
    ///
    /// # Errors
    /// The first [`Hindrance`] that the host has.
    pub async fn route(&self, host: &Managed, names: &impl Names) -> Result<Route, Hindrance> {
        let engine = host.engine.as_ref().ok_or(Hindrance::NotRunning)?;
        let mut route = Route::default();
        let known = self.look_up(&engine.proxies, names).await;
        for registry in &self.registries {
            match registry {
                Registry::DockerHub => {
                    mirror_is_possible(host, engine)?;
                    route.mirror = true;
                }
                Registry::At { host, port } => {
                    let addresses = route.lead(host, &known, &engine.proxies)?;
                    let ports = port.map_or(DEFAULT_PORTS.to_vec(), |port| vec![port]);
                    for address in addresses {
                        let sockets = ports.iter().map(|port| SocketAddr::new(address, *port));
                        route.listen.extend(sockets);
                    }
                }
            }
        }
        if !route.names.is_empty() {
            names.can_be_added().map_err(Hindrance::Hosts)?;
        }
        Ok(route)
    }
}

impl Errand {
    /// Where the names lead that have to be looked up: all of them at once.
    async fn look_up(
        &self,
        proxies: &Proxies,
        names: &impl Names,
    ) -> BTreeMap<String, io::Result<Whereabouts>> {
        let hosts = self
            .registries
            .iter()
            .filter_map(|registry| match registry {
                Registry::At { host, .. } if is_looked_up(host, proxies) => Some(host.as_str()),
                _ => None,
            });
        let hosts: Vec<&str> = hosts.collect::<BTreeSet<_>>().into_iter().collect();
        if hosts.is_empty() {
            return BTreeMap::new();
        }
        let found = names.whereabouts(&hosts).await;
        let hosts = hosts.into_iter().map(str::to_owned);
        hosts.zip(found).collect()
    }
}

/// Docker looks for its address, and neither it nor a proxy knows it without.
fn is_looked_up(host: &str, proxies: &Proxies) -> bool {
    let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    host != "localhost" && !is_address && proxy(proxies, host).is_none()
}

impl Registry {
    fn of(repository: &Repository) -> Self {
        let domain = repository.domain();
        if domain == "docker.io" || domain.is_empty() {
            return Self::DockerHub;
        }
        let (host, port) = match domain.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (domain, None),
        };
        Self::At {
            host: host.to_owned(),
            port,
        }
    }
}

impl Route {
    /// What is other than it was for as long as it takes, for people.
    #[must_use]
    pub fn touches(&self) -> Vec<String> {
        let mut touched = Vec::new();
        if self.mirror {
            touched.push(
                "daemon.json has one more of registry-mirrors, and Docker reads all of it again"
                    .to_owned(),
            );
        }
        if !self.names.is_empty() {
            let names = self.names.join(", ");
            touched.push(format!("/etc/hosts has this host's loopback for {names}"));
        }
        if !self.listen.is_empty() {
            let sockets: Vec<String> = self.listen.iter().map(ToString::to_string).collect();
            touched.push(format!("{} is answered on", sockets.join(", ")));
        }
        touched
    }

    /// Nobody listens yet where there is to be an answer, as far as can be seen.
    ///
    /// # Errors
    /// [`Hindrance::Taken`] when somebody does.
    pub fn is_free(&self, listening: &[SocketAddr]) -> Result<(), Hindrance> {
        let is_taken = |address: &&SocketAddr| listening.iter().any(|one| takes(*one, **address));
        match self.listen.iter().find(is_taken) {
            Some(address) => Err(Hindrance::Taken {
                address: *address,
                error: io::ErrorKind::AddrInUse.into(),
            }),
            None => Ok(()),
        }
    }

    /// None of these containers, which Docker is about to start again, is to have a
    /// port that is answered on.
    ///
    /// # Errors
    /// [`Hindrance::Restarts`].
    pub fn is_nobodys(&self, restarting: &[Container]) -> Result<(), Hindrance> {
        let ports: BTreeSet<u16> = self.listen.iter().map(SocketAddr::port).collect();
        for container in restarting {
            let mut published = container.published.iter();
            if let Some(wanted) = published.find(|one| ports.contains(&one.port)) {
                return Err(Hindrance::Restarts {
                    container: container.name.clone(),
                    port: wanted.port,
                });
            }
        }
        Ok(())
    }

    /// Docker is led to an image's registry by `/etc/hosts`.
    #[must_use]
    pub fn leads_by_hosts(&self, repository: &Repository) -> bool {
        match Registry::of(repository) {
            Registry::At { host, .. } => self.names.contains(&host),
            Registry::DockerHub => false,
        }
    }

    /// The addresses that Docker will ask for a host.
    fn lead(
        &mut self,
        host: &str,
        known: &BTreeMap<String, io::Result<Whereabouts>>,
        proxies: &Proxies,
    ) -> Result<Vec<IpAddr>, Hindrance> {
        // Go asks no proxy for these two (golang.org/x/net `http/httpproxy`).
        if host == "localhost" {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if let Ok(address) = host.parse::<Ipv4Addr>() {
            return match address.is_loopback() {
                true => Ok(vec![address.into()]),
                false => Err(Hindrance::Address(host.to_owned())),
            };
        }
        if host.starts_with('[') {
            // Before Docker 28, ::1 is an address like any other.
            return Err(Hindrance::Address(host.to_owned()));
        }
        if let Some(proxy) = proxy(proxies, host) {
            return Err(Hindrance::Proxy {
                name: host.to_owned(),
                proxy: proxy.to_owned(),
            });
        }
        let name = host.to_owned();
        match known.get(host) {
            Some(Ok(Whereabouts::Nowhere)) => {
                // It may have been there with another port.
                if !self.names.contains(&name) {
                    self.names.push(name);
                }
                Ok(vec![Ipv4Addr::LOCALHOST.into()])
            }
            Some(Ok(Whereabouts::Addresses(addresses))) => {
                let elsewhere = addresses.iter().find(|address| !is_trusted(address));
                match elsewhere.copied() {
                    Some(address) => Err(Hindrance::Resolves { name, address }),
                    None => Ok(addresses.clone()),
                }
            }
            Some(Err(error)) => Err(Hindrance::Unknown {
                name,
                error: io::Error::new(error.kind(), error.to_string()),
            }),
            None => Err(Hindrance::Unknown {
                name,
                error: io::ErrorKind::NotFound.into(),
            }),
        }
    }
}

fn is_trusted(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_loopback())
}

/// The engine lists all that its file says, as far as `is_here` has its images:
/// otherwise somebody has edited the file, and the engine would write over that.
#[must_use]
pub fn has_read(listed: &References, file: &Store, is_here: impl Fn(&ImageId) -> bool) -> bool {
    let unlisted = file
        .entries()
        .filter(|entry| listed.get(entry.key).map(String::as_str) != Some(entry.value));
    let mut meant = unlisted.filter_map(|entry| entry.meaning().ok());
    !meant.any(|(_, image)| is_here(&image))
}

/// The proxy that Go asks for a host, by the rules that matter here: a name in
/// `NO_PROXY`, or the end of one, is not asked for; `*` stands for all.
fn proxy<'a>(proxies: &'a Proxies, host: &str) -> Option<&'a str> {
    let proxy = [&proxies.https, &proxies.http]
        .into_iter()
        .find(|proxy| !proxy.is_empty())?;
    let host = host.to_ascii_lowercase();
    let spared = proxies.none.split(',').any(|entry| {
        let entry = entry.trim().to_ascii_lowercase();
        let name = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*"
            || !name.is_empty()
                && (host.strip_suffix(name)).is_some_and(|rest| {
                    rest.ends_with('.') || rest.is_empty() && !entry.starts_with(['.', '*'])
                })
    });
    (!spared).then_some(proxy)
}

fn mirror_is_possible(host: &Managed, engine: &Info) -> Result<(), Hindrance> {
    if host.has_mirror_flag {
        return Err(Hindrance::MirrorFlag(host.unit.id.clone()));
    }
    let forgotten = [&*host.undone_by_reload, &*host.forgotten_by_reload].concat();
    if !forgotten.is_empty() {
        return Err(Hindrance::Forgets(forgotten.join(", ")));
    }
    if let Some(hindrance) = live_restore::reload_hindrance(host, engine) {
        return Err(Hindrance::DaemonJson(hindrance));
    }
    // What cannot be read, the transaction tells of.
    let file = fs::read(&host.config_file).ok();
    reload_changes_no_more(&host.config_file, file.as_deref(), engine)
}

/// Of what Docker may read along with a mirror, nothing does harm.
fn reload_changes_no_more(
    path: &Path,
    file: Option<&[u8]>,
    engine: &Info,
) -> Result<(), Hindrance> {
    let bare = |mirrors: &[String]| -> Vec<String> {
        let mirrors = mirrors.iter().map(|mirror| mirror.trim_end_matches('/'));
        mirrors.map(str::to_owned).collect()
    };
    if bare(&mirrors(file)) != bare(&engine.mirrors) {
        return Err(Hindrance::OtherMirrors(path.to_owned()));
    }
    if asks_for_authorization(file) {
        return Err(Hindrance::Authorization(path.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
