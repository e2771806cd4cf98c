//! Repairs inconsistencies on a timer: lost notifications, expired uploads, lost jobs, orphaned objects. It takes no
//! input and may run in any process, any number of times.

use std::{
    collections::HashMap,
    time::{Instant, SystemTime},
};

use chrono::TimeDelta;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    app::{App, AppState},
    aws,
    db::{
        self,
        jobs::{APPLY_EDIT, PUBLISH_EVENTS, PURGE_ALBUM, RENDER_PHOTO, SYNC_READ_MODEL},
    },
    domain::{PhotoId, PhotoState},
    services::uploads,
    telemetry::metrics,
};

/// How long stored answers to an `Idempotency-Key` are kept.
const IDEMPOTENCY_RETENTION: TimeDelta = TimeDelta::hours(24);
/// Rows handled at a time.
const BATCH: u32 = 500;

/// The repairs of one run.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Uploads whose notification was lost.
    pub accepted: u64,
    /// Photos that were never uploaded.
    pub expired: u64,
    /// Jobs that were lost.
    pub enqueued: u64,
    /// Orphaned objects and partial uploads.
    pub removed: u64,
    /// Ready photos with lost renditions.
    pub repaired: u64,
}

pub(crate) async fn run_periodically(app: AppState) {
    let mut ticks = interval(app.config.reconciler.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_full_scan = Instant::now();
    loop {
        tokio::select! {
            () = app.draining.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let is_full_scan = next_full_scan <= Instant::now();
        if is_full_scan {
            // Set before the scan ends, because a scan that fails early would list the whole bucket each time.
            next_full_scan = Instant::now() + app.config.reconciler.full_scan_interval;
        }
        let outcome = tokio::select! {
            () = app.draining.cancelled() => return,
            outcome = run(&app, is_full_scan) => outcome,
        };
        match outcome {
            Ok(report) => {
                if report != Report::default() {
                    tracing::info!(?report, "reconciled");
                }
            }
            Err(error) => {
                tracing::warn!(error = aws::with_hint(&error), "reconciliation failed; the next run continues");
            }
        }
    }
}

/// Reconciles the rows, and with `full_scan` everything in storage. After an error, what was repaired stays repaired.
pub async fn run(app: &App, full_scan: bool) -> anyhow::Result<Report> {
    let mut report = Report::default();
    reconcile_overdue_photos(app, &mut report).await?;
    reconcile_overdue_edits(app, &mut report).await?;
    enqueue_lost_jobs(app, &mut report).await?;
    let mut session = app.db.session().await?;
    while db::idempotency::delete_before(&mut session, db::now() - IDEMPOTENCY_RETENTION, BATCH).await? > 0 {}
    drop(session);
    if full_scan {
        report.removed += app.storage.remove_incomplete_uploads(orphan_cutoff(app)).await? as u64;
        remove_orphans(app, &mut report).await?;
        restore_lost_renditions(app, &mut report).await?;
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

/// Photos that have waited too long for their upload or for a worker.
async fn reconcile_overdue_photos(app: &App, report: &mut Report) -> anyhow::Result<()> {
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
            // Enqueuing changes nothing where the job exists.
            app.db
                .transaction(|mut tx| async move {
                    db::reconciler::postpone(tx.session(), id).await?;
                    tx.enqueue(RENDER_PHOTO, id.as_uuid()).await?;
                    Ok::<_, db::Error>(tx.done(()))
                })
                .await?;
            report.enqueued += 1;
        }
    }
}

/// Edits that have waited too long for a worker.
async fn reconcile_overdue_edits(app: &App, report: &mut Report) -> anyhow::Result<()> {
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
                    tx.enqueue(APPLY_EDIT, id.as_uuid()).await?;
                    Ok::<_, db::Error>(tx.done(()))
                })
                .await?;
            report.enqueued += 1;
        }
    }
}

enum UploadOutcome {
    Accepted,
    Expired,
    /// It had expired before and is not there in full, or the photo has no row.
    StillExpired,
    /// It is not overdue, or another process has accepted it.
    Unchanged,
}

