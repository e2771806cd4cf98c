-- The trace in which it happened: one job announces the events of many.
ALTER TABLE events ADD COLUMN traceparent VARCHAR(55) NULL;
