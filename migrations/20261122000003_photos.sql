CREATE TABLE photos (
    id            BINARY(16)      NOT NULL PRIMARY KEY,
    album_id      BINARY(16)      NOT NULL,
    -- The uploader: an invite, or NULL for the host.
    invite_id     BINARY(16)      NULL,
    uploader_name VARCHAR(100)    NULL,
    state         VARCHAR(16)     NOT NULL,
    visibility    VARCHAR(16)     NOT NULL,
    caption       VARCHAR(1000)   NULL,
    content_type  VARCHAR(32)     NOT NULL,
    bytes         BIGINT UNSIGNED NOT NULL,
    sha256        BINARY(32)      NULL,
    -- What makes a second upload of the same bytes the same photo; NULL where that is not known or no longer so.
    dedup         BINARY(32)      NULL,
    width         INT UNSIGNED    NULL,
    height        INT UNSIGNED    NULL,
    taken_at      DATETIME(3)     NULL,
    camera        VARCHAR(120)    NULL,
    placeholder   VARBINARY(64)   NULL,
    -- A JSON list; immutable once written, and always read with its photo.
    renditions    TEXT            NULL,
    reject_reason VARCHAR(300)    NULL,
    version       INT UNSIGNED    NOT NULL DEFAULT 1,
    created_at    DATETIME(3)     NOT NULL,
    ready_at      DATETIME(3)     NULL,
    -- When the sweep looks after this row; NULL once the photo is ready, rejected or expired.
    sweep_at      DATETIME(3)     NULL,
    UNIQUE KEY photos_once (album_id, dedup),
    KEY photos_by_album (album_id, id),
    KEY photos_by_visibility (album_id, visibility, state, id),
    KEY photos_by_invite (invite_id, id),
    KEY photos_by_invite_visibility (invite_id, visibility, state, id),
    KEY photos_to_sweep (sweep_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
