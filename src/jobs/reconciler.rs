//! The sweep: finds what was left behind, on a timer. It takes no input and may run anywhere, any number of times.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime},
};

use chrono::TimeDelta;
use tokio::time::{MissedTickBehavior, interval};

use crate::services::uploads;
use crate::{
    app::{App, AppState},
    aws, db,
    domain::{PhotoId, PhotoState},
    jobs::queue::Kind,
    telemetry::metrics,
};

/// Answers to `Idempotency-Key`s are kept for so long.
const KEEP_ANSWERS: TimeDelta = TimeDelta::hours(24);
/// How many rows are handled at a time.
const BATCH: u32 = 500;

/// What one sweep set right.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Uploads that were there and not noted.
    pub accepted: u64,
    /// Photos whose bytes never came.
    pub expired: u64,
    /// Jobs that were missing.
    pub enqueued: u64,
    /// Objects and partial uploads without a row.
    pub removed: u64,
    /// Ready photos whose renditions were missing.
    pub repaired: u64,
}

pub(crate) async fn timer(app: AppState) {
    let mut ticks = interval(app.config.sweep.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_scrub = Instant::now();
    loop {
        tokio::select! {
            () = app.draining.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let scrub_now = next_scrub <= Instant::now();
        if scrub_now {
            // Before it ends: one that fails over the same object again and again lists a whole bucket each time.
            next_scrub = Instant::now() + app.config.sweep.scrub_interval;
        }
        let outcome = tokio::select! {
            () = app.draining.cancelled() => return,
            outcome = run(&app, scrub_now) => outcome,
        };
        match outcome {
            Ok(report) => {
                if report != Report::default() {
                    tracing::info!(?report, "swept");
                }
            }
            Err(error) => tracing::warn!(error = aws::advised(&error), "the sweep was cut short; the next one goes on"),
        }
    }
}

/// Looks over the rows, and with `scrub` over the whole of storage too.
///
/// # Errors
/// What cut it short; what was done stays done.
pub async fn run(app: &App, scrub: bool) -> anyhow::Result<Report> {
    let mut report = Report::default();
    overdue(app, &mut report).await?;
    overdue_edits(app, &mut report).await?;
    lost_jobs(app, &mut report).await?;
    let mut session = app.db.session().await?;
    while db::idempotency::forget(&mut session, db::now() - KEEP_ANSWERS, BATCH).await? > 0 {}
    drop(session);
    if scrub {
        partials(app, &mut report).await?;
        orphans(app, &mut report).await?;
        lost_renditions(app, &mut report).await?;
    }
    for (kind, count) in [
        ("accepted", report.accepted),
        ("expired", report.expired),
        ("enqueued", report.enqueued),
        ("removed", report.removed),
        ("repaired", report.repaired),
    ] {
        metrics::RECONCILED.with(&[("kind", kind)]).increment(count);
    }
    Ok(report)
}

/// Photos that wait for their bytes or for a worker for longer than they should.
async fn overdue(app: &App, report: &mut Report) -> anyhow::Result<()> {
    loop {
        let mut session = app.db.session().await?;
        let photos = db::reconciler::overdue(&mut session, db::now(), BATCH).await?;
        drop(session);
        if photos.is_empty() {
            return Ok(());
        }
        for (id, state) in photos {
            if state == PhotoState::AwaitingUpload {
                settle_upload(app, id, report).await?;
                continue;
            }
            // A job that is there already stays the only one.
            app.db
                .transaction(|mut tx| async move {
                    db::reconciler::postpone(tx.session(), id).await?;
                    tx.enqueue(Kind::Develop, id.as_uuid()).await?;
                    Ok::<_, db::Error>(tx.done(()))
                })
                .await?;
            report.enqueued += 1;
        }
    }
}

/// Edits that wait for a worker for longer than they should.
async fn overdue_edits(app: &App, report: &mut Report) -> anyhow::Result<()> {
    loop {
        let mut session = app.db.session().await?;
        let edits = db::reconciler::overdue_edits(&mut session, db::now(), BATCH).await?;
        drop(session);
        if edits.is_empty() {
            return Ok(());
        }
        for id in edits {
            app.db
                .transaction(|mut tx| async move {
                    db::reconciler::postpone_edit(tx.session(), id).await?;
                    tx.enqueue(Kind::Edit, id.as_uuid()).await?;
                    Ok::<_, db::Error>(tx.done(()))
                })
                .await?;
            report.enqueued += 1;
        }
    }
}

/// What became of an upload that somebody waits for, or no longer does.
enum Settled {
    /// Its bytes were there.
    Accepted,
    /// They were not, and nobody waits for them any more.
    Expired,
    /// Nobody waited for them, or there is no such photo.
    GivenUp,
    /// Others had settled it, or it may still come.
    ByOthers,
}

/// The bytes of an upload that is overdue or was given up are there in full, or it is given up. Whether what is in storage is of
/// use, now or for whoever has settled it meanwhile.
async fn settle_upload(app: &App, id: PhotoId, report: &mut Report) -> anyhow::Result<bool> {
    let found = app.storage.measure_original(id).await?;
    let settled = app
        .db
        .transaction(|mut tx| async move {
            let Some(photo) = db::photos::lock(tx.session(), id).await? else {
                return Ok::<_, db::Error>(tx.done(Settled::GivenUp));
            };
            let given_up = photo.state == PhotoState::Expired;
            let overdue =
                photo.state == PhotoState::AwaitingUpload && db::reconciler::is_overdue(tx.session(), id).await?;
            match found {
                _ if !given_up && !overdue => Ok(tx.done(Settled::ByOthers)),
                Some((bytes, digest)) if photo.fits(bytes, digest) => {
                    uploads::take_in(&mut tx, &photo, digest.as_ref()).await?;
                    Ok(tx.done(Settled::Accepted))
                }
                _ if given_up => Ok(tx.done(Settled::GivenUp)),
                _ => {
                    db::photos::expire(tx.session(), id).await?;
                    if let Some(invite_id) = photo.uploader.invite_id {
                        db::invites::give_back(tx.session(), invite_id).await?;
                    }
                    Ok(tx.done(Settled::Expired))
                }
            }
        })
        .await?;
    match settled {
        Settled::Accepted => report.accepted += 1,
        Settled::Expired => {
            report.expired += 1;
            // An upload to S3 may end at this very moment, and be taken in; what is left for good the next scrub removes.
            if app.storage.files().is_some() {
                app.storage.remove(id).await?;
            }
        }
        Settled::GivenUp | Settled::ByOthers => {}
    }
    Ok(matches!(settled, Settled::Accepted | Settled::ByOthers))
}

/// Events without an announcement or projection to come, and deleted albums that nobody removes.
async fn lost_jobs(app: &App, report: &mut Report) -> anyhow::Result<()> {
    let mut session = app.db.session().await?;
    let unannounced = db::reconciler::unannounced(&mut session, BATCH).await?;
    let unpurged = db::reconciler::unpurged(&mut session, BATCH).await?;
    let unprojected = match &app.read_model {
        Some(_) => db::read_model::due(&mut session, true, BATCH).await?,
        None => Vec::new(),
    };
    drop(session);
    let lost = [(Kind::Announce, unannounced), (Kind::PurgeAlbum, unpurged), (Kind::Project, unprojected)];
    for (kind, id) in lost.into_iter().flat_map(|(kind, ids)| ids.into_iter().map(move |id| (kind, id))) {
        app.db.enqueue(kind, id.as_uuid()).await?;
        report.enqueued += 1;
    }
    Ok(())
}

/// What uploads that were cut off left.
async fn partials(app: &App, report: &mut Report) -> anyhow::Result<()> {
    report.removed += app.storage.remove_partials(cutoff(app)).await? as u64;
    Ok(())
}

/// Objects of photos that have no row, or were given up: a sweep that was killed may have left those. S3 answers 200 to an
/// upload that ends after it was given up; one that nobody heard of is taken in here.
async fn orphans(app: &App, report: &mut Report) -> anyhow::Result<()> {
    let cutoff = cutoff(app);
    for shard in 0..=u8::MAX {
        let ids = app.storage.photos_in_shard(shard, cutoff).await?;
        for some in ids.chunks(BATCH as usize) {
            let mut session = app.db.session().await?;
            let states: HashMap<PhotoId, PhotoState> =
                db::reconciler::states(&mut session, some).await?.into_iter().collect();
            drop(session);
            for id in some {
                let kept = match states.get(id) {
                    Some(PhotoState::Expired) if app.storage.files().is_none() => {
                        settle_upload(app, *id, report).await?
                    }
                    Some(PhotoState::Expired) | None => false,
                    Some(_) => true,
                };
                if !kept {
                    app.storage.remove(*id).await?;
                    report.removed += 1;
                }
            }
        }
    }
    Ok(())
}

/// Ready photos that storage has lost a rendition of. S3 loses none.
async fn lost_renditions(app: &App, report: &mut Report) -> anyhow::Result<()> {
    let Some(files) = app.storage.files() else { return Ok(()) };
    let mut after = PhotoId::from(uuid::Uuid::nil());
    loop {
        let mut session = app.db.session().await?;
        let photos = db::reconciler::ready_after(&mut session, after, BATCH).await?;
        drop(session);
        let Some((last, _)) = photos.last() else { return Ok(()) };
        after = *last;
        let incomplete = files.incomplete(photos).await?;
        for id in incomplete {
            tracing::warn!(photo = %id, "renditions are missing from storage and will be made again");
            app.db.enqueue(Kind::Develop, id.as_uuid()).await?;
            report.repaired += 1;
        }
    }
}

fn cutoff(app: &App) -> SystemTime {
    SystemTime::now().checked_sub(app.config.sweep.orphan_grace).unwrap_or(SystemTime::UNIX_EPOCH)
}