/// Accepts an overdue or expired upload that is there in full, and expires an overdue one that is not. Returns whether
/// the objects in storage are to be kept.
async fn settle_upload(app: &App, id: PhotoId, report: &mut Report) -> anyhow::Result<bool> {
    let found = app.storage.stat_original(id).await?;
    let outcome = app
        .db
        .transaction(|mut tx| async move {
            let Some(photo) = db::photos::lock(tx.session(), id).await? else {
                return Ok::<_, db::Error>(tx.done(UploadOutcome::StillExpired));
            };
            let is_expired = photo.state == PhotoState::Expired;
            let is_overdue =
                photo.state == PhotoState::AwaitingUpload && db::reconciler::is_overdue(tx.session(), id).await?;
            match found {
                _ if !is_expired && !is_overdue => Ok(tx.done(UploadOutcome::Unchanged)),
                Some((bytes, digest)) if photo.matches_upload(bytes, digest) => {
                    uploads::record(&mut tx, &photo, digest.as_ref()).await?;
                    Ok(tx.done(UploadOutcome::Accepted))
                }
                _ if is_expired => Ok(tx.done(UploadOutcome::StillExpired)),
                _ => {
                    db::photos::expire(tx.session(), id).await?;
                    if let Some(invite_id) = photo.uploader.invite_id {
                        db::invites::return_photo(tx.session(), invite_id).await?;
                    }
                    Ok(tx.done(UploadOutcome::Expired))
                }
            }
        })
        .await?;
    match outcome {
        UploadOutcome::Accepted => report.accepted += 1,
        UploadOutcome::Expired => {
            report.expired += 1;
            // An upload to S3 may end right now and be accepted. The next full scan removes what is left.
            if app.storage.files().is_some() {
                app.storage.remove(id).await?;
            }
        }
        UploadOutcome::StillExpired | UploadOutcome::Unchanged => {}
    }
    Ok(matches!(outcome, UploadOutcome::Accepted | UploadOutcome::Unchanged))
}

/// Enqueues the missing jobs of albums with unpublished events, unsynchronized changes, or a deletion.
async fn enqueue_lost_jobs(app: &App, report: &mut Report) -> anyhow::Result<()> {
    let mut session = app.db.session().await?;
    let unpublished = db::reconciler::albums_without_publish_job(&mut session, BATCH).await?;
    let unpurged = db::reconciler::albums_without_purge_job(&mut session, BATCH).await?;
    let unsynced = match &app.read_model {
        Some(_) => db::read_model::pending_albums(&mut session, true, BATCH).await?,
        None => Vec::new(),
    };
    drop(session);
    let lost = [(PUBLISH_EVENTS, unpublished), (PURGE_ALBUM, unpurged), (SYNC_READ_MODEL, unsynced)];
    for (job, id) in lost.into_iter().flat_map(|(job, ids)| ids.into_iter().map(move |id| (job, id))) {
        app.db.enqueue(job, id.as_uuid()).await?;
        report.enqueued += 1;
    }
    Ok(())
}

/// Removes the objects of photos without a row and of expired photos. S3 answers 200 to an upload that ends after its
/// photo expired, so such an upload is accepted here.
async fn remove_orphans(app: &App, report: &mut Report) -> anyhow::Result<()> {
    let cutoff = orphan_cutoff(app);
    for shard in 0..=u8::MAX {
        let ids = app.storage.photos_in_shard(shard, cutoff).await?;
        for chunk in ids.chunks(BATCH as usize) {
            let mut session = app.db.session().await?;
            let states: HashMap<PhotoId, PhotoState> =
                db::reconciler::states(&mut session, chunk).await?.into_iter().collect();
            drop(session);
            for id in chunk {
                let keep = match states.get(id) {
                    Some(PhotoState::Expired) if app.storage.files().is_none() => {
                        settle_upload(app, *id, report).await?
                    }
                    Some(PhotoState::Expired) | None => false,
                    Some(_) => true,
                };
                if !keep {
                    app.storage.remove(*id).await?;
                    report.removed += 1;
                }
            }
        }
    }
    Ok(())
}

/// Enqueues ready photos of which a rendition is missing. Files only; S3 is trusted.
async fn restore_lost_renditions(app: &App, report: &mut Report) -> anyhow::Result<()> {
    let Some(files) = app.storage.files() else { return Ok(()) };
    let mut after = PhotoId::from(uuid::Uuid::nil());
    loop {
        let mut session = app.db.session().await?;
        let photos = db::reconciler::ready_after(&mut session, after, BATCH).await?;
        drop(session);
        let Some((last, _)) = photos.last() else { return Ok(()) };
        after = *last;
        let incomplete = files.photos_missing_renditions(photos).await?;
        for id in incomplete {
            tracing::warn!(photo = %id, "renditions are missing from storage and will be rendered again");
            app.db.enqueue(RENDER_PHOTO, id.as_uuid()).await?;
            report.repaired += 1;
        }
    }
}

fn orphan_cutoff(app: &App) -> SystemTime {
    SystemTime::now().checked_sub(app.config.reconciler.orphan_grace_period).unwrap_or(SystemTime::UNIX_EPOCH)
}
