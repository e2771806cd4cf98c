CREATE TABLE events (
    album_id    BINARY(16)      NOT NULL,
    seq         BIGINT UNSIGNED NOT NULL,
    kind        VARCHAR(32)     NOT NULL,
    -- What it means to those who see only public photos; NULL when they learn nothing of it.
    public_kind VARCHAR(32)     NULL,
    photo_id    BINARY(16)      NULL,
    -- The photo's uploader, who sees the event whatever the public sees.
    invite_id   BINARY(16)      NULL,
    at          DATETIME(3)     NOT NULL,
    PRIMARY KEY (album_id, seq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
