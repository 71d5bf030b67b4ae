#!/bin/sh
# The example application: makes its tables, fills them once, serves.
set -eu
python manage.py migrate --noinput
python manage.py seed
exec python -m bookshop.serve
