import desk.models
import django.db.models.deletion
import sharding
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('accounts', '0002_countries'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Counter',
            fields=[
                ('tenant', models.OneToOneField(default=sharding.current_tenant, on_delete=django.db.models.deletion.DO_NOTHING, primary_key=True, related_name='+', serialize=False, to='accounts.tenant')),
                ('last', models.PositiveIntegerField(default=0)),
            ],
            options={
                'base_manager_name': 'objects',
            },
            managers=[
                ('objects', desk.models.CounterManager()),
            ],
        ),
        migrations.CreateModel(
            name='Label',
            fields=[
                ('pk', models.CompositePrimaryKey('tenant_id', 'id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('id', models.UUIDField(default=uuid.uuid4, editable=False)),
                ('name', models.CharField(max_length=30)),
                ('tenant', models.ForeignKey(db_index=False, default=sharding.current_tenant, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ['name'],
                'abstract': False,
                'base_manager_name': 'objects',
            },
            managers=[
                ('objects', sharding.TenantManager()),
            ],
        ),
        migrations.CreateModel(
            name='Project',
            fields=[
                ('pk', models.CompositePrimaryKey('tenant_id', 'id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('id', models.UUIDField(default=uuid.uuid4, editable=False)),
                ('name', models.CharField(max_length=60)),
                ('tenant', models.ForeignKey(db_index=False, default=sharding.current_tenant, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ['name'],
                'abstract': False,
                'base_manager_name': 'objects',
            },
            managers=[
                ('objects', sharding.TenantManager()),
            ],
        ),
        migrations.CreateModel(
            name='Ticket',
            fields=[
                ('pk', models.CompositePrimaryKey('tenant_id', 'id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('id', models.UUIDField(default=uuid.uuid4, editable=False)),
                ('number', models.PositiveIntegerField()),
                ('project_id', models.UUIDField()),
                ('title', models.CharField(max_length=200)),
                ('state', models.CharField(choices=[('open', 'Open'), ('closed', 'Closed')], default='open', max_length=6)),
                ('votes', models.IntegerField(default=0)),
                ('changed', models.DateTimeField(auto_now=True)),
                ('assignee', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to=settings.AUTH_USER_MODEL)),
                ('project', models.ForeignObject(from_fields=('project_id', 'tenant_id'), on_delete=django.db.models.deletion.CASCADE, related_name='tickets', to='desk.project', to_fields=('id', 'tenant_id'))),
                ('tenant', models.ForeignKey(db_index=False, default=sharding.current_tenant, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ['number'],
                'abstract': False,
                'base_manager_name': 'objects',
            },
            managers=[
                ('objects', sharding.TenantManager()),
            ],
        ),
        migrations.CreateModel(
            name='Labelling',
            fields=[
                ('pk', models.CompositePrimaryKey('tenant_id', 'id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('id', models.UUIDField(default=uuid.uuid4, editable=False)),
                ('ticket_id', models.UUIDField()),
                ('label_id', models.UUIDField()),
                ('label', models.ForeignObject(from_fields=('label_id', 'tenant_id'), on_delete=django.db.models.deletion.CASCADE, related_name='labellings', to='desk.label', to_fields=('id', 'tenant_id'))),
                ('tenant', models.ForeignKey(db_index=False, default=sharding.current_tenant, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.tenant')),
                ('ticket', models.ForeignObject(from_fields=('ticket_id', 'tenant_id'), on_delete=django.db.models.deletion.CASCADE, related_name='labellings', to='desk.ticket', to_fields=('id', 'tenant_id'))),
            ],
            options={
                'abstract': False,
                'base_manager_name': 'objects',
            },
            managers=[
                ('objects', sharding.TenantManager()),
            ],
        ),
        migrations.CreateModel(
            name='Comment',
            fields=[
                ('pk', models.CompositePrimaryKey('tenant_id', 'id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('id', models.UUIDField(default=uuid.uuid4, editable=False)),
                ('ticket_id', models.UUIDField()),
                ('text', models.TextField()),
                ('at', models.DateTimeField(auto_now_add=True)),
                ('tenant', models.ForeignKey(db_index=False, default=sharding.current_tenant, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='accounts.tenant')),
                ('ticket', models.ForeignObject(from_fields=('ticket_id', 'tenant_id'), on_delete=django.db.models.deletion.CASCADE, related_name='comments', to='desk.ticket', to_fields=('id', 'tenant_id'))),
            ],
            options={
                'ordering': ['at', 'id'],
                'abstract': False,
                'base_manager_name': 'objects',
            },
            managers=[
                ('objects', sharding.TenantManager()),
            ],
        ),
        migrations.AddConstraint(
            model_name='label',
            constraint=models.UniqueConstraint(fields=('tenant', 'name'), name='label_name'),
        ),
        migrations.AddConstraint(
            model_name='project',
            constraint=models.UniqueConstraint(fields=('tenant', 'name'), name='project_name'),
        ),
        migrations.AddIndex(
            model_name='ticket',
            index=models.Index(fields=['tenant', 'project_id'], name='ticket_project'),
        ),
        migrations.AddConstraint(
            model_name='ticket',
            constraint=models.UniqueConstraint(fields=('tenant', 'number'), name='ticket_number'),
        ),
        migrations.AddConstraint(
            model_name='labelling',
            constraint=models.UniqueConstraint(fields=('tenant', 'ticket_id', 'label_id'), name='labelling_once'),
        ),
        migrations.AddIndex(
            model_name='comment',
            index=models.Index(fields=['tenant', 'ticket_id'], name='comment_ticket'),
        ),
    ]
