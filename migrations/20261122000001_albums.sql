CREATE TABLE albums (
    id            BINARY(16)      NOT NULL PRIMARY KEY,
    -- The subject of a JWT. Binary, because the collations that both servers know ignore trailing spaces.
    host          VARBINARY(255)  NOT NULL,
    title         VARCHAR(200)    NOT NULL,
    review        BOOLEAN         NOT NULL,
    closed        BOOLEAN         NOT NULL DEFAULT FALSE,
    photo_count   INT UNSIGNED    NOT NULL DEFAULT 0,
    last_seq      BIGINT UNSIGNED NOT NULL DEFAULT 0,
    announced_seq BIGINT UNSIGNED NOT NULL DEFAULT 0,
    version       INT UNSIGNED    NOT NULL DEFAULT 1,
    created_at    DATETIME(3)     NOT NULL,
    updated_at    DATETIME(3)     NOT NULL,
    deleted_at    DATETIME(3)     NULL,
    KEY albums_by_host (host, deleted_at, id),
    KEY albums_deleted (deleted_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
