CREATE TABLE jobs (
    id         BINARY(16)    NOT NULL PRIMARY KEY,
    kind       VARCHAR(32)   NOT NULL,
    -- The photo or album that it is about.
    subject    BINARY(16)    NOT NULL,
    -- Announcements have workers of their own: a webhook that hangs must not hold up photos.
    lane       VARCHAR(8)    GENERATED ALWAYS AS (IF(kind = 'announce', 'announce', 'work')) STORED,
    dead       BOOLEAN       NOT NULL DEFAULT FALSE,
    -- When a worker may take it: after a failed try later than now, under a lease the lease's end.
    visible_at DATETIME(3)   NOT NULL,
    -- The claim of the worker that has it.
    lease      BINARY(16)    NULL,
    attempts   INT UNSIGNED  NOT NULL DEFAULT 0,
    last_error VARCHAR(500)  NULL,
    created_at DATETIME(3)   NOT NULL,
    UNIQUE KEY jobs_once (kind, subject),
    KEY jobs_due (lane, dead, visible_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
