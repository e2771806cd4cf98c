-- Up to which number its events are in the read model; 9223372036854775807 once its deletion is.
ALTER TABLE albums ADD COLUMN projected_seq BIGINT UNSIGNED NOT NULL DEFAULT 0;
