-- The queue of a job, written by the program. The default is for releases before 0.2, which do not write it.
-- Those releases read `lane` and fail on a name that they do not know, so such rows have no lane.
-- To contract: drop `lane` with its index `jobs_due`, and the default of `queue`.
ALTER TABLE jobs
    ADD COLUMN queue VARCHAR(32) NOT NULL DEFAULT (IF(kind IN ('announce', 'project'), 'outbox', 'default')),
    MODIFY COLUMN lane VARCHAR(8) GENERATED ALWAYS AS (CASE WHEN kind IN ('announce', 'project') THEN 'announce'
        WHEN kind IN ('develop', 'edit', 'purge_photo', 'purge_album') THEN 'work' END) STORED,
    ADD KEY jobs_due_in_queue (queue, dead, visible_at);
