"""Foreign keys of which the tenant is part: Django makes none for a ForeignObject."""

from django.db import migrations

KEYS = (
    ("desk_ticket", "project_id", "desk_project"),
    ("desk_comment", "ticket_id", "desk_ticket"),
    ("desk_labelling", "ticket_id", "desk_ticket"),
    ("desk_labelling", "label_id", "desk_label"),
)


def operation(table, column, other):
    return migrations.RunSQL(
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_{column} FOREIGN KEY (tenant_id, {column})"
        f" REFERENCES {other} (tenant_id, id) DEFERRABLE INITIALLY DEFERRED",
        f"ALTER TABLE {table} DROP CONSTRAINT {table}_{column}",
    )


class Migration(migrations.Migration):
    dependencies = [("desk", "0001_initial")]
    operations = [operation(*key) for key in KEYS]
