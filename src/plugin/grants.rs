//! What one plugin may reach: what the configuration names, and nothing else.

use super::{Allow, files::Files, http::Http, names::Names, stores::Keys};

/// Everything granted to one plugin. Its instances share it.
#[derive(Clone, Default)]
pub(super) struct Grants {
    pub(super) files: Files,
    pub(super) store: Option<Keys>,
    pub(super) http: Option<Http>,
    pub(super) names: Option<Names>,
}

impl Grants {
    pub(super) fn new(allow: &Allow) -> Self {
        Self {
            files: Files::new(&allow.files),
            store: allow.store.clone().map(Keys::new),
            http: (!allow.http.origins.is_empty()).then(|| Http::new(&allow.http)),
            names: (!allow.names.names.is_empty()).then(|| Names::new(allow.names.clone())),
        }
    }
}
