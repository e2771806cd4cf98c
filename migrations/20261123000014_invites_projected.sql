-- Which version of it the read model has: 0 none, 1 as it was made, 2 revoked.
ALTER TABLE invites ADD COLUMN projected TINYINT UNSIGNED NOT NULL DEFAULT 0;
