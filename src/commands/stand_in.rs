//! Whether the running Docker can be had to make a change itself, with a
//! registry that stands in.

use std::path::Path;

use crate::commands::change::Wish;
use crate::commands::{Draft, Site, Stop, engine_at};
use crate::engine::Engine;
use crate::image_db::ImageDb;
use crate::images::Images;
use crate::method::{Choice, Method};
use crate::report::Report;
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
/// why.
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
    match found {
        Ok(way) => {
            report.method(
                Method::Online,
                "every digest is proven, and the running Docker records them itself",
            );
            Ok(Some(way))
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
    if host.engine.is_none() {
        return Err(Hindrance::NotRunning);
    }
    let listed = engine_at(&host.socket).references().await?;
    let file = &draft.before.store;
    let read = ImageDb::ask(site.images(), |db| {
        has_read(&listed, file, |image| db.has(image))
    });
    if !read.unwrap_or_default() {
        return Err(Hindrance::Unread);
    }
    let dockerd = host.service.main_pid;
    let (route, listeners);
    if shares_network_with(dockerd) {
        let names = HostNames {
            root: Path::new("/"),
        };
        route = errand.route(host, &names).await?;
        listeners = Listeners::bind(&route)?;
    } else {
        route = errand.route(host, &OtherNetwork).await?;
        listeners = Listeners::from_outside(&route, manager, dockerd).await?;
    }
    Ok(Way {
        errand,
        route,
        listeners,
    })
}

impl Way {
    /// What it is to change for the moment, for people.
    pub(super) fn touches(&self) -> Vec<String> {
        self.route.touches()
    }

    /// What stands in for registries.
    pub(super) fn stand_in(self) -> StandIn {
        StandIn::new(self.errand, self.route, self.listeners)
    }
}
