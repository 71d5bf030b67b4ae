"""A tenant's projects, tickets and comments: sharded by tenant_id, co-located."""

from django.db import models
from django.db.models import F

from accounts.models import User
from sharding import TenantManager, TenantModel, current_tenant, tenant_key


class Project(TenantModel):
    name = models.CharField(max_length=60)

    class Meta(TenantModel.Meta):
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="project_name")]
        ordering = ["name"]


class CounterManager(TenantManager):
    def next(self):
        """The next number of the tenant of the moment; the row is locked until the transaction ends."""
        counter, _ = self.get_or_create(tenant_id=current_tenant())
        self.filter(pk=counter.pk).update(last=F("last") + 1)
        counter.refresh_from_db()
        return counter.last


class Counter(models.Model):
    """Numbers without gaps, tenant by tenant: what a sequence cannot give on shards."""

    tenant = models.OneToOneField(
        "accounts.Tenant", on_delete=models.DO_NOTHING, primary_key=True, default=current_tenant, related_name="+"
    )
    last = models.PositiveIntegerField(default=0)

    objects = CounterManager()

    class Meta:
        base_manager_name = "objects"


class Ticket(TenantModel):
    class State(models.TextChoices):
        OPEN = "open"
        CLOSED = "closed"

    number = models.PositiveIntegerField()
    project_id = models.UUIDField()
    project = tenant_key(Project, "project_id", related_name="tickets")
    title = models.CharField(max_length=200)
    state = models.CharField(max_length=6, choices=State, default=State.OPEN)
    votes = models.IntegerField(default=0)
    priority = models.SmallIntegerField(default=3)
    # From a sharded table to one that is everywhere; the other way round no key would be known.
    assignee = models.ForeignKey(User, on_delete=models.DO_NOTHING, null=True, related_name="+", db_index=False)
    changed = models.DateTimeField(auto_now=True)

    class Meta(TenantModel.Meta):
        constraints = [models.UniqueConstraint(fields=["tenant", "number"], name="ticket_number")]
        indexes = [models.Index(fields=["tenant", "project_id"], name="ticket_project")]
        ordering = ["number"]


class Comment(TenantModel):
    ticket_id = models.UUIDField()
    ticket = tenant_key(Ticket, "ticket_id", related_name="comments")
    text = models.TextField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta(TenantModel.Meta):
        indexes = [models.Index(fields=["tenant", "ticket_id"], name="comment_ticket")]
        ordering = ["at", "id"]


class Label(TenantModel):
    name = models.CharField(max_length=30)

    class Meta(TenantModel.Meta):
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="label_name")]
        ordering = ["name"]


class Labelling(TenantModel):
    """Many to many: a model of its own, since ManyToManyField knows no composite primary keys."""

    ticket_id = models.UUIDField()
    ticket = tenant_key(Ticket, "ticket_id", related_name="labellings")
    label_id = models.UUIDField()
    label = tenant_key(Label, "label_id", related_name="labellings")

    class Meta(TenantModel.Meta):
        constraints = [models.UniqueConstraint(fields=["tenant", "ticket_id", "label_id"], name="labelling_once")]
