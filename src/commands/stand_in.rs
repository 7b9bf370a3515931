//! Whether the running Docker can be had to make a change itself, with a
//! registry that stands in.

use std::path::Path;

use crate::commands::change::Wish;
use crate::commands::{Draft, Site, Stop, engine_at};
use crate::engine::Engine;
use crate::engine::images::Images as _;
use crate::image_db::ImageDb;
use crate::images::Images;
use crate::method::{Choice, Method};
use crate::report::Report;
use crate::stand_in::listening::listening;
use crate::stand_in::names::{HostNames, OtherNetwork, shares_network_with};
use crate::stand_in::server::Listeners;
use crate::stand_in::{Errand, Hindrance, Route, has_read};
use crate::transaction::stand_in::StandIn;

/// What Docker is to be asked for, and how it is led there. All that it takes is
/// had, and nobody is answered yet.
pub(super) struct Way {
    errand: Errand,
    route: Route,
    listeners: Listeners,
}

/// What a change comes to for the running Docker, as far as the change itself
/// tells: none where it is made by a restart. Nobody is asked anything.
///
/// # Errors
/// When it was to be nothing but that, and cannot be.
pub(super) fn errand(
    choice: Choice,
    wish: &Wish<'_>,
    site: &Site,
    draft: &Draft,
) -> Result<Result<Errand, Option<Hindrance>>, Stop> {
    let found = match (choice, wish, site.managed()) {
        (Choice::Restart | Choice::AfterOnline, ..) => return Ok(Err(None)),
        // Nothing runs that would be stopped either.
        (Choice::Auto, _, None) => return Ok(Err(None)),
        (_, _, None) => Err(Hindrance::NotRunning),
        (_, Wish::Rollback(_), _) => Err(Hindrance::TakesBack),
        (_, Wish::Claims(request), Some(_)) => {
            Errand::new(&draft.plan, &draft.before.store, &request.evidence)
        }
    };
    match found {
        Ok(errand) => Ok(Ok(errand)),
        Err(hindrance) if choice == Choice::Online => Err(Stop::NotOnline(hindrance)),
        Err(hindrance) => Ok(Err(Some(hindrance))),
    }
}

/// The same with all that the host has to say, and says which method it is and
/// why. Where Docker is to be led is answered from now on, once it is asked.
///
/// # Errors
/// As [`errand`].
pub(super) async fn way(
    choice: Choice,
    wish: &Wish<'_>,
    site: &Site,
    draft: &Draft,
    report: &mut Report,
) -> Result<Option<Way>, Stop> {
    let found = match errand(choice, wish, site, draft)? {
        Ok(errand) => on(site, draft, errand).await.map_err(Some),
        Err(hindrance) => Err(hindrance),
    };
    told(choice, site, report, found)
}

/// The same of a way that is not gone yet: nothing is taken for it.
///
/// # Errors
/// As [`errand`].
pub(super) async fn look(
    choice: Choice,
    wish: &Wish<'_>,
    site: &Site,
    draft: &Draft,
    report: &mut Report,
) -> Result<Option<Route>, Stop> {
    let found = match errand(choice, wish, site, draft)? {
        Ok(errand) => look_on(site, draft, &errand).await.map_err(Some),
        Err(hindrance) => Err(hindrance),
    };
    told(choice, site, report, found)
}

fn told<T>(
    choice: Choice,
    site: &Site,
    report: &mut Report,
    found: Result<T, Option<Hindrance>>,
) -> Result<Option<T>, Stop> {
    match found {
        Ok(found) => {
            report.method(
                Method::Online,
                "every digest is proven, and the running Docker records them itself",
            );
            Ok(Some(found))
        }
        Err(Some(hindrance)) if choice == Choice::Online => Err(Stop::NotOnline(hindrance)),
        Err(_) if site.managed().is_none() => Ok(None),
        Err(hindrance) => {
            let why = hindrance.map_or_else(
                || choice.why_restart().to_owned(),
                |hindrance| hindrance.to_string(),
            );
            report.method(Method::Restart, &why);
            Ok(None)
        }
    }
}

async fn on(site: &Site, draft: &Draft, errand: Errand) -> Result<Way, Hindrance> {
    let Some((manager, host)) = site.managed() else {
        return Err(Hindrance::NotRunning);
    };
    let route = route(site, draft, &errand).await?;
    let dockerd = host.service.main_pid;
    let listeners = match shares_network_with(dockerd) {
        true => Listeners::bind(&route)?,
        false => Listeners::from_outside(&route, manager, dockerd).await?,
    };
    Ok(Way {
        errand,
        route,
        listeners,
    })
}

async fn look_on(site: &Site, draft: &Draft, errand: &Errand) -> Result<Route, Hindrance> {
    let route = route(site, draft, errand).await?;
    let dockerd = site.managed().map(|(_, host)| host.service.main_pid);
    match listening(dockerd.unwrap_or_default()) {
        Ok(sockets) => route.is_free(&sockets)?,
        Err(error) => tracing::info!("who listens on Docker's network cannot be seen: {error}"),
    }
    Ok(route)
}

async fn route(site: &Site, draft: &Draft, errand: &Errand) -> Result<Route, Hindrance> {
    let Some((_, host)) = site.managed() else {
        return Err(Hindrance::NotRunning);
    };
    if host.engine.is_none() {
        return Err(Hindrance::NotRunning);
    }
    let engine = engine_at(&host.socket);
    let listed = engine.references().await?;
    let file = &draft.before.store;
    let read = ImageDb::ask(site.images(), |db| {
        has_read(&listed, file, |image| db.has(image))
    });
    if !read.unwrap_or_default() {
        return Err(Hindrance::Unread);
    }
    if errand.has_indexes() {
        errand.suits(&engine.platform().await?)?;
    }
    let root = Path::new("/");
    let route = match shares_network_with(host.service.main_pid) {
        true => errand.route(host, &HostNames { root }).await?,
        false => errand.route(host, &OtherNetwork).await?,
    };
    if !route.listen.is_empty() {
        route.is_nobodys(&engine.restarting_containers().await?)?;
    }
    Ok(route)
}

impl Way {
    /// What stands in for registries.
    pub(super) fn stand_in(self) -> StandIn {
        StandIn::new(self.errand, self.route, self.listeners)
    }
}
