-- How often a message for the job was sent to a queue; the wait for somebody to take it up grows with it.
ALTER TABLE jobs ADD COLUMN sends INT UNSIGNED NOT NULL DEFAULT 0;
