-- The edit that it is about, of the event's photo.
ALTER TABLE events ADD COLUMN edit_id BINARY(16) NULL;
