-- Projections have the announcements' workers: neither touches photos, and both wait for somebody else's server.
ALTER TABLE jobs MODIFY COLUMN lane VARCHAR(8) GENERATED ALWAYS AS (IF(kind IN ('announce', 'project'), 'announce', 'work')) STORED;
