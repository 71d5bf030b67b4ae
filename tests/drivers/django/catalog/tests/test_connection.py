"""What an application may believe about its connection."""

import threading
import time

from django.db import close_old_connections, connection, connections, transaction
from django.test import TransactionTestCase, override_settings

from catalog.models import Author, Tag


def soon(condition, patience=2.0):
    """Whether it becomes true. For what one connection wrote and *another* reads: that one may be
    served by a replica a moment behind, as long as pgweir promises each client only its own writes.
    """
    until = time.monotonic() + patience
    while not (answer := condition()) and time.monotonic() < until:
        time.sleep(0.005)
    return answer


def ask(sql, *values):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()[0]


class ConnectionState(TransactionTestCase):
    def test_time_zone_is_what_the_settings_say(self):
        for _ in range(10):
            self.assertEqual(ask("SELECT current_setting('TimeZone')"), "UTC")

    def test_time_zone_follows_the_settings(self):
        connection.close()
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            connection.close()
            self.assertEqual(ask("SHOW timezone"), "Asia/Tokyo")
        connection.close()

    def test_isolation_level_of_the_options(self):
        from django.db.backends.postgresql.psycopg_any import IsolationLevel

        own = connections.create_connection("default")
        own.settings_dict = {**connection.settings_dict, "OPTIONS": {"isolation_level": IsolationLevel.SERIALIZABLE}}
        try:
            with own.cursor() as cursor:
                cursor.execute("SHOW default_transaction_isolation")
                level = cursor.fetchone()[0]
                cursor.execute("SELECT 1")
            # psycopg keeps the level itself and says it at each BEGIN, or sets the session's.
            self.assertIn(level, ("serializable", "read committed"))
        finally:
            own.close()

    def test_the_primary_is_what_is_seen(self):
        self.assertIs(ask("SELECT pg_is_in_recovery()"), False)
        self.assertEqual(ask("SHOW transaction_read_only"), "off")

    def test_reconnecting(self):
        for n in range(20):
            connection.close()
            Tag.objects.create(word=f"tag-{n}")
            connection.close()
            self.assertTrue(soon(Tag.objects.filter(word=f"tag-{n}").exists))

    def test_introspection(self):
        with connection.cursor() as cursor:
            tables = connection.introspection.table_names(cursor)
            columns = {c.name for c in connection.introspection.get_table_description(cursor, "catalog_book")}
            constraints = connection.introspection.get_constraints(cursor, "catalog_book")
        self.assertIn("shop_order", tables)
        self.assertIn("details", columns)
        self.assertIn("book_price", constraints)

    def test_ddl_is_seen_at_once(self):
        with connection.schema_editor() as editor:
            editor.execute("CREATE TABLE made_now (x int)")
        try:
            self.assertEqual(ask("SELECT count(*) FROM made_now"), 0)
            self.assertIn("made_now", connection.introspection.table_names())
        finally:
            with connection.schema_editor() as editor:
                editor.execute("DROP TABLE made_now")

    def test_sequences(self):
        first = Tag.objects.create(word="one").pk
        self.assertEqual(Tag.objects.create(word="two").pk, first + 1)

    def test_row_locks_make_others_wait(self):
        author = Author.objects.create(name="0")

        def increment():
            try:
                for _ in range(10):
                    with transaction.atomic():
                        row = Author.objects.select_for_update().get(pk=author.pk)
                        row.name = str(int(row.name) + 1)
                        row.save()
            finally:
                connection.close()

        threads = [threading.Thread(target=increment) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(Author.objects.get(pk=author.pk).name, "40")

    def test_skip_locked(self):
        Author.objects.bulk_create(Author(name=f"{n}") for n in range(2))
        taken = []

        def take():
            try:
                with transaction.atomic():
                    taken.append(Author.objects.select_for_update(skip_locked=True).order_by("pk").first().name)
            finally:
                connection.close()

        with transaction.atomic():
            Author.objects.select_for_update().order_by("pk").first()
            thread = threading.Thread(target=take)
            thread.start()
            thread.join()
        self.assertEqual(taken, ["1"])

    def test_other_threads_see_what_was_committed(self):
        seen = []

        def look(word):
            try:
                seen.append(soon(Tag.objects.filter(word=word).exists))
            finally:
                close_old_connections()
                connection.close()

        for n in range(10):
            Tag.objects.create(word=f"tag-{n}")
            thread = threading.Thread(target=look, args=(f"tag-{n}",))
            thread.start()
            thread.join()
        self.assertEqual(seen, [True] * 10)
