//! What one plugin may reach: what the configuration names, and nothing else.

use super::{
    Allow,
    files::Files,
    http::Http,
    names::Names,
    records::{Records, Secrets},
    root::Root,
    stores::Keys,
};

/// Everything granted to one plugin. Its instances share it.
#[derive(Clone, Default)]
pub(super) struct Grants {
    pub(super) files: Files,
    pub(super) store: Option<Keys>,
    pub(super) http: Option<Http>,
    pub(super) names: Option<Names>,
    pub(super) root: Option<Root>,
    pub(super) records: Option<Records>,
    pub(super) secrets: Option<Secrets>,
}

impl Grants {
    pub(super) fn new(allow: &Allow) -> Self {
        let driver = allow.driver.as_ref();
        Self {
            files: Files::new(&allow.files),
            store: allow.store.clone().map(Keys::new),
            http: (!allow.http.origins.is_empty()).then(|| Http::new(&allow.http)),
            names: (!allow.names.names.is_empty()).then(|| Names::new(allow.names.clone())),
            root: driver.map(|driver| Root::new(&driver.root)),
            records: driver.map(|driver| Records::new(&driver.records)),
            secrets: driver.map(|driver| Secrets::new(driver.secrets.clone())),
        }
    }
}
