-- The trace of whoever made the job, as W3C's traceparent writes it; NULL for one that nobody's request has made.
ALTER TABLE jobs ADD COLUMN traceparent VARCHAR(55) NULL;
