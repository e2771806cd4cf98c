CREATE TABLE idempotency (
    -- SHA-256 over the caller and the Idempotency-Key.
    id           BINARY(32)        NOT NULL PRIMARY KEY,
    -- SHA-256 over method, path and body of the first request.
    fingerprint  BINARY(32)        NOT NULL,
    -- The request that runs, or ran.
    owner        BINARY(16)        NOT NULL,
    -- A first request that has not answered by then is taken for dead.
    locked_until DATETIME(3)       NOT NULL,
    status       SMALLINT UNSIGNED NULL,
    -- The answer's body, sealed by a key that only the caller's Idempotency-Key gives back: it may hold a token.
    body         MEDIUMBLOB        NULL,
    created_at   DATETIME(3)       NOT NULL,
    KEY idempotency_by_age (created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = utf8mb4_bin;
