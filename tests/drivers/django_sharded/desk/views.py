"""A small API: nothing in it knows of shards, and each request is for one tenant."""

import functools
import json

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Prefetch, Q, Sum
from django.http import JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from .models import Comment, Counter, Project, Ticket


def of_the_tenant(view):
    """Only for users of the tenant in the path."""

    @functools.wraps(view)
    def guarded(request, tenant, **arguments):
        if not request.user.is_authenticated or request.user.tenant_id != tenant:
            raise PermissionDenied
        return view(request, **arguments)

    return guarded


def shown(ticket):
    return {
        "id": ticket.id,
        "number": ticket.number,
        "project": ticket.project.name,
        "title": ticket.title,
        "state": ticket.state,
        "assignee": ticket.assignee and ticket.assignee.username,
        "comments": [comment.text for comment in ticket.comments.all()],
    }


@csrf_exempt
@of_the_tenant
def tickets(request):
    if request.method == "POST":
        asked = json.loads(request.body)
        with transaction.atomic():
            project, _ = Project.objects.get_or_create(name=asked["project"])
            made = Ticket.objects.create(
                project=project, title=asked["title"], number=Counter.objects.next(), assignee=request.user
            )
            Comment.objects.bulk_create(Comment(ticket=made, text=text) for text in asked["comments"])
        return JsonResponse(shown(made), status=201)
    rows = Ticket.objects.select_related("project", "assignee").prefetch_related(Prefetch("comments"))
    if words := request.GET.get("q"):
        rows = rows.filter(Q(title__icontains=words) | Q(comments__text__icontains=words)).distinct()
    return JsonResponse({"tickets": [shown(row) for row in rows]})


@of_the_tenant
def ticket(request, ticket):
    return JsonResponse(shown(get_object_or_404(Ticket.objects.select_related("project"), id=ticket)))


@csrf_exempt
@require_POST
@of_the_tenant
def close(request, ticket):
    with transaction.atomic():
        row = get_object_or_404(Ticket.objects.select_for_update(of=("self",)), id=ticket)
        row.state = Ticket.State.CLOSED
        row.save(update_fields=["state", "changed"])
        row.comments.create(text=f"closed by {request.user.username}")
        # Of an everywhere table, in the same transaction: on all shards.
        request.session["closed"] = request.session.get("closed", 0) + 1
        request.session.save()
    return JsonResponse({"state": row.state, "closed": request.session["closed"]})


@of_the_tenant
def report(request):
    projects = Project.objects.annotate(
        tickets_open=Count("tickets", filter=Q(tickets__state=Ticket.State.OPEN)), votes=Sum("tickets__votes")
    )
    rows = projects.values_list("name", "tickets_open", "votes")
    return JsonResponse({"projects": list(rows), "comments": Comment.objects.count()})
