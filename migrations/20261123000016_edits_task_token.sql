-- What a state machine waits with for the host's decision.
ALTER TABLE edits ADD COLUMN task_token VARCHAR(2048) NULL;
