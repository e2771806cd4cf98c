-- The database of Darkroom and its two users. A DBA runs this once, as the master user, on RDS for MySQL 8 or Aurora
-- MySQL 3, before the first `darkroom migrate`:
--
--     mysql --host=WRITER_ENDPOINT --user=admin --password --ssl-mode=VERIFY_IDENTITY \
--         --ssl-ca=deploy/rds-ca/global-bundle.pem <deploy/sql/users.sql
--
-- It may be run again: what is there already stays as it is, also a user with another way to log in.
--
-- Two users, because the processes that face the internet must not be able to drop a table. `darkroom migrate` runs
-- as `darkroom_migrate`, from a deployment; everything else runs as `darkroom_app`.
--
-- IAM: the users have no password. The server takes a token that AWS signed for the user name, good for 15 minutes,
-- and lets log in whom IAM allows `rds-db:connect` on
--
--     arn:aws:rds-db:REGION:ACCOUNT:dbuser:RESOURCE/darkroom_app
--
-- RESOURCE is `db-ABC...` (the DbiResourceId) of an RDS instance, `cluster-ABC...` (the DbClusterResourceId) of an
-- Aurora cluster, or `prx-ABC...` of an RDS Proxy, which then logs in itself. Give the service's role the one for
-- `darkroom_app` only, and the one for `darkroom_migrate` to the role that deploys. IAM authentication has to be
-- switched on for the instance or cluster. User names are case-sensitive, here, in the ARN and in the configuration:
-- with `Darkroom_App` in one of the three the login is refused, and the message doesn't say why.
--
-- REQUIRE SSL, because a token goes to the server as it is: without TLS it could be read on the way.
--
-- Passwords instead, also on a server that isn't RDS: replace the line of the plugin by
--     IDENTIFIED BY 'a long random word' REQUIRE SSL;
--
-- RDS for MariaDB (10.6 and up) has the same plugin, and takes this file as it is.

-- As `darkroom dev` makes it: text is compared byte for byte.
CREATE DATABASE IF NOT EXISTS darkroom CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE USER IF NOT EXISTS 'darkroom_app'@'%'
    IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS' REQUIRE SSL;

-- What `darkroom serve`, `work`, `check`, `jobs` and `migrate --check` need.
GRANT SELECT, INSERT, UPDATE, DELETE ON darkroom.* TO 'darkroom_app'@'%';

CREATE USER IF NOT EXISTS 'darkroom_migrate'@'%'
    IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS' REQUIRE SSL;

-- CREATE, SELECT, INSERT, UPDATE: new tables, and the list of migrations that have run (`_sqlx_migrations`). The first
-- release needs no more. DELETE, ALTER, DROP, INDEX: what later migrations do to rows, columns, tables and indexes.
-- Not REFERENCES, because there are no foreign keys; and the lock against two migrations at once (GET_LOCK) needs no
-- privilege.
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON darkroom.* TO 'darkroom_migrate'@'%';
