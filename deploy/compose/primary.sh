#!/usr/bin/env bash
# Runs once, when the primary's data directory is new: the application's role, and one for the
# replicas that may replicate from anywhere in the compose network.
set -euo pipefail
psql -v ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB" \
    -v app="$APP_PASSWORD" -v replicator="$REPLICATION_PASSWORD" -v database="$POSTGRES_DB" <<'SQL'
CREATE ROLE app LOGIN CREATEDB PASSWORD :'app';
-- Probes see at once which replicas follow a new primary (docs/failover.md).
GRANT pg_monitor TO app;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replicator';
ALTER DATABASE :"database" OWNER TO app;
CREATE EXTENSION pg_stat_statements;
SQL
echo "host replication replicator all scram-sha-256" >>"$PGDATA/pg_hba.conf"
