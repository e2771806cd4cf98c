-- When something last changed with it that no event tells of: a replica that has not reached this is behind for its guests.
-- To the microsecond, because two changes must not look like one.
ALTER TABLE invites ADD COLUMN wrote_at DATETIME(6) NULL;
