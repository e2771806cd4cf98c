//! Every job. A new job adds one line to [`JOBS`].

use std::pin::Pin;

use uuid::Uuid;

use super::{
    job::{Completion, Job},
    kinds::{
        apply_edit::ApplyEdit, publish_events::PublishEvents, purge_album::PurgeAlbum, purge_photo::PurgePhoto,
        render_photo::RenderPhoto, sync_read_model::SyncReadModel,
    },
    retry::Retry,
};
use crate::{
    app::AppState,
    db::{
        self, Tx,
        jobs::{Claim, Queue},
    },
};

static JOBS: [Descriptor; 6] = [
    Descriptor::of::<RenderPhoto>(),
    Descriptor::of::<ApplyEdit>(),
    Descriptor::of::<PurgePhoto>(),
    Descriptor::of::<PurgeAlbum>(),
    Descriptor::of::<PublishEvents>(),
    Descriptor::of::<SyncReadModel>(),
];

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
type RunFn = for<'a> fn(&'a AppState, &'a Claim) -> BoxFuture<'a, anyhow::Result<Completion>>;
type AbandonFn = for<'a> fn(&'a mut Tx, Uuid) -> BoxFuture<'a, db::Result<()>>;

/// A [`Job`] as a value.
pub(crate) struct Descriptor {
    pub(crate) name: &'static str,
    former_names: &'static [&'static str],
    pub(crate) queue: Queue,
    pub(crate) retry: Retry,
    pub(crate) resumes: bool,
    pub(crate) run: RunFn,
    pub(crate) run_exhausted: RunFn,
    pub(crate) abandon: AbandonFn,
}

impl Descriptor {
    const fn of<J: Job>() -> Self {
        Self {
            name: J::NAME,
            former_names: J::FORMER_NAMES,
            queue: J::QUEUE,
            retry: J::RETRY,
            resumes: J::RESUMES,
            run: |app, claim| Box::pin(J::run(app, claim)),
            run_exhausted: |app, claim| Box::pin(J::run_exhausted(app, claim)),
            abandon: |tx, subject| Box::pin(J::abandon(tx, subject)),
        }
    }
}

/// Finds a job by its name or a former name.
pub(crate) fn find(name: &str) -> Option<&'static Descriptor> {
    JOBS.iter().find(|job| job.name == name || job.former_names.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::jobs::{APPLY_EDIT, PUBLISH_EVENTS, PURGE_ALBUM, PURGE_PHOTO, RENDER_PHOTO, SYNC_READ_MODEL};

    #[test]
    fn finds_current_and_former_names() {
        for (former, current) in [
            ("develop", RENDER_PHOTO),
            ("edit", APPLY_EDIT),
            ("purge_photo", PURGE_PHOTO),
            ("purge_album", PURGE_ALBUM),
            ("announce", PUBLISH_EVENTS),
            ("project", SYNC_READ_MODEL),
        ] {
            for name in [former, current.name] {
                let job = find(name).expect(name);
                assert_eq!((job.name, job.queue), (current.name, current.queue));
            }
        }
        assert!(find("dance").is_none());
    }

    #[test]
    fn names_are_unique() {
        let names = || JOBS.iter().flat_map(|job| job.former_names.iter().chain([&job.name]));
        assert_eq!(names().collect::<std::collections::HashSet<_>>().len(), names().count());
    }
}
