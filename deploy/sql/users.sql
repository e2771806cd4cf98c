-- Creates the database of Darkroom and its two users. A DBA runs this once, as the master user, on RDS for MySQL 8 or Aurora
-- MySQL 3, before the first `darkroom migrate`:
--
--     mysql --host=WRITER_ENDPOINT --user=admin --password --ssl-mode=VERIFY_IDENTITY \
--         --ssl-ca=deploy/rds-ca/global-bundle.pem <deploy/sql/users.sql
--
-- It can be run again: existing objects are unchanged, including users with another authentication method.
--
-- Two users, because internet-facing processes must not be able to drop tables. `darkroom migrate` runs as
-- `darkroom_migrate` in a deployment; everything else runs as `darkroom_app`.
--
-- IAM database authentication: the users have no password. The server accepts a token for the user name, valid for 15
-- minutes, if IAM allows `rds-db:connect` on
--
--     arn:aws:rds-db:REGION:ACCOUNT:dbuser:RESOURCE/darkroom_app
--
-- RESOURCE is `db-ABC...` (the DbiResourceId) of an RDS instance, `cluster-ABC...` (the DbClusterResourceId) of an
-- Aurora cluster, or `prx-ABC...` of an RDS Proxy. Allow `darkroom_app` for the service's role and `darkroom_migrate` for the
-- role that deploys. Enable IAM authentication for the instance or cluster. User names are case-sensitive here, in the ARN
-- and in the configuration: a mismatch causes a login error without a reason.
--
-- REQUIRE SSL, because tokens are sent in clear text inside the connection.
--
-- For passwords, also on servers other than RDS, replace the plugin line with
--     IDENTIFIED BY 'a long random word' REQUIRE SSL;
--
-- RDS for MariaDB (10.6 or later) has the same plugin and accepts this file.

-- Binary collation: text is compared byte for byte.
CREATE DATABASE IF NOT EXISTS darkroom CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE USER IF NOT EXISTS 'darkroom_app'@'%'
    IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS' REQUIRE SSL;

-- For `darkroom serve`, `worker`, `check`, `jobs` and `migrate --check`.
GRANT SELECT, INSERT, UPDATE, DELETE ON darkroom.* TO 'darkroom_app'@'%';

CREATE USER IF NOT EXISTS 'darkroom_migrate'@'%'
    IDENTIFIED WITH AWSAuthenticationPlugin AS 'RDS' REQUIRE SSL;

-- CREATE, SELECT, INSERT, UPDATE: new tables and the list of applied migrations (`_sqlx_migrations`). DELETE, ALTER, DROP,
-- INDEX: changes by later migrations. REFERENCES is not needed, because there are no foreign keys. The lock against
-- concurrent migrations (GET_LOCK) needs no privilege.
GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX ON darkroom.* TO 'darkroom_migrate'@'%';
