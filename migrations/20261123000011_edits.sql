CREATE TABLE edits (
    id          BINARY(16)   NOT NULL PRIMARY KEY,
    photo_id    BINARY(16)   NOT NULL,
    album_id    BINARY(16)   NOT NULL,
    state       VARCHAR(16)  NOT NULL,
    -- What is to be done next; NULL when nothing is.
    step        VARCHAR(16)  NULL,
    -- A JSON list, immutable.
    filters     TEXT         NOT NULL,
    -- A JSON list, from the time that they are stored.
    renditions  TEXT         NULL,
    fail_reason VARCHAR(300) NULL,
    created_at  DATETIME(3)  NOT NULL,
    ready_at    DATETIME(3)  NULL,
    -- When the sweep looks after this row; NULL while there is nothing for a worker to do.
    sweep_at    DATETIME(3)  NULL,
    KEY edits_by_photo (photo_id, id),
    KEY edits_to_sweep (sweep_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
