-- When a guest last changed something with it that no event tells of; its reads stay with the writer for a while.
ALTER TABLE invites ADD COLUMN wrote_at DATETIME(3) NULL;
