//! The HTTP pages for operators: which listeners they need, and their life across reloads.
//!
//! ```text
//! PageRequests of the blocks ─ open ─► OpenPages (bound, nothing changed yet) ─ start ─► Running, on its own runtime
//! ```
//!
//! Requests for the same address share a listener, each with its path.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::AbortHandle;

use crate::admin::{self, PageOrigin, Site};
use crate::net::{self, Credentials};
use crate::plugins::build::{PageRequest, PageTask};
use crate::plugins::page_address::PageAddress;

/// The address of a listener of pages, and its TLS configuration.
pub(super) type ListenerKey = (SocketAddr, Option<PathBuf>);

/// Pages whose listeners are open.
pub(super) struct OpenPages(Vec<PreparedSite>);

/// A listener that is not started yet.
struct PreparedSite {
    /// The first directive that requests it.
    directive: &'static str,
    text: PageAddress,
    address: SocketAddr,
    site: Site,
    tls: Option<PathBuf>,
    task: Option<PageTask>,
    /// The listener with its TLS; `None` if a running one continues.
    listener: Option<(TcpListener, SocketAddr, Option<Arc<Credentials>>)>,
}

/// Opens the listeners of pages that are not `running`, all or none.
pub(super) fn open(
    requests: Vec<PageRequest>, runtime: &Runtime, running: &[ListenerKey],
) -> anyhow::Result<OpenPages> {
    let mut sites: Vec<PreparedSite> = Vec::new();
    for PageRequest { directive, address: text, path, page, tls, task, added } in requests {
        let address = text.resolve().with_context(|| format!("plugin/{directive}: cannot look up {text}"))?;
        // Port 0 is another port each time.
        let is_same = |site: &&mut PreparedSite| address.port() != 0 && site.address == address;
        let site = match sites.iter_mut().find(is_same) {
            Some(site) if site.tls != tls => {
                bail!("plugin/{directive}: {} listens at {text} too, and not with the same 'tls'", site.directive)
            }
            Some(site) => site,
            None => {
                sites.push(PreparedSite {
                    directive,
                    text,
                    address,
                    site: Site::default(),
                    tls,
                    task: None,
                    listener: None,
                });
                let last = sites.len() - 1;
                &mut sites[last]
            }
        };
        site.site.add(path, PageOrigin::CoreDns, page);
        added.into_iter().for_each(|(path, page)| site.site.add(path, PageOrigin::Added, page));
        site.task = site.task.take().or(task);
    }
    let _inside = runtime.enter();
    let ports: Vec<u16> = sites.iter().map(|site| site.address.port()).collect();
    for site in &mut sites {
        let PreparedSite { directive, text, address, tls, .. } = &*site;
        if running.iter().any(|(at, with)| address.port() != 0 && at == address && with == tls) {
            continue;
        }
        let is_at = |port: u16| port != 0 && port == address.port();
        let has_several =
            ports.iter().filter(|&&port| is_at(port)).count() > 1 || running.iter().any(|(at, _)| is_at(at.port()));
        let failed = |error: io::Error| anyhow!("plugin/{directive}: listen tcp {text}: {}", net::reason(&error));
        let listener = admin::listen(*address, has_several).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        if address.port() == 0 {
            // The port is not known otherwise.
            tracing::info!(plugin = directive, "listening at {bound}");
        }
        let tls = tls.as_ref().map(|path| admin::load_tls(path)).transpose();
        let tls = tls.with_context(|| format!("plugin/{directive}: tls"))?.flatten().map(Arc::new);
        site.listener = Some((listener, bound, tls));
    }
    Ok(OpenPages(sites))
}

impl OpenPages {
    /// Serves the pages. Listeners of `before` continue with the new pages, or are closed.
    pub(super) fn start(self, runtime: &Runtime, before: Option<Running>) -> Running {
        let mut before = before.map(|before| before.0).unwrap_or_default();
        let sites = self.0.into_iter().filter_map(|PreparedSite { address, site, tls, task, listener, .. }| {
            let running = before.iter().position(|running| running.is(address, tls.as_ref()));
            let mut running = match (listener, running) {
                (Some((listener, bound, credentials)), _) => {
                    let site = Arc::new(site);
                    let server = runtime.spawn(admin::serve(listener, site.clone(), credentials)).abort_handle();
                    RunningSite { address, bound, tls, site, server: AbortOnDrop(server), task: None }
                }
                (None, Some(at)) => {
                    let running = before.swap_remove(at);
                    running.site.replace(site);
                    running
                }
                // It was running when `open` looked.
                (None, None) => return None,
            };
            running.task = task.map(|task| AbortOnDrop(runtime.spawn(task(running.bound)).abort_handle()));
            Some(running)
        });
        Running(sites.collect())
    }
}

/// A task that ends when this is dropped.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The pages that are served, until this is dropped.
pub(super) struct Running(Vec<RunningSite>);

/// A listener that is served.
struct RunningSite {
    address: SocketAddr,
    bound: SocketAddr,
    tls: Option<PathBuf>,
    site: Arc<Site>,
    #[expect(dead_code, reason = "held for its end")]
    server: AbortOnDrop,
    task: Option<AbortOnDrop>,
}

impl RunningSite {
    fn is(&self, address: SocketAddr, tls: Option<&PathBuf>) -> bool {
        address.port() != 0 && self.address == address && self.tls.as_ref() == tls
    }
}

impl Running {
    /// Returns the listeners.
    pub(super) fn listeners(&self) -> Vec<ListenerKey> {
        self.0.iter().map(|running| (running.address, running.tls.clone())).collect()
    }
}
