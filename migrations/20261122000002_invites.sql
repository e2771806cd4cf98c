CREATE TABLE invites (
    id          BINARY(16)   NOT NULL PRIMARY KEY,
    album_id    BINARY(16)   NOT NULL,
    role        VARCHAR(16)  NOT NULL,
    label       VARCHAR(100) NULL,
    -- SHA-256 of the token; the token itself is shown once and kept nowhere.
    token_hash  BINARY(32)   NOT NULL,
    expires_at  DATETIME(3)  NULL,
    max_photos  INT UNSIGNED NULL,
    photos_used INT UNSIGNED NOT NULL DEFAULT 0,
    created_at  DATETIME(3)  NOT NULL,
    revoked_at  DATETIME(3)  NULL,
    UNIQUE KEY invites_by_token (token_hash),
    KEY invites_by_album (album_id, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
