"""On PYTHONPATH, this hides psycopg 3, and Django takes psycopg2 instead."""

raise ImportError("psycopg 3 is hidden: this run is about psycopg2")
