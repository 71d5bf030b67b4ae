#!/usr/bin/env bash
# Entry point of a replica: the first time it copies the primary, then it streams from it.
# PRIMARY_HOST and REPLICATION_PASSWORD say from where; the arguments go to postgres.
set -euo pipefail
export PGPASSWORD="$REPLICATION_PASSWORD"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    # A copy that was interrupted is of no use: begin anew.
    until find "$PGDATA" -mindepth 1 -delete &&
        pg_basebackup --host="$PRIMARY_HOST" --username=replicator --pgdata="$PGDATA" \
            --write-recovery-conf --wal-method=stream --checkpoint=fast; do
        echo "the primary is not ready for a copy yet" >&2
        sleep 1
    done
    chmod 700 "$PGDATA"
fi
exec postgres "$@"
