"""The top of the page: which build to take, with its reasons; what each is good for, and what speaks against it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from harness.report.choice import RULE, Choice, Option, Point, choice, headline
from harness.report.markup import Html, badge, claim_id, link, said
from harness.report.view import RunView

__all__ = ["decision"]

_RISKS = 4  # shown at once per build


def decision(run: RunView) -> Html:
    """The recommendation and a card per build; empty where the run compares none."""
    taken = choice(run)
    if taken is None:
        return Html("")
    groups = "".join(_group(name, options, taken) for name, options in taken.groups)
    return Html(f'{_recommended(taken)}<p class="small muted">{escape(RULE)}</p>{groups}')


def _recommended(taken: Choice) -> str:
    name = said(taken.pick.build.name, 80) if taken.pick else "none"
    mood = "good" if taken.pick else "open"
    return f'<div class="advice {mood}"><p class="pick">Recommended: <strong>{name}</strong></p>{_points(taken.why)}</div>'


def _group(reference: str, options: Sequence[Option], taken: Choice) -> str:
    engine = options[0].build.engine
    where = f" in {said(engine, 40)}" if engine else ""
    title = f"Compared with {said(reference, 80)}{where}" if reference else "Compared with nothing that is named"
    first = taken.firsts.get(reference)
    title += f': <span class="small">first choice here {said(first.build.name, 80)}</span>' if first and len(taken.groups) > 1 else ""
    return f'<h3>{title}</h3><div class="cards">{"".join(_card(o, o is taken.pick) for o in options)}</div>'


def _card(option: Option, picked: bool) -> str:
    verdict = badge(option.outcome) if option.outcome else '<span class="badge">– no release verdict</span>'
    star = ' <span class="small">★ recommended</span>' if picked else ""
    none = "nothing yet: its guardrails do not all hold" if not option.sound else "nothing that is shown to be better than the others"
    shown, more = option.risks[:_RISKS], option.risks[_RISKS:]
    rest = f"<details><summary>{len(more)} more</summary>{_points(more)}</details>" if more else ""
    return (
        f'<div class="card{" picked" if picked else ""}"><p class="name"><strong>{said(option.build.name, 80)}</strong> {verdict}{star}</p>'
        f'<p class="small muted">{said(headline(option.build), 200)}</p>'
        f"<h4>Best fit</h4>{_points(option.fits) or f'<p>{none}</p>'}"
        f"<h4>Risks</h4>{_points(shown) or '<p>none among its claims</p>'}{rest}</div>"
    )


def _points(points: Sequence[Point]) -> str:
    items = "".join(f"<li>{said(p.text, 400)}{_to(p)}</li>" for p in points)
    return f"<ul>{items}</ul>" if items else ""


def _to(point: Point) -> str:
    return f' <span class="small">{link(point.claim, claim_id(point.claim))}</span>' if point.claim else ""
